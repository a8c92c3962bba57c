"""Runs of blocks: their columns and their lists, against grids of block numbers."""

import numpy as np
import pytest
from banded_blocks import banded, runs_of
from dense_blocks import EMPTY, FULL, numbers_of
from hypothesis import given
from hypothesis import strategies as st

from maskc.block_runs import MaskBlocks, lists_of, part_of, turned
from maskc.blocking import BlockGrid
from maskc.emit import SplashLayout, splash_tables

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
    bits = np.zeros((max(grid.max() + 1, 0), 1, 1), np.uint8)
    return MaskBlocks.of_rows(*runs_of(grid.reshape(-1, grid.shape[2])), bits, len(grid))


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


def assert_lists(blocks, grid):
    columns = grid.shape[2]
    lists, grid = lists_of(blocks, columns, 1, 1), grid.reshape(-1, columns)
    for name, chosen in (("full", grid == FULL), ("partial", grid >= 0)):
        ptr = np.append(0, chosen.sum(axis=1).cumsum())
        np.testing.assert_array_equal(getattr(lists, f"{name}_ptr"), ptr)
        np.testing.assert_array_equal(getattr(lists, f"{name}_idx"), np.nonzero(chosen)[1])
    np.testing.assert_array_equal(lists.partial_id, grid[grid >= 0])


@given(grids())
def test_lists_are_those_of_the_grid(grid):
    assert_lists(runs(grid), grid)


# --- bands --------------------------------------------------------------------------------------


@given(banded())
def test_bands_are_the_rows_that_they_repeat(case):
    blocks, grid = case
    columns = grid.shape[2]
    np.testing.assert_array_equal(numbers_of(blocks, columns), grid.reshape(-1, columns))
    covered, (last,) = (grid != EMPTY).sum(axis=2), np.nonzero((grid != EMPTY).any(axis=(0, 1)))
    full, partial = (grid == FULL).sum(), (grid >= 0).sum()
    assert blocks.sizes == (full, partial, max(covered.max(), 1), max([0, *last]))


@given(banded(), st.data())
def test_columns_of_bands_are_those_of_their_rows(case, data):
    blocks, grid = case
    masks, height, columns = grid.shape
    np.testing.assert_array_equal(
        numbers_of(turned(blocks, masks, columns), height),
        grid.swapaxes(1, 2).reshape(-1, height),
    )
    first = data.draw(st.integers(0, height - 1))
    last = data.draw(st.integers(first + 1, height))
    np.testing.assert_array_equal(
        numbers_of(part_of(blocks, masks, first, last), columns),
        grid[:, first:last].reshape(-1, columns),
    )


@given(banded())
def test_lists_of_bands_are_those_of_their_rows(case):
    assert_lists(*case)


def test_columns_with_far_more_runs_than_rows_have():
    """Every other row full: a run per row, and a run per row in every column."""
    ptr = np.cumsum([0] + [1, 0] * 20)
    runs = np.tile(np.array([0, 30, FULL], np.int32), (20, 1))
    rows = MaskBlocks.of_rows(ptr, runs, np.empty((0, 8, 1), np.uint8))
    columns = turned(rows, 1, 30)
    full, _, _, _ = columns.sizes
    assert full == 20 * 30
    ptr, runs = columns.rows
    np.testing.assert_array_equal(np.diff(ptr), 20)
    np.testing.assert_array_equal(runs[:20, 0], np.arange(0, 40, 2))


def test_columns_of_a_long_band_are_a_band():
    rows = np.full((1, 200), EMPTY)
    rows[0, :3] = 0, FULL, 1
    bands = np.array([(0, 0, 1, 197, 1, 0)])
    columns = turned(MaskBlocks(bands, *runs_of(rows), np.zeros((2, 1, 1), np.uint8)), 1, 200)
    assert columns.bands[:, :5].tolist() == [
        [0, 0, 2, 1, 0],
        [2, 2, 1, 195, 1],
        [197, 3, 3, 1, 0],
    ]
    assert not columns.bands[:, 5].any()
    assert len(columns.runs) == 1 + 2 + 3 + 2 + 1


