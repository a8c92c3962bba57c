"""What blocks of scattered positions can hold of a canonical leaf: interval arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.arrays import PackedMask
from maskc.expr import Blocks, Dense, Diagonals, Mask, Random, Segments, Strided
from maskc.strips import Strips

__all__ = ["Bounds", "Ranges", "leaf_bounds"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[Any]
Bounds = tuple[Bools, Bools]
_SLICES = 4096  # of the keys: bounds what a guess may cost


class Ranges(NamedTuple):
    """Where the positions of each block of one side lie.

    Attributes:
        first: int [blocks], the least one; 0 if the block has none.
        last: int [blocks], the greatest one; 0 if the block has none.
        touched: bool [blocks], whether it has any.
        inside: bool [blocks], whether all of its tokens have one.
    """

    first: Ints
    last: Ints
    touched: Bools
    inside: Bools

    @classmethod
    def of(cls, positions: Ints) -> Ranges:
        """The ranges of positions [blocks, tokens], where -1 is none."""
        last = positions.max(axis=1)
        first = np.where(positions < 0, np.iinfo(positions.dtype).max, positions).min(axis=1)
        touched = last >= 0
        return cls(
            np.where(touched, first, 0), np.maximum(last, 0), touched, positions.min(axis=1) >= 0
        )


def leaf_bounds(leaf: Mask, q: Ranges, kv: Ranges) -> Bounds:
    """`(some, every)`, bool [q blocks, kv blocks] each, of whole ranges of positions.

    `some` is False only where a range certainly has no True element, `every` True only where all
    of its elements certainly are.
    """
    match leaf:
        case Strided() | Diagonals():
            return _diagonal_bounds(leaf, q, kv)
        case Segments(q_ids=q_ids, kv_ids=kv_ids):
            return _segment_bounds(q_ids.array, kv_ids.array, q, kv)
        case Dense(mask=dense):
            return _tile_bounds(dense, (1, 1), q, kv)
        case Blocks(pattern=pattern, tile=tile):
            return _tile_bounds(pattern, tile, q, kv)
        case Random():
            shape = len(q.first), len(kv.first)
            return np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
        case Strips():
            return _strip_bounds(leaf, q, kv)
    raise TypeError(f"not a canonical leaf: {leaf!r}")


def _diagonal_bounds(mask: Strided | Diagonals, q: Ranges, kv: Ranges) -> Bounds:
    """By counting the kept ones among the diagonals that cross a range."""
    first, last = q.first[:, None] - kv.last, q.last[:, None] - kv.first
    if isinstance(mask, Strided):
        kept = (last - mask.phase) // mask.stride - (first - 1 - mask.phase) // mask.stride
    else:
        distances = mask.distances.array
        kept = np.searchsorted(distances, last + 1) - np.searchsorted(distances, first)
    return kept > 0, kept == last - first + 1


def _strip_bounds(mask: Strips, q: Ranges, kv: Ranges) -> Bounds:
    """By the slices of keys that a range touches."""
    width = -(-mask.kv_len // _SLICES)
    some, every = mask.block_bounds(q.first, q.last + 1, width)
    first, stop = kv.first // width, kv.last // width + 1
    touched, filled = (np.cumsum(np.pad(one, ((0, 0), (1, 0))), axis=1) for one in (some, every))
    return (
        touched[:, stop] > touched[:, first],
        filled[:, stop] - filled[:, first] == stop - first,
    )


def _segment_bounds(q_ids: Ints, kv_ids: Ints, q: Ranges, kv: Ranges) -> Bounds:
    """Disjoint ranges of ids: empty. One and the same id on both sides: full."""
    q_low, q_high, q_all = _id_ranges(q_ids, q)
    k_low, k_high, k_all = _id_ranges(kv_ids, kv)
    some = (q_low[:, None] <= k_high) & (k_low <= q_high[:, None])
    return some, q_all[:, None] & k_all & (q_low[:, None] == k_low)


def _id_ranges(ids: Ints, side: Ranges) -> tuple[Ints, Ints, Bools]:
    """Per block: least and greatest id that is not padding, and whether all ids are one such id.

    A range of padding gets ids from the greatest number to -1, which meet nothing.
    """
    padding = np.int32(np.iinfo(np.int32).max)
    low = _extreme(np.minimum, np.where(ids < 0, padding, ids), side)
    high = _extreme(np.maximum, ids, side)
    uniform = (_extreme(np.minimum, ids, side) == high) & (high >= 0)
    return low, high, uniform


def _extreme(ufunc: np.ufunc, values: Ints, side: Ranges) -> Ints:
    """The least or greatest value of each range: every second of those between all the edges."""
    edges = np.stack([side.first, side.last + 1], axis=1).ravel()
    return np.asarray(ufunc.reduceat(np.append(values, values[-1]), edges)[::2])


def _tile_bounds(pattern: PackedMask, tile: tuple[int, int], q: Ranges, kv: Ranges) -> Bounds:
    """By counting the pattern's True tiles under each range."""
    some, every = np.zeros((2, len(q.first), len(kv.first)), np.bool_)
    first, stop = kv.first // tile[1], kv.last // tile[1] + 1
    for i, (top, bottom) in enumerate(zip(q.first // tile[0], q.last // tile[0] + 1, strict=True)):
        rows = pattern.rows(int(top), int(bottom))
        counts = np.append(0, np.cumsum(rows.sum(axis=0)))
        trues = counts[stop] - counts[first]
        some[i], every[i] = trues > 0, trues == len(rows) * (stop - first)
    return some, every
