"""Runs of blocks: their columns and their lists, against grids of block numbers."""

import numpy as np
import pytest
from dense_blocks import EMPTY, FULL, numbers_of
from hypothesis import given
from hypothesis import strategies as st

from maskc.block_runs import MaskBlocks, lists_of, part_of, turned

pytestmark = pytest.mark.usefixtures("loops")


@st.composite
def grids(draw):
    """Numbers [masks, rows, columns] with runs along rows and down columns."""
    shape = tuple(draw(st.integers(1, most)) for most in (3, 6, 8))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grid = random.integers(EMPTY, draw(st.integers(FULL, 3)) + 1, shape)
    for axis in (1, 2):
        repeat = random.integers(1, 4, shape[axis])
        grid = np.repeat(grid, repeat, axis)
    return grid


def runs(grid):
    """The runs of numbers [masks, rows, columns]."""
    ptr, out = [0], []
    for row in grid.reshape(-1, grid.shape[2]).tolist():
        start = 0
        for column in range(1, len(row) + 1):
            if column == len(row) or row[column] != row[start]:
                if row[start] != EMPTY:
                    out.append((start, column, row[start]))
                start = column
        ptr.append(len(out))
    bits = np.zeros((max(grid.max() + 1, 0), 1, 1), np.uint8)
    out = np.array(out, np.int32).reshape(-1, 3)
    return MaskBlocks.of_rows(np.array(ptr), out, bits, len(grid))


@given(grids(), st.data())
def test_columns_are_those_of_the_grid(grid, data):
    masks, height, columns = grid.shape
    first = data.draw(st.integers(0, height - 1))
    last = data.draw(st.integers(first + 1, height))
    blocks = runs(grid)
    np.testing.assert_array_equal(
        numbers_of(turned(blocks, masks, columns), height),
        grid.swapaxes(1, 2).reshape(-1, height),
    )
    np.testing.assert_array_equal(
        numbers_of(turned(part_of(blocks, masks, first, last), masks, columns), last - first),
        grid[:, first:last].swapaxes(1, 2).reshape(-1, last - first),
    )


@given(grids())
def test_lists_are_those_of_the_grid(grid):
    columns = grid.shape[2]
    lists, grid = lists_of(runs(grid), columns, 1, 1), grid.reshape(-1, columns)
    for name, chosen in (("full", grid == FULL), ("partial", grid >= 0)):
        ptr = np.append(0, chosen.sum(axis=1).cumsum())
        np.testing.assert_array_equal(getattr(lists, f"{name}_ptr"), ptr)
        np.testing.assert_array_equal(getattr(lists, f"{name}_idx"), np.nonzero(chosen)[1])
    np.testing.assert_array_equal(lists.partial_id, grid[grid >= 0])
