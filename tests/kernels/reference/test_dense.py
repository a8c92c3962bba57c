import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc_kernels import dense_attention


@pytest.fixture
def case(draw_inputs):
    mask = np.random.default_rng(1).random((4, 7, 9)) < 0.5
    mask[:, 3] = False
    return *draw_inputs(0, 2, 4, 2, 7, 9, 5, 6), mask


def test_output_and_gradients_match_the_oracle(case, oracle, near):
    q, k, v, dout, mask = case
    expected = oracle(q, k, v, mask, 0.3, dout)

    @jax.jit
    def run(q, k, v):
        attend = functools.partial(dense_attention, mask=mask, sm_scale=0.3)
        (out, lse), pullback = jax.vjp(attend, q, k, v)
        return out, lse, pullback((dout, jnp.zeros_like(lse)))

    out, lse, gradients = run(q, k, v)
    near(out, expected.out, 1e-5, "out")
    near(lse, expected.lse, 1e-5, "lse")
    for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
        near(gradient, getattr(expected, name), 1e-5, name)


def test_a_query_that_attends_nothing_gives_zero_and_no_nan(case, jax_option):
    q, k, v, dout, mask = case
    jax_option("jax_debug_nans", True)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(q, k, v):
        out, lse = dense_attention(q, k, v, mask)
        return (out * dout).sum(), (out, lse)

    dq, (out, lse) = run(q, k, v)
    assert not np.asarray(out)[:, :, 3].any()
    assert (np.asarray(lse)[:, :, 3] == -np.inf).all()
    assert not np.asarray(dq)[:, :, 3].any()


def test_one_mask_serves_all_heads_and_the_scale_defaults_to_the_root(case, near):
    q, k, v, _, mask = case
    args = [jnp.asarray(x) for x in (q, k, v)]
    every = dense_attention(*args, jnp.asarray(np.repeat(mask[:1], 4, 0)), sm_scale=5**-0.5)
    one = dense_attention(*args, jnp.asarray(mask[:1]))
    near(one[0], np.asarray(every[0]), 1e-7)


def test_half_precision_is_computed_in_float32(case, oracle, near):
    q, k, v, _, mask = case
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out, lse = dense_attention(*half, mask, sm_scale=0.3)
    expected = oracle(*half, mask, 0.3)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    near(lse, expected.lse, 1e-5)
    near(out, expected.out, 2**-8)
