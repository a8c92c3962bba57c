"""What blocks of a canonical leaf can hold: interval arithmetic, leaf by leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arrays import FrozenArray, PackedMask
from maskc.expr import (
    Blocks,
    Dense,
    Diagonals,
    Empty,
    Full,
    Mask,
    Random,
    Segments,
    Strided,
)
from maskc.strips import Strips

__all__ = ["Bools", "Bounds", "Grid", "Ints", "extreme", "leaf_bounds"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[Any]
Bounds = tuple[Bools, Bools]
_SLICES = 4096  # of the keys, when blocks are not side by side: bounds what a guess may cost


@dataclass(frozen=True, slots=True)
class Grid:
    """A rectangle of blocks by their first and last positions, clipped to the lengths.

    Attributes:
        q: `(first, last)`, each int64 [rows, 1].
        kv: `(first, last)`, each int64 [1, columns].
    """

    q: tuple[Ints, Ints]
    kv: tuple[Ints, Ints]

    @classmethod
    def of(
        cls, q_starts: Ints, block_q: int, q_len: int, nk: int, block_kv: int, kv_len: int
    ) -> Grid:
        """The blocks that start at `q_starts`, over all `nk` kv blocks."""
        kv_starts = np.arange(nk, dtype=np.int64) * block_kv
        q_last = np.minimum(q_starts + block_q, q_len) - 1
        kv_last = np.minimum(kv_starts + block_kv, kv_len) - 1
        return cls((q_starts[:, None], q_last[:, None]), (kv_starts[None], kv_last[None]))

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, columns)`."""
        return self.q[0].shape[0], self.kv[0].shape[1]


def leaf_bounds(mask: Mask, grid: Grid) -> Bounds:  # one case per leaf
    """`rows.bounds` of a leaf."""
    match mask:
        case Full() | Empty():
            value = np.full(grid.shape, isinstance(mask, Full))
            return value, value
        case Strided() | Diagonals():
            return _diagonal_bounds(mask, grid)
        case Segments():
            return _segment_bounds(mask.q_ids, mask.kv_ids, grid)
        case Dense(mask=dense):
            return _tile_bounds(dense, (1, 1), grid)
        case Blocks(pattern=pattern, tile=tile):
            return _tile_bounds(pattern, tile, grid)
        case Random():
            return np.ones(grid.shape, np.bool_), np.zeros(grid.shape, np.bool_)
        case Strips():
            return _strip_bounds(mask, grid)
    raise TypeError(f"not a canonical node: {mask!r}")


def _diagonal_bounds(mask: Strided | Diagonals, grid: Grid) -> Bounds:
    """Exact, by counting the kept ones among the diagonals that cross a block."""
    (q0, q1), (k0, k1) = grid.q, grid.kv
    first, last = q0 - k1, q1 - k0
    if isinstance(mask, Strided):
        kept = (last - mask.phase) // mask.stride - (first - 1 - mask.phase) // mask.stride
    else:
        distances = mask.distances.array
        kept = np.searchsorted(distances, last + 1) - np.searchsorted(distances, first)
    return kept > 0, kept == last - first + 1


def _strip_bounds(mask: Strips, grid: Grid) -> Bounds:
    """Exact for blocks side by side; of others, by the slices of keys that they touch."""
    first, last = grid.kv[0].ravel(), grid.kv[1].ravel()
    width = int(last[0] - first[0]) + 1
    tops, bottoms = grid.q[0].ravel(), grid.q[1].ravel() + 1
    starts = np.arange(len(first)) * width
    ends = np.minimum(starts + width, mask.kv_len) - 1
    if np.array_equal(first, starts) and np.array_equal(last, ends) and last[-1] + 1 == mask.kv_len:
        return mask.block_bounds(tops, bottoms, width)
    width = -(-mask.kv_len // _SLICES)
    some, every = mask.block_bounds(tops, bottoms, width)
    first, stop = first // width, last // width + 1
    touched, filled = (np.cumsum(np.pad(one, ((0, 0), (1, 0))), axis=1) for one in (some, every))
    return (
        touched[:, stop] > touched[:, first],
        filled[:, stop] - filled[:, first] == stop - first,
    )


def _segment_bounds(q_ids: FrozenArray, kv_ids: FrozenArray, grid: Grid) -> Bounds:
    """Disjoint id ranges: empty. One and the same id on both sides: full."""
    (q_low, q_high, q_all), (k_low, k_high, k_all) = (
        _id_ranges(q_ids.array, grid.q),
        _id_ranges(kv_ids.array, grid.kv),
    )
    some = (q_low <= k_high) & (k_low <= q_high)
    every = q_all & k_all & (q_low == k_low)
    return some, every


def _id_ranges(ids: npt.NDArray[np.int32], blocks: tuple[Ints, Ints]) -> tuple[Any, Any, Any]:
    """Per block: least and greatest id that is not padding, and whether all ids are one such id.

    A block of padding gets the range (1, 0) of a number beyond every id, which meets nothing.
    """
    padding = np.int32(np.iinfo(np.int32).max)
    low = extreme(np.minimum, np.where(ids < 0, padding, ids), blocks)
    high = extreme(np.maximum, ids, blocks)
    uniform = (extreme(np.minimum, ids, blocks) == high) & (high >= 0)
    return low, high, uniform


def extreme(ufunc: np.ufunc, values: Ints, blocks: tuple[Ints, Ints]) -> Ints:
    """The least or greatest value of each block, whatever positions the blocks cover."""
    first, last = blocks[0].ravel(), blocks[1].ravel()
    if np.array_equal(first[1:], last[:-1] + 1):  # side by side
        found = ufunc.reduceat(values[first[0] : last[-1] + 1], first - first[0])
    else:  # every second range is what lies between two blocks
        ranges = np.stack([first, last + 1], axis=1).ravel()
        found = ufunc.reduceat(np.append(values, values[-1]), ranges)[::2]
    extreme: Ints = found.reshape(blocks[0].shape)
    return extreme


def _tile_bounds(pattern: PackedMask, tile: tuple[int, int], grid: Grid) -> Bounds:
    """Exact, by counting the pattern's True tiles under each block: a strip of rows at a time."""
    (q0, q1), (k0, k1) = ((side[0].ravel(), side[1].ravel()) for side in (grid.q, grid.kv))
    some, every = np.zeros(grid.shape, np.bool_), np.zeros(grid.shape, np.bool_)
    columns = k0 // tile[1], k1 // tile[1] + 1
    for i in range(grid.shape[0]):
        rows = pattern.rows(int(q0[i]) // tile[0], int(q1[i]) // tile[0] + 1)
        counts = np.zeros(pattern.shape[1] + 1, np.int64)
        np.cumsum(rows.sum(axis=0), out=counts[1:])
        trues = counts[columns[1]] - counts[columns[0]]
        some[i] = trues > 0
        every[i] = trues == len(rows) * (columns[1] - columns[0])
    return some, every
