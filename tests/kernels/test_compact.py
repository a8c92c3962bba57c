import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc_kernels.compact import compacted, row_numbers

ROWS, ENTRIES, COPIES = 4, 12, 2  # fixed, so that all examples share one compilation


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_rows_keep_their_entries_in_order(seed):
    rng = np.random.default_rng(seed)
    ptr = np.sort([0, *rng.integers(0, ENTRIES, ROWS)]).astype(np.int32)  # the last is in no row
    keep, column = rng.random((COPIES, ENTRIES)) < 0.5, rng.integers(0, 99, ENTRIES, np.int8)
    offsets, (kept,) = jax.jit(compacted)(keep, ptr, column)
    assert (kept.dtype, kept.shape) == (np.int8, (COPIES * ENTRIES,))
    for copy in range(COPIES):
        for row in range(ROWS):
            mine = slice(ptr[row], ptr[row + 1])
            start, stop = np.asarray(offsets)[copy * ROWS + row :][:2]
            np.testing.assert_array_equal(kept[start:stop], column[mine][keep[copy, mine]])


def test_every_entry_knows_its_row():
    np.testing.assert_array_equal(row_numbers(np.array([0, 2, 2, 5]), 5), [0, 0, 2, 2, 2])
