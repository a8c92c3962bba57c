"""The GPU kernels without a GPU: in the interpreter, or recorded for the compiler."""

import jax
import jax.numpy as jnp
import pytest

NEEDED = "the GPU kernels need pip install 'maskc[gpu]'"


@pytest.fixture(scope="module")
def interpreted():
    """`block_sparse_attention` whose kernels run in Triton's interpreter."""
    pytest.importorskip("triton", reason=NEEDED)
    import triton_interpreter

    from maskc_kernels import gpu
    from maskc_kernels.gpu.launch import using

    with using(triton_interpreter.call):
        yield gpu.block_sparse_attention


@pytest.fixture(scope="session")
def check(oracle, near, draw_inputs):
    """One case in the interpreter, compared with the oracle."""
    pytest.importorskip("triton", reason=NEEDED)
    import gpu_attention

    return gpu_attention.Check(oracle, near, draw_inputs)


@pytest.fixture
def recorded(tables_of):
    """The launches of fwd, dq, dkv and dbias, by name, for an architecture, a plan and shapes."""
    pytest.importorskip("triton", reason=NEEDED)
    from gpu_attention import bounded

    from maskc_kernels.gpu import block_sparse_attention
    from maskc_kernels.gpu.offline import launches

    def record(
        architecture, plan, q, k, v, dtype="bfloat16", bias=None, sinks=None, tables=None, **options
    ):
        tables = tables or bounded(plan, tables_of(plan))

        def attend(q, k, v, bias, sinks):
            return block_sparse_attention(
                q, k, v, jnp.float32(1), tables, bias=bias, sinks=sinks, **options
            )

        def run(*arrays):
            results, pullback = jax.vjp(attend, *arrays)
            return pullback(results)

        shapes = (q, k, v, bias, sinks)
        return launches(architecture, run, *(x and jax.ShapeDtypeStruct(x, dtype) for x in shapes))

    return record
