"""The repairs of Triton's interpreter: each is needed, and each works."""

import jax.numpy as jnp
import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="the GPU kernels need maskc[gpu]")

import triton.language as tl  # noqa: E402
import triton_interpreter  # noqa: E402

from maskc_kernels.gpu.tiles import load_tile  # noqa: E402


@triton.jit
def product_kernel(a, b, out, size: tl.constexpr):
    at = tl.arange(0, size)
    x = load_tile(a, 0, size, size, size, size, False)
    y = load_tile(b, 0, size, size, size, size, False)
    total = tl.dot(x, y)
    tl.store(out + at[:, None] * size + at[None, :], total.to(out.dtype.element_ty))


@triton.jit
def copy_kernel(a, out, stop: tl.constexpr, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(out + at, tl.load(a + at, mask=at < stop, other=7.0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_products_are_exact_and_results_round_to_nearest(dtype):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-99, 99, (16, 16)).astype(jnp.dtype(dtype)) for _ in range(2))
    out = np.zeros((16, 16), jnp.dtype(dtype))
    triton_interpreter.interpret(product_kernel, (a, b, out), (1,), {"size": 16})
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_array_equal(out, exact.astype(np.float32).astype(out.dtype))


def test_what_is_outside_of_every_operand_is_not_touched():
    a, out = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    inside = {"stop": 5, "size": 8}
    triton_interpreter.interpret(copy_kernel, (a, out), (1,), inside)
    assert out.tolist() == [0, 1, 2, 3, 4, 7, 7, 7]
    for short in ((a[:4].copy(), out), (a, out[:7].copy())):
        with pytest.raises(Exception, match="outside of every operand"):
            triton_interpreter.interpret(copy_kernel, short, (1,), inside)


def test_nothing_of_the_interpreter_stays_behind():
    before = {name: getattr(tl, name) for name in ("load", "dot", "arange", "tensor")}
    operators = dict(vars(tl.tensor))
    a, out = np.ones((16, 16), np.float32), np.zeros((16, 16), np.float32)
    triton_interpreter.interpret(product_kernel, (a, a, out), (1,), {"size": 16})
    assert all(getattr(tl, name) is value for name, value in before.items())
    assert dict(vars(tl.tensor)) == operators
