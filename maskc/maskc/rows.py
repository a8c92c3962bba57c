"""Exact evaluation of a canonical mask: element by element, and three-valued block by block.

`allowed` is the mask's value at given positions. `bounds` is interval arithmetic over blocks: what
a whole block can hold without looking inside. Both follow the tree; neither ever samples.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.expr import (
    And,
    Blocks,
    Dense,
    Diagonals,
    Empty,
    Full,
    Kron,
    Mask,
    Not,
    Random,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
)
from maskc.leaf_bounds import Bools, Bounds, Grid, Ints, extreme, leaf_bounds
from maskc.rules_products import coordinates
from maskc.strips import Strips

__all__ = ["Grid", "allowed", "bounds"]

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
        case Xor(masks=masks):
            return functools.reduce(np.logical_xor, (allowed(m, q, kv) for m in masks))
        case Strips():
            return mask.at(q, kv)
        case Shift() | Transpose() | Remap() | Kron():
            return _moved_allowed(mask, q, kv)
        case _:
            return np.asarray(_leaf_allowed(mask, q, kv), np.bool_)


def _leaf_allowed(mask: Mask, q: Ints, kv: Ints) -> Any:
    match mask:
        case Full() | Empty():
            return np.broadcast_to(isinstance(mask, Full), np.broadcast_shapes(q.shape, kv.shape))
        case Strided(stride=stride, phase=phase):
            return (q - kv) % stride == phase
        case Diagonals(distances=distances):
            at = np.searchsorted(distances.array, q - kv)
            return distances.array[np.minimum(at, len(distances) - 1)] == q - kv
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


def bounds(mask: Mask, grid: Grid) -> tuple[Bools, Bools]:
    """`(some, every)`, bool [rows, columns] each.

    `some` is False only where a block certainly has no True element, `every` True only where all
    of its elements certainly are.
    """
    match mask:
        case Shift() | Transpose() | Remap() | Kron():
            return _moved_bounds(mask, grid)
        case Not(mask=inner):
            some, every = bounds(inner, grid)
            return ~every, ~some
        case And(masks=masks) | Xor(masks=masks):
            combine = _and_bounds if isinstance(mask, And) else _xor_bounds
            return functools.reduce(combine, (bounds(m, grid) for m in masks))
        case _:
            return leaf_bounds(mask, grid)


def _and_bounds(a: Bounds, b: Bounds) -> Bounds:
    return a[0] & b[0], a[1] & b[1]


def _xor_bounds(a: Bounds, b: Bounds) -> Bounds:
    some = (a[0] | b[0]) & ~(a[1] & b[1])
    return some, (a[1] & ~b[0]) | (b[1] & ~a[0])


# --- masks inside combinators -------------------------------------------------------------------


def _moved_allowed(mask: Shift | Transpose | Remap | Kron, q: Ints, kv: Ints) -> Bools:
    match mask:
        case Transpose(mask=inner):
            return allowed(inner, kv, q)
        case Shift(mask=inner):
            q, kv = q - mask.q, kv - mask.kv
            q_len, kv_len = inner_lengths(mask)
            inside = (q >= 0) & (q < q_len) & (kv >= 0) & (kv < kv_len)
            return inside & allowed(inner, np.clip(q, 0, q_len - 1), np.clip(kv, 0, kv_len - 1))
        case Remap(mask=inner):
            q, kv = mask.q_positions.array[q], mask.kv_positions.array[kv]
            return (q >= 0) & (kv >= 0) & allowed(inner, np.maximum(q, 0), np.maximum(kv, 0))
        case Kron(masks=masks):
            pairs = zip(*_axes(mask, q, kv), strict=True)
            parts = (allowed(m, *at) for m, at in zip(masks, pairs, strict=True))
            return functools.reduce(np.logical_and, parts)


def _axes(mask: Kron, q: Ints, kv: Ints) -> tuple[list[Ints], list[Ints]]:
    assert mask.kv_shape is not None  # noqa: S101  # a canonical product has both shapes
    return coordinates(q, mask.q_shape), coordinates(kv, mask.kv_shape)


def inner_lengths(mask: Shift) -> tuple[int, int]:
    """Lengths of the mask inside a canonical shift."""
    assert mask.q_len is not None  # noqa: S101  # a canonical shift has both
    assert mask.kv_len is not None  # noqa: S101
    return mask.q_len, mask.kv_len


def _moved_bounds(mask: Shift | Transpose | Remap | Kron, grid: Grid) -> Bounds:
    match mask:
        case Transpose(mask=inner):
            swapped = Grid((grid.kv[0].T, grid.kv[1].T), (grid.q[0].T, grid.q[1].T))
            some, every = bounds(inner, swapped)
            return some.T, every.T
        case Shift(mask=inner):
            sides = zip((grid.q, grid.kv), (mask.q, mask.kv), inner_lengths(mask), strict=True)
            return _inner_bounds(inner, *(_moved(*side) for side in sides))
        case Remap(mask=Kron() as inner):  # along each axis the tokens of a tile lie close together
            q, kv = mask.q_positions.array, mask.kv_positions.array
            axes = zip(inner.masks, *_axes(inner, np.maximum(q, 0), np.maximum(kv, 0)), strict=True)
            parts = (
                _inner_bounds(m, _gathered(i, q, grid.q), _gathered(j, kv, grid.kv))
                for m, i, j in axes
            )
        case Remap(mask=inner):
            q, kv = mask.q_positions.array, mask.kv_positions.array
            return _inner_bounds(inner, _gathered(q, q, grid.q), _gathered(kv, kv, grid.kv))
        case Kron(masks=masks, q_shape=q_shape, kv_shape=kv_shape):
            blocks = zip(
                _spread(grid.q, q_shape), _spread(grid.kv, kv_shape or q_shape), strict=True
            )
            parts = (bounds(m, Grid(*at)) for m, at in zip(masks, blocks, strict=True))
    return functools.reduce(_and_bounds, parts)


_Side = tuple[Ints, Ints, Bools, Bools]
"""Per block: first and last position inside a mask, whether any of it is inside, whether all is."""


def _inner_bounds(mask: Mask, q: _Side, kv: _Side) -> Bounds:
    some, every = bounds(mask, Grid(q[:2], kv[:2]))
    return some & q[2] & kv[2], every & q[3] & kv[3]


def _moved(blocks: tuple[Ints, Ints], by: int, length: int) -> _Side:
    first, last = blocks[0] - by, blocks[1] - by
    touched, inside = (last >= 0) & (first < length), (first >= 0) & (last < length)
    return np.clip(first, 0, length - 1), np.clip(last, 0, length - 1), touched, inside


def _gathered(values: Ints, positions: Ints, blocks: tuple[Ints, Ints]) -> _Side:
    """The range of `values` where `positions` are not padding."""
    beyond = np.iinfo(values.dtype).max
    low = extreme(np.minimum, np.where(positions < 0, beyond, values), blocks)
    high = extreme(np.maximum, np.where(positions < 0, -1, values), blocks)
    inside = extreme(np.minimum, positions, blocks) >= 0
    return np.where(high < 0, 0, low), np.maximum(high, 0), high >= 0, inside


def _spread(blocks: tuple[Ints, Ints], sizes: tuple[int | None, ...]) -> list[tuple[Ints, Ints]]:
    """The ranges that blocks of positions cover along each axis: all of it if they wrap around."""
    first, last = blocks
    ranges = []
    for size in sizes[:0:-1]:
        assert size is not None  # noqa: S101  # only the first axis may be open
        (first, low), (last, high) = np.divmod(first, size), np.divmod(last, size)
        ranges.append((np.where(first < last, 0, low), np.where(first < last, size - 1, high)))
    return [(first, last), *reversed(ranges)]
