"""Bits cut out of rows and drawn along diagonals, against bool arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskc.packed import cut, pack, toeplitz, transposed, unpack


@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.lists(st.integers(-90, 90), min_size=1, max_size=4),
)
def test_blocks_are_cut_anywhere(columns, width, starts):
    rows = np.random.default_rng(columns).random((3, columns)) < 0.5
    around = np.pad(rows, ((0, 0), (200, 200)))
    blocks = cut(pack(rows), np.array(starts), width)
    for start, block in zip(starts, blocks, strict=True):
        expected = around[:, 200 + start : 200 + start + 8 * width]
        np.testing.assert_array_equal(unpack(block, 8 * width), expected)


@given(st.integers(1, 20), st.integers(1, 40))
def test_diagonals_are_drawn(block_q, block_kv):
    kept = np.random.default_rng(block_q).random((2, block_q + block_kv - 1)) < 0.5
    q, kv = np.arange(block_q)[:, None], np.arange(block_kv)
    drawn = unpack(toeplitz(kept, block_q, block_kv), block_kv)
    np.testing.assert_array_equal(drawn, kept[:, q - kv + block_kv - 1])


@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (128, 257)])
def test_transposes(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    turned = transposed(mask)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, mask.T)
