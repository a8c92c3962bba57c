"""The intervals of rows, read back from block lists, against the dense mask."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskc import Dense, compile_mask, compile_request, strategies
from maskc_cache import row_ends
from maskc_cache.row_ends import most_intervals, read_bounds


def dense(plan, direction):
    """Bool [masks, rows, columns]."""
    heads = [plan.head_mask.tolist().index(mask) for mask in range(plan.masks)]
    masks = np.stack([plan.to_dense(head, direction) for head in heads])
    return masks.swapaxes(1, 2) if direction == "dkv" else masks


def intervals(row):
    """(start, stop) of each run of True."""
    out, start = [], None
    for at, value in enumerate([*row, False]):
        if value and start is None:
            start = at
        elif not value and start is not None:
            out.append((start, at))
            start = None
    return out


@given(strategies.requests(max_length=40), st.sampled_from([1, 40, 1 << 18]))
def test_rows_come_back_from_every_direction(request, piece):
    plan = compile_request(request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_ends, "_PIECE", piece)
        for direction in ("fwd", "dq", "dkv"):
            rows = [[intervals(row) for row in mask] for mask in dense(plan, direction)]
            most = max(len(row) for mask in rows for row in mask)
            assert most_intervals(plan, direction) == most
            expected = np.zeros((plan.masks, 2 * max(most, 1), len(rows[0])), np.int32)
            for mask, row in np.ndindex(plan.masks, len(rows[0])):
                ends = np.ravel(rows[mask][row])
                expected[mask, : len(ends), row] = ends
            np.testing.assert_array_equal(read_bounds(plan, direction, most), expected)


def test_memory_is_that_of_a_piece():
    """A mask of 8 million intervals, which together would take hundreds of MB."""
    bits = np.random.default_rng(0).random((4096, 4096)) < 0.5
    plan = compile_mask(Dense(bits), q_len=4096, block_q=256, block_kv=256, splash=False)
    tracemalloc.start()
    most = most_intervals(plan, "dkv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        most == (np.diff(np.pad(bits, ((1, 1), (0, 0))).astype(np.int8), axis=0) == 1).sum(0).max()
    )
    assert peak < 128 << 20
