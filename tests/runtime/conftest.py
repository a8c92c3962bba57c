import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal


@pytest.fixture(scope="module", autouse=True)
def _every_test(quick_compilation):
    """Compiles quickly."""


@pytest.fixture(scope="session")
def causal_plan():
    return compile_mask(Causal(), q_len=20, heads=2, block_q=8, block_kv=8)


@pytest.fixture(scope="session")
def draw_qkv():
    def draw(q, k, v=None, dtype=jnp.float32, seed=0):
        rng = np.random.default_rng(seed)
        return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in (q, k, v or k)]

    return draw


@pytest.fixture
def triton_interpreted():
    """The GPU kernels run in Triton's interpreter."""
    pytest.importorskip("triton", reason="the GPU kernels need pip install 'maskc[gpu]'")
    import triton_interpreter

    from maskc_kernels.gpu.launch import using

    with using(triton_interpreter.call):
        yield
