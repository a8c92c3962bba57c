"""Exact evaluation of a canonical mask: element by element, and three-valued block by block.

`allowed` is the mask's value at given positions. `bounds` is interval arithmetic over blocks: what
a whole block can hold without looking inside. Both follow the tree; neither ever samples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arrays import FrozenArray, PackedMask
from maskc.canonical import spans
from maskc.expr import (
    And,
    Blocks,
    ChunkedCausal,
    Dense,
    Empty,
    Full,
    Local,
    Mask,
    Not,
    Or,
    Random,
    Rectangle,
    Segments,
    Xor,
)

__all__ = ["Grid", "allowed", "bounds"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[Any]
_SPLITMIX = tuple(
    np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def allowed(mask: Mask, q: Ints, kv: Ints) -> Bools:
    """The mask at broadcast positions `q` and `kv`, which must lie inside the lengths."""
    match mask:
        case Not(mask=inner):
            return ~allowed(inner, q, kv)
        case And(masks=masks):
            return functools.reduce(np.logical_and, (allowed(m, q, kv) for m in masks))
        case Or(masks=masks):
            return functools.reduce(np.logical_or, (allowed(m, q, kv) for m in masks))
        case Xor(masks=masks):
            return functools.reduce(np.logical_xor, (allowed(m, q, kv) for m in masks))
        case _:
            return np.asarray(_leaf_allowed(mask, q, kv), np.bool_)


def _leaf_allowed(mask: Mask, q: Ints, kv: Ints) -> Any:
    match mask:
        case Full() | Empty():
            return np.broadcast_to(isinstance(mask, Full), np.broadcast_shapes(q.shape, kv.shape))
        case Local(left=left, right=right):
            low = kv >= q - left if left is not None else True
            return low & (kv <= q + right) if right is not None else low
        case ChunkedCausal(chunk=chunk):
            return (q // chunk == kv // chunk) & (kv <= q)
        case Rectangle():
            (q0, q1), (k0, k1) = spans(mask)
            return (q0 <= q) & (q < q1) & (k0 <= kv) & (kv < k1)
        case Segments():
            q_ids = mask.q_ids.array[q]
            return (q_ids == mask.kv_ids.array[kv]) & (q_ids >= 0)
        case Dense(mask=dense):
            return dense.at(q, kv)
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            return pattern.at(q // tile_q, kv // tile_kv)
        case Random(sparsity=sparsity, seed=seed):
            seeds = _mix(np.uint64(seed) + q.astype(np.uint64))
            return _mix(seeds + kv.astype(np.uint64)) >= np.uint64(int(sparsity * 2.0**64))
    raise TypeError(f"not a canonical node: {mask!r}")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    x = x + _SPLITMIX[0]
    x = (x ^ (x >> np.uint64(30))) * _SPLITMIX[1]
    x = (x ^ (x >> np.uint64(27))) * _SPLITMIX[2]
    return x ^ (x >> np.uint64(31))


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


def bounds(mask: Mask, grid: Grid) -> tuple[Bools, Bools]:
    """`(some, every)`, bool [rows, columns] each.

    `some` is False only where a block certainly has no True element, `every` True only where all
    of its elements certainly are.
    """
    match mask:
        case Full() | Empty():
            value = np.full(grid.shape, isinstance(mask, Full))
            return value, value
        case Local(left=left, right=right):
            return _band_bounds(left, right, grid)
        case ChunkedCausal(chunk=chunk):
            return _chunk_bounds(chunk, grid)
        case Rectangle():
            q_span, kv_span = spans(mask)
            q, kv = _span_bounds(grid.q, *q_span), _span_bounds(grid.kv, *kv_span)
            return q[0] & kv[0], q[1] & kv[1]
        case Segments():
            return _segment_bounds(mask.q_ids, mask.kv_ids, grid)
        case Dense(mask=dense):
            return _tile_bounds(dense, (1, 1), grid)
        case Blocks(pattern=pattern, tile=tile):
            return _tile_bounds(pattern, tile, grid)
        case Random():
            return np.ones(grid.shape, np.bool_), np.zeros(grid.shape, np.bool_)
        case Not(mask=inner):
            some, every = bounds(inner, grid)
            return ~every, ~some
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            combine = {And: _and_bounds, Or: _or_bounds, Xor: _xor_bounds}[type(mask)]
            return functools.reduce(combine, (bounds(m, grid) for m in masks))
    raise TypeError(f"not a canonical node: {mask!r}")


Bounds = tuple[Bools, Bools]


def _and_bounds(a: Bounds, b: Bounds) -> Bounds:
    return a[0] & b[0], a[1] & b[1]


def _or_bounds(a: Bounds, b: Bounds) -> Bounds:
    return a[0] | b[0], a[1] | b[1]


def _xor_bounds(a: Bounds, b: Bounds) -> Bounds:
    some = (a[0] | b[0]) & ~(a[1] & b[1])
    return some, (a[1] & ~b[0]) | (b[1] & ~a[0])


def _band_bounds(left: int | None, right: int | None, grid: Grid) -> Bounds:
    (q0, q1), (k0, k1) = grid.q, grid.kv
    least, most = k0 - q1, k1 - q0  # every diagonal between them crosses the block
    some = np.ones(grid.shape, np.bool_)
    every = np.ones(grid.shape, np.bool_)
    if left is not None:
        some, every = some & (most >= -left), every & (least >= -left)
    if right is not None:
        some, every = some & (least <= right), every & (most <= right)
    return some, every


def _chunk_bounds(chunk: int, grid: Grid) -> Bounds:
    (q0, q1), (k0, k1) = grid.q, grid.kv
    some = (q0 // chunk <= k1 // chunk) & (k0 // chunk <= q1 // chunk) & (k0 <= q1)
    every = (q0 // chunk == k1 // chunk) & (k0 // chunk == q1 // chunk) & (k1 <= q0)
    return some, every


def _span_bounds(blocks: tuple[Ints, Ints], start: int, stop: int) -> Bounds:
    first, last = blocks
    return (last >= start) & (first < stop), (first >= start) & (last < stop)


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
    first, last = blocks[0].ravel(), blocks[1].ravel()
    window = ids[first[0] : last[-1] + 1]
    starts = first - first[0]
    padding = np.int32(np.iinfo(np.int32).max)
    low = np.minimum.reduceat(np.where(window < 0, padding, window), starts)
    high = np.maximum.reduceat(window, starts)
    uniform = (np.minimum.reduceat(window, starts) == high) & (high >= 0)
    shape = blocks[0].shape
    return low.reshape(shape), high.reshape(shape), uniform.reshape(shape)


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
