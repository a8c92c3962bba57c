"""Rules for Shift, Transpose and Remap: they move inwards, and strip forms take them up.

What remains wraps a leaf that cannot. Operands are canonical for the lengths that they see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arrays import FrozenArray
from maskc.errors import MaskArgumentError
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
    Rectangle,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
)
from maskc.rules import Rule, Shape, rule
from maskc.strips import Strips, moved, transposed

__all__ = ["MOVE_RULES", "positions_of", "remap_lengths", "shift_lengths", "shift_region"]

_Ints = npt.NDArray[Any]


# --- shift --------------------------------------------------------------------------------------


def shift_lengths(mask: Shift, shape: Shape) -> Shape:
    """Lengths of the mask inside a shift; not positive where it starts beyond the end."""
    return (
        shape[0] - mask.q if mask.q_len is None else mask.q_len,
        shape[1] - mask.kv if mask.kv_len is None else mask.kv_len,
    )


def shift_region(mask: Shift, shape: Shape) -> tuple[Shape, Shape] | None:
    """`(start, stop)` of the queries and keys where the inner mask is seen; None if nowhere."""
    q_len, kv_len = shift_lengths(mask, shape)
    q = max(mask.q, 0), min(mask.q + q_len, shape[0])
    kv = max(mask.kv, 0), min(mask.kv + kv_len, shape[1])
    return (q, kv) if q[0] < q[1] and kv[0] < kv[1] else None


def _seen(mask: Shift, shape: Shape) -> Rectangle:
    region = shift_region(mask, shape)
    assert region is not None  # noqa: S101  # `shift_outside` comes first
    return Rectangle(*region[0], *region[1])


def _shifted(part: Mask, mask: Shift) -> Shift:
    return Shift(part, mask.q, mask.kv, mask.q_len, mask.kv_len)


@rule(Shift)
def shift_outside(mask: Shift, shape: Shape) -> Mask | None:
    """A shift that moves all of its mask out of the lengths is Empty."""
    return Empty() if shift_region(mask, shape) is None else None


@rule(Shift)
def shift_strips(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(s)` of a strip form s is a strip form."""
    inner = mask.mask
    return moved(inner, (mask.q, mask.kv), shape) if isinstance(inner, Strips) else None


