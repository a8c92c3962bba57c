import jax.numpy as jnp
import numpy as np
import pytest

from maskc_kernels.tpu.bounds import row_bounds

HEADS = jnp.array([1, 0, 1], jnp.int32)


@pytest.mark.parametrize("bounds", [None, np.ones((2, 4, 300), np.int32)])
def test_no_bounds_and_two_intervals_are_left_to_the_bits(bounds):
    assert row_bounds(bounds, HEADS, 128) is None


def test_rows_that_fill_up_a_block_attend_nothing():
    ends = row_bounds(np.full((1, 2, 300), 7, np.int32), HEADS, 128).ends
    assert ends.shape == (1, 2, 384)
    assert (ends[..., :300] == 7).all()
    assert not ends[..., 300:].any()


def test_every_head_gets_the_bounds_of_its_mask():
    bounds = np.arange(2 * 2 * 256, dtype=np.int32).reshape(2, 2, 256)
    ends = row_bounds(bounds, HEADS, 128).ends
    np.testing.assert_array_equal(ends, bounds[[1, 0, 1]])
