"""The GPU kernels without a GPU: in the interpreter, or recorded for the compiler."""

import jax
import jax.numpy as jnp
import pytest

NEEDED = "the GPU kernels need pip install 'maskc[gpu]' on Python >= 3.12"


@pytest.fixture(scope="session")
def interpreted():
    """`block_sparse_attention` whose kernels run in Triton's interpreter."""
    pytest.importorskip("jax_triton", reason=NEEDED)
    import triton_interpreter

    from maskc_kernels.gpu import attention, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "call", triton_interpreter.call)
        yield attention.block_sparse_attention


@pytest.fixture
def recorded(monkeypatch, tables_of):
    """The launches of forward, dq and dkv for a plan and shapes, on a chosen architecture."""
    pytest.importorskip("jax_triton", reason=NEEDED)
    from maskc_kernels.gpu import attention, passes

    def record(architecture, plan, q, k, v, dtype="bfloat16", **options):
        launches = []

        def take(what):
            launches.append(what)
            return tuple(jnp.zeros(x.shape, x.dtype) for x in what.out_type)

        monkeypatch.setattr(attention, "launch", take)
        monkeypatch.setattr(passes, "architecture", lambda: architecture)

        def run(q, k, v):
            def attend(q, k, v):
                scale = jnp.float32(1)
                return attention.block_sparse_attention(q, k, v, scale, tables_of(plan), **options)

            results, pullback = jax.vjp(attend, q, k, v)
            return pullback(results)

        jax.eval_shape(run, *(jax.ShapeDtypeStruct(shape, dtype) for shape in (q, k, v)))
        return launches

    return record
