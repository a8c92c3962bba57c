"""Masks of positions: their forms beyond JAX's, and how they compare."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskc import compile_mask, splash

SHAPE = (6, 8)


def test_windows_and_chunks_have_more_forms():
    q, kv = np.arange(6)[:, None], np.arange(8)[None, :]
    np.testing.assert_array_equal(splash.LocalMask(SHAPE, 2)[:, :], abs(q - kv) <= 2)
    assert splash.LocalMask(SHAPE, None)[:, :].all()
    shifted = splash.ChunkedCausalMask(SHAPE, 3, offset=1)[:, :]
    np.testing.assert_array_equal(shifted, ((q - 1) // 3 == (kv - 1) // 3) & (q >= kv))


@given(st.integers(1, 9), st.integers(-12, 12), st.permutations(range(-2, 5)))
def test_a_chunk_s_offset_holds_for_any_order_of_queries(chunk, offset, order):
    mask = splash.ChunkedCausalMask((7, 9), chunk, offset=offset)
    mask.q_sequence = np.array(order)
    plan = compile_mask(mask.expression, q_len=7, kv_len=9)
    np.testing.assert_array_equal(plan.to_dense(), mask[:, :])


def test_a_shape_may_be_a_list_and_a_window_too():
    assert splash.CausalMask([6, 8], np.int64(2)) == splash.CausalMask((6, 8), 2)
    one, two = splash.LocalMask([6, 8], [1, 2]), splash.LocalMask((6, 8), (1, 2), 0)
    assert one == two
    assert hash(one) == hash(two)


def test_equal_masks_have_equal_functions():
    """A kernel has the function as a static argument, and traces anew for one that is unequal."""
    for build in (
        lambda: splash.CausalMask(SHAPE, 1),
        lambda: splash.LocalMask(SHAPE, (2, None)) & splash.FullMask(SHAPE),
        lambda: ~splash.ChunkedCausalMask(SHAPE, 3),
    ):
        a, b = build().mask_function, build().mask_function
        assert a == b
        assert hash(a) == hash(b)


def test_a_replaced_function_makes_another_mask():
    mask, other = splash.CausalMask(SHAPE), splash.CausalMask(SHAPE)
    other.mask_function = lambda q, kv: q == kv
    assert mask != other
    assert hash(mask) != hash(other)