@given(banded(), st.data())
def test_tables_of_bands_are_those_of_their_rows(case, data):
    blocks, grid = case
    masks, height, _ = grid.shape
    shards = data.draw(st.sampled_from([n for n in (1, 2, 3) if height % n == 0]))
    heads = data.draw(st.lists(st.integers(0, masks - 1), min_size=2, max_size=4))
    heads = [0] * len(heads) if masks == 1 else [*range(masks), *heads]
    layout = SplashLayout(
        head_shards=data.draw(st.sampled_from([1, len(heads)])),
        q_seq_shards=shards,
        shrink_grid=data.draw(st.booleans()),
        downcast_smem_data=data.draw(st.booleans()),
        prefetch=data.draw(st.sampled_from(["jax", "keep"])),
    )
    assert_tables(blocks, grid, heads, layout)


def test_padding_before_a_run_that_stands_still_does_not_move():
    rows = np.full((2, 20), EMPTY)
    rows[0, :8], rows[1, [0, 2]] = FULL, (0, FULL)
    bands = np.array([(0, 0, 1, 1, 0, 0), (1, 1, 1, 10, 1, 1)])
    blocks = MaskBlocks(bands, *runs_of(rows), np.zeros((1, 1, 1), np.uint8))
    grid = numbers_of(blocks, 20)[None]
    assert_tables(blocks, grid, [0, 0], SplashLayout(prefetch="keep"))


@pytest.mark.parametrize("prefetch", ["jax", "keep"])
@pytest.mark.parametrize("shrink_grid", [True, False])
@pytest.mark.parametrize(
    ("pattern", "step", "still"),
    [
        ([[0, EMPTY, EMPTY], [FULL, 0, EMPTY], [FULL, FULL, 0]], 3, 0),  # chunks
        ([[0, FULL, FULL, 1]], 1, 0),  # a window
        ([[FULL, 0]], 3, 0),  # columns that no row has
        ([[FULL, FULL]], 1, 0),
        ([[0, EMPTY, 1, FULL, 1]], 1, 1),  # sinks
        ([[FULL, FULL, 0, EMPTY, FULL]], 2, 2),
    ],
)
def test_tables_of_long_bands(pattern, step, still, shrink_grid, prefetch):
    """Something before the band and something after it."""
    period, width = np.shape(pattern)
    rows = np.full((period + 3, 70), EMPTY)
    rows[0, :2] = FULL, 1
    rows[1 : period + 1, 2 : width + 2] = pattern
    rows[period + 1 :, 69] = 0, FULL
    bands = [
        (0, 0, 1, 1, 0, 0),
        (1, 1, period, 20, step, still),
        (1 + 20 * period, 1 + period, 2, 1, 0, 0),
    ]
    blocks = MaskBlocks(np.array(bands), *runs_of(rows), np.zeros((2, 1, 1), np.uint8))
    grid = numbers_of(blocks, 70)[None]
    assert (turned(blocks, 1, 70).bands[:, 3] > 2).any()
    layout = SplashLayout(shrink_grid=shrink_grid, prefetch=prefetch)
    assert_tables(blocks, grid, [0], layout)


def assert_tables(blocks, grid, heads, layout):
    """Tables of bands must be those of their rows, which are held against JAX elsewhere."""
    masks, height, columns = grid.shape
    size = BlockGrid(height, columns, 1, 1)
    rows = MaskBlocks.of_rows(*blocks.rows, blocks.bits, masks)
    for direction in ("fwd", "dkv"):
        ours, theirs = (
            splash_tables(
                some, turned(some, masks, columns), size, np.array(heads), layout, direction
            )
            for some in (blocks, rows)
        )
        for name in ("data_next", "mask_next", "block_mask"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b, err_msg=f"{direction} {name}")
