import jax.numpy as jnp
import numpy as np
import pytest

from maskc_kernels.tpu.bounds import row_bounds

HEADS = jnp.array([1, 0, 1], jnp.int32)


@pytest.mark.parametrize("bounds", [None, np.ones((2, 4, 300), np.int32)])
def test_no_bounds_and_two_intervals_are_left_to_the_bits(bounds):
    assert row_bounds(bounds, HEADS, 128) is None


def test_rows_that_fill_up_a_block_attend_nothing():
    bounds = np.broadcast_to(np.array([[7], [9]], np.int32), (1, 2, 300))
    start, length = row_bounds(bounds, HEADS, 128).spans[0]
    assert start.shape == length.shape == (384,)
    assert (start[:300] == 7).all()
    assert (length[:300] == 2).all()
    assert not length[300:].any()


def test_every_head_gets_the_bounds_of_its_mask():
    bounds = np.random.default_rng(0).integers(0, 256, (2, 2, 256), np.int32)
    spans = row_bounds(bounds, HEADS, 128).spans
    start, stop = bounds[[1, 0, 1]].swapaxes(0, 1)
    np.testing.assert_array_equal(spans, np.stack([start, stop - start], 1))
