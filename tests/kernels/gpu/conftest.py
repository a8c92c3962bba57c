"""The GPU kernels without a GPU: in the interpreter, or recorded for the compiler."""

import jax
import jax.numpy as jnp
import pytest

NEEDED = "the GPU kernels need pip install 'maskc[gpu]'"


@pytest.fixture(scope="module")
def interpreted():
    """`block_sparse_attention` whose kernels run in Triton's interpreter."""
    pytest.importorskip("jax_triton", reason=NEEDED)
    import triton_interpreter

    from maskc_kernels import gpu
    from maskc_kernels.gpu import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "call", triton_interpreter.call)
        yield gpu.block_sparse_attention


@pytest.fixture
def recorded(monkeypatch, tables_of):
    """The launches of forward, dq, dkv and dbias, by name, on a chosen architecture."""
    pytest.importorskip("jax_triton", reason=NEEDED)
    from maskc_kernels.gpu import block_sparse_attention, gradients, passes

    def record(architecture, plan, q, k, v, dtype="bfloat16", bias=None, sinks=None, **options):
        launches = {}

        def take(what):
            name = what.kernel.fn.__name__.removesuffix("_kernel")
            launches["fwd" if name == "forward" else name] = what
            return tuple(jnp.zeros(x.shape, x.dtype) for x in what.out_type)

        monkeypatch.setattr(gradients, "launch", take)
        monkeypatch.setattr(passes, "architecture", lambda: architecture)

        def run(*arrays):
            def attend(q, k, v, bias, sinks):
                return block_sparse_attention(
                    q, k, v, jnp.float32(1), tables_of(plan), bias=bias, sinks=sinks, **options
                )

            results, pullback = jax.vjp(attend, *arrays)
            return pullback(results)

        shapes = (q, k, v, bias, sinks)
        jax.eval_shape(run, *(x and jax.ShapeDtypeStruct(x, dtype) for x in shapes))
        return launches

    return record