@rule(Shift)
def shift_lengths_written(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(a, q, kv) = Shift(a, q, kv, q_len - q, kv_len - kv)`."""
    if mask.q_len is not None and mask.kv_len is not None:
        return None
    return Shift(mask.mask, mask.q, mask.kv, *shift_lengths(mask, shape))


@rule(Shift)
def shift_nothing(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(a, 0, 0) = a` where a has the same lengths."""
    same = (mask.q, mask.kv) == (0, 0) and (mask.q_len, mask.kv_len) == shape
    return mask.mask if same else None


@rule(Shift)
def shift_constant(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(Empty) = Empty`, and `Shift(Full)` is a rectangle."""
    if isinstance(mask.mask, Full):
        return _seen(mask, shape)
    return mask.mask if isinstance(mask.mask, Empty) else None


@rule(Shift)
def shift_distributes(mask: Shift, _: Shape) -> Mask | None:
    """`Shift(a & b) = Shift(a) & Shift(b)`, and likewise for `^`."""
    inner = mask.mask
    if not isinstance(inner, And | Xor):
        return None
    return type(inner)(tuple(_shifted(part, mask) for part in inner.masks))


@rule(Shift)
def shift_not(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(~a) = region & ~Shift(a)`, where the region is what can be seen of a."""
    if not isinstance(mask.mask, Not):
        return None
    return And((_seen(mask, shape), Not(_shifted(mask.mask.mask, mask))))


@rule(Shift)
def shift_shift(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(Shift(a)) = region & Shift(a)`, by the sums; the region is that of the outer one."""
    inner = mask.mask
    if not isinstance(inner, Shift):
        return None
    both = Shift(inner.mask, inner.q + mask.q, inner.kv + mask.kv, inner.q_len, inner.kv_len)
    return And((_seen(mask, shape), both))


@rule(Shift)
def shift_diagonals(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(Strided(n, p)) = region & Strided(n, p + q - kv)`, and likewise for Diagonals."""
    by = mask.q - mask.kv
    match mask.mask:
        case Strided(stride=stride, phase=phase):
            return And((_seen(mask, shape), Strided(stride, phase + by)))
        case Diagonals(distances=distances):
            there = Diagonals(distances.array.astype(np.int64) + by)
            return And((_seen(mask, shape), there))
    return None


@rule(Shift)
def shift_segments(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(Segments(ids)) = Segments(shifted ids)`, with padding around them."""
    inner = mask.mask
    if not isinstance(inner, Segments):
        return None
    sides = zip((inner.q_ids, inner.kv_ids), (mask.q, mask.kv), shape, strict=True)
    return Segments(*(_padded(*side) for side in sides))


def _padded(ids: FrozenArray, start: int, length: int) -> _Ints:
    """`length` ids of which `ids` are those from `start` on; they may begin or end outside."""
    out = np.full(length, -1, ids.array.dtype)
    first, last = max(start, 0), min(start + len(ids), length)
    out[first:last] = ids.array[first - start : last - start]
    return out


@rule(Shift)
def shift_random(mask: Shift, shape: Shape) -> Mask | None:
    """`Shift(Random, 0, 0) = region & Random`: a longer one extends a shorter one."""
    if not isinstance(mask.mask, Random) or (mask.q, mask.kv) != (0, 0):
        return None
    return And((_seen(mask, shape), mask.mask))


# --- transpose ----------------------------------------------------------------------------------


@rule(Transpose)
def transpose_constant(mask: Transpose, _: Shape) -> Mask | None:
    """`Transpose(Full) = Full` and `Transpose(Empty) = Empty`."""
    return mask.mask if isinstance(mask.mask, Full | Empty) else None


@rule(Transpose)
def transpose_strips(mask: Transpose, _: Shape) -> Mask | None:
    """`Transpose(s)` of a strip form s is one, if it has at most 8 intervals per row."""
    return transposed(mask.mask) if isinstance(mask.mask, Strips) else None


@rule(Transpose)
def transpose_distributes(mask: Transpose, _: Shape) -> Mask | None:
    """`Transpose(a & b) = Transpose(a) & Transpose(b)`, and likewise for `^` and `~`."""
    match mask.mask:
        case And(masks=masks) | Xor(masks=masks):
            return type(mask.mask)(tuple(map(Transpose, masks)))
        case Not(mask=part):
            return Not(Transpose(part))
    return None


@rule(Transpose)
def transpose_twice(mask: Transpose, _: Shape) -> Mask | None:
    """`Transpose(Transpose(a)) = a`."""
    return mask.mask.mask if isinstance(mask.mask, Transpose) else None


@rule(Transpose)
def transpose_inwards(mask: Transpose, _: Shape) -> Mask | None:
    """`Transpose(f(a)) = f(Transpose(a))` for Shift, Kron and Remap, with their sides swapped."""
    match mask.mask:
        case Shift(mask=part, q=q, kv=kv, q_len=q_len, kv_len=kv_len):
            return Shift(Transpose(part), kv, q, kv_len, q_len)
        case Kron(masks=masks, q_shape=q_shape, kv_shape=kv_shape):
            keys = q_shape if kv_shape is None else kv_shape
            return Kron(tuple(map(Transpose, masks)), keys, q_shape)
        case Remap(mask=part, q_positions=q, kv_positions=kv, q_len=q_len, kv_len=kv_len):
            return Remap(Transpose(part), kv, q, kv_len, q_len)
    return None


@rule(Transpose)
def transpose_leaf(mask: Transpose, _: Shape) -> Mask | None:
    """`Transpose(Strided(n, p)) = Strided(n, -p)`; arrays are turned, and pairs of ids swapped."""
    match mask.mask:
        case Strided(stride=stride, phase=phase):
            return Strided(stride, -phase)
        case Diagonals(distances=distances):
            return Diagonals(-distances.array.astype(np.int64))
        case Segments(q_ids=q_ids, kv_ids=kv_ids):
            return Segments(kv_ids, q_ids)
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            return Blocks(pattern.rows(0, pattern.shape[0]).T, tile_kv, tile_q)
        case Dense(mask=dense):
            return Dense(dense.rows(0, dense.shape[0]).T)
    return None


# --- remap --------------------------------------------------------------------------------------


def positions_of(mask: Remap, shape: Shape) -> tuple[FrozenArray, FrozenArray]:
    """The inner position of each query and of each key.

    Raises:
        MaskArgumentError: they are not as many as there are queries or keys.
    """
    both = mask.q_positions, mask.q_positions if mask.kv_positions is None else mask.kv_positions
    for name, at, length in zip(("q_positions", "kv_positions"), both, shape, strict=True):
        if len(at) != length:
            side = "q_len" if name == "q_positions" else "kv_len"
            hint = " (pass kv_positions where q_len != kv_len)" if mask.kv_positions is None else ""
            raise MaskArgumentError(
                f"Remap.{name}: expected {side}={length} positions, got {len(at)}{hint}"
            )
    return both


def remap_lengths(mask: Remap, shape: Shape) -> Shape:
    """Lengths of the mask inside a remap: as given, or as long as its positions need."""
    sides = zip(positions_of(mask, shape), (mask.q_len, mask.kv_len), strict=True)
    q_len, kv_len = (
        max(int(at.array.max()) + 1, 1) if given is None else given for at, given in sides
    )
    return q_len, kv_len


def _picked(mask: Remap, q_ids: _Ints, kv_ids: _Ints) -> Mask:
    """Segments of the tokens that come to stand at each position."""
    pairs = ((mask.q_positions, q_ids), (mask.kv_positions, kv_ids))
    return Segments(*(np.where(at.array < 0, -1, ids[at.array]) for at, ids in pairs))


def _valid(mask: Remap) -> Mask:
    """Where neither position is padding."""
    assert mask.q_len is not None  # noqa: S101  # `remap_written` comes first
    assert mask.kv_len is not None  # noqa: S101
    return _picked(mask, np.zeros(mask.q_len, np.int32), np.zeros(mask.kv_len, np.int32))


def _remapped(part: Mask, mask: Remap) -> Remap:
    return Remap(part, mask.q_positions, mask.kv_positions, mask.q_len, mask.kv_len)


@rule(Remap)
def remap_written(mask: Remap, shape: Shape) -> Mask | None:
    """`Remap(a, at) = Remap(a, at, at, n, m)`: positions of both sides, and a's lengths."""
    if None not in (mask.kv_positions, mask.q_len, mask.kv_len):
        return None
    return Remap(mask.mask, *positions_of(mask, shape), *remap_lengths(mask, shape))


@rule(Remap)
def remap_nothing(mask: Remap, shape: Shape) -> Mask | None:
    """`Remap(a) = a` where every position stays itself."""
    sides = zip((mask.q_positions, mask.kv_positions), shape, strict=True)
    same = (mask.q_len, mask.kv_len) == shape
    same = same and all(np.array_equal(at.array, np.arange(length)) for at, length in sides)
    return mask.mask if same else None


@rule(Remap)
def remap_constant(mask: Remap, _: Shape) -> Mask | None:
    """`Remap(Empty) = Empty`, and `Remap(Full)` is one segment of what is not padding."""
    if isinstance(mask.mask, Full):
        return _valid(mask)
    return mask.mask if isinstance(mask.mask, Empty) else None


@rule(Remap)
def remap_segments(mask: Remap, _: Shape) -> Mask | None:
    """`Remap(Segments(ids)) = Segments(ids at the positions)`, whatever way they are written."""
    inner = mask.mask
    ids = _ids_of(inner) if isinstance(inner, Strips) else None
    if isinstance(inner, Segments):
        ids = inner.q_ids.array, inner.kv_ids.array
    return None if ids is None else _picked(mask, *ids)


def _ids_of(mask: Strips) -> tuple[_Ints, _Ints] | None:
    """The segment ids of queries and keys, if rows that share a key are equal rows."""
    known: dict[bytes, int] = {}
    q_ids = np.full(mask.q_len, -1, np.int32)
    kv_ids = np.full(mask.kv_len, -1, np.int32)
    for top, bottom, intervals in _equal_rows(mask):
        number = known.setdefault(intervals.tobytes(), len(known))
        q_ids[top:bottom] = number
        for start, stop in intervals.tolist():
            if not np.isin(kv_ids[start:stop], (-1, number)).all():
                return None
            kv_ids[start:stop] = number
    return q_ids, kv_ids


def _equal_rows(mask: Strips) -> Iterator[tuple[int, int, _Ints]]:
    """Ranges of rows that are equal and not empty, with their intervals as [n, 2]."""
    rows, ptr, ends = mask.fine.arrays
    for strip in np.flatnonzero(np.diff(ptr)).tolist():
        top, bottom = rows[strip : strip + 2].tolist()
        spans = ends[ptr[strip] : ptr[strip + 1]]
        step = bottom - top if not spans[:, 2:].any() else 1
        for row in range(top, bottom, step):
            yield row, row + step, spans[:, :2] + (row - top) * spans[:, 2:]


@rule(Remap)
def remap_distributes(mask: Remap, _: Shape) -> Mask | None:
    """`Remap(a & b) = Remap(a) & Remap(b)`, and likewise for `^`."""
    inner = mask.mask
    if not isinstance(inner, And | Xor):
        return None
    return type(inner)(tuple(_remapped(part, mask) for part in inner.masks))


@rule(Remap)
def remap_not(mask: Remap, _: Shape) -> Mask | None:
    """`Remap(~a) = valid & ~Remap(a)`, where valid is what is not padding."""
    if not isinstance(mask.mask, Not):
        return None
    return And((_valid(mask), Not(_remapped(mask.mask.mask, mask))))


@rule(Remap)
def remap_remap(mask: Remap, _: Shape) -> Mask | None:
    """`Remap(Remap(a, inner), outer) = Remap(a, inner[outer])`."""
    inner = mask.mask
    if not isinstance(inner, Remap):
        return None
    outer_at = mask.q_positions, mask.kv_positions
    inner_at = inner.q_positions, inner.kv_positions
    q, kv = (
        np.where(a.array < 0, -1, b.array[a.array]) for a, b in zip(outer_at, inner_at, strict=True)
    )
    return Remap(inner.mask, q, kv, inner.q_len, inner.kv_len)


MOVE_RULES: tuple[Rule, ...] = (
    shift_outside,
    shift_strips,
    shift_lengths_written,
    shift_nothing,
    shift_constant,
    shift_distributes,
    shift_not,
    shift_shift,
    shift_diagonals,
    shift_segments,
    shift_random,
    transpose_constant,
    transpose_strips,
    transpose_distributes,
    transpose_twice,
    transpose_inwards,
    transpose_leaf,
    remap_written,
    remap_nothing,
    remap_constant,
    remap_segments,
    remap_distributes,
    remap_not,
    remap_remap,
)
