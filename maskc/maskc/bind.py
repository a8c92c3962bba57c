"""Rewrite sugar and combinators to simpler trees, once the lengths are known.

Neighborhoods become products of intervals, and a shift, a transposition or a reordering moves into
the mask inside it, down to leaves that can take it up themselves. What remains wraps a leaf that
cannot: there it stays as a node over the inner mask's canonical form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arrays import FrozenArray
from maskc.axes import kron_of, neighborhood_of
from maskc.errors import MaskArgumentError
from maskc.expr import (
    And,
    Blocks,
    Causal,
    Chunked,
    ChunkedCausal,
    Dense,
    Diagonals,
    Documents,
    Empty,
    Full,
    Intervals,
    Keys,
    Kron,
    Local,
    Mask,
    Neighborhood,
    Not,
    Or,
    Prefix,
    Queries,
    Random,
    Rectangle,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
)
from maskc.strips import Strips, transposed

__all__ = ["band_of", "check_intervals", "document_ids", "rewritten", "segment_ids"]

Shape = tuple[int, int]
Canonical = Callable[[Mask, int, int], Mask]
_Ints = npt.NDArray[Any]


def rewritten(mask: Mask, shape: Shape, canonical: Canonical) -> tuple[Mask, bool]:
    """One step of rewriting a node that is no operator.

    Args:
        mask: the node.
        shape: `(q_len, kv_len)`.
        canonical: gives the canonical form of a mask for lengths.

    Returns:
        A tree of the same meaning, and whether it is final: a leaf to be bound as it stands, or a
        combinator over a canonical mask.
    """
    match mask:
        case ChunkedCausal(chunk=chunk, offset=offset):
            return And((Chunked(chunk, offset), Causal())), False
        case Prefix(length=length):
            return Rectangle(kv_stop=length), False
        case Documents():
            return Segments(*document_ids(mask, shape)), False
        case Queries(positions=positions):
            return Segments(_members(positions, shape[0]), np.zeros(shape[1], np.int32)), False
        case Keys(positions=positions):
            return Segments(np.zeros(shape[0], np.int32), _members(positions, shape[1])), False
        case Neighborhood():
            return neighborhood_of(mask, shape), False
        case Kron():
            return kron_of(mask, shape, canonical)
        case Shift():
            return _shift(mask, shape, canonical)
        case Transpose(mask=inner):
            return _transpose(inner, shape, canonical)
        case Remap():
            return _remap(mask, shape, canonical)
        case _:
            return mask, True


def _members(positions: FrozenArray, length: int) -> _Ints:
    ids = np.full(length, -1, np.int32)
    ids[positions.array[positions.array < length]] = 0
    return ids


def band_of(mask: Causal | Local, shape: Shape) -> tuple[int | None, int | None]:
    """The least and the greatest `kv - q` of a band; None is unbounded."""
    shift = mask.offset + (shape[1] - shape[0] if mask.align == "bottom_right" else 0)
    if isinstance(mask, Causal):
        return None, shift
    low = None if mask.left is None else shift - mask.left
    return low, None if mask.right is None else shift + mask.right


def segment_ids(mask: Segments, shape: Shape) -> tuple[FrozenArray, FrozenArray]:
    """The ids of the queries and of the keys, which must be as many as there are."""
    both = mask.q_ids, mask.q_ids if mask.kv_ids is None else mask.kv_ids
    for name, ids, length in zip(("q_ids", "kv_ids"), both, shape, strict=True):
        if len(ids) != length:
            side = "q_len" if name == "q_ids" else "kv_len"
            shared = name == "kv_ids" and mask.kv_ids is None
            hint = " (pass kv_ids where q_len != kv_len)" if shared else ""
            raise MaskArgumentError(
                f"Segments.{name}: expected {side}={length} ids, got {len(ids)}{hint}"
            )
    return both


def document_ids(mask: Documents, shape: Shape) -> tuple[FrozenArray, FrozenArray]:
    """The document of each query and of each key; -1 beyond the last one."""
    names = ("cu_seqlens", "kv_cu_seqlens")
    offsets = (mask.cu_seqlens, mask.kv_cu_seqlens or mask.cu_seqlens)
    ids = []
    for name, cu, length in zip(names, offsets, shape, strict=True):
        if cu.array[-1] > length:
            raise MaskArgumentError(
                f"Documents.{name}: the documents end at {cu.array[-1]}, past the length {length}"
            )
        numbers = np.full(length, -1, np.int32)
        lengths = np.diff(cu.array)
        numbers[: cu.array[-1]] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        ids.append(FrozenArray(numbers))
    return ids[0], ids[1]


# --- shift --------------------------------------------------------------------------------------


def _shift(mask: Shift, shape: Shape, canonical: Canonical) -> tuple[Mask, bool]:
    inner, at = mask.mask, (mask.q, mask.kv)
    q_len = shape[0] - mask.q if mask.q_len is None else mask.q_len
    kv_len = shape[1] - mask.kv if mask.kv_len is None else mask.kv_len
    lengths = (q_len, kv_len)
    spans = [
        (max(start, 0), min(start + length, outer))
        for start, length, outer in zip(at, lengths, shape, strict=True)
    ]
    if any(start >= stop for start, stop in spans):
        return Empty(), False
    if at == (0, 0) and lengths == shape:
        return inner, False

    def moved(part: Mask) -> Mask:
        return Shift(part, *at, *lengths)

    region = Rectangle(*spans[0], *spans[1])
    match inner:
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            return type(inner)(tuple(map(moved, masks))), False
        case Not(mask=part):
            return region - moved(part), False
        case Shift(mask=part):  # the inner shift may reach beyond the part that is seen
            q_len = lengths[0] - inner.q if inner.q_len is None else inner.q_len
            kv_len = lengths[1] - inner.kv if inner.kv_len is None else inner.kv_len
            if min(q_len, kv_len) < 1:
                return Empty(), False
            whole = Shift(part, inner.q + at[0], inner.kv + at[1], q_len, kv_len)
            return And((region, whole)), False
    leaf = _shifted_leaf(inner, at, lengths, shape)
    if leaf is not None:
        return And((region, leaf)), False
    step, final = rewritten(inner, lengths, canonical)
    if not final:
        return moved(step), False
    if not isinstance(step, Kron | Transpose | Remap):  # a leaf, not yet bound
        step = canonical(step, *lengths)
        if isinstance(step, Full | Empty):
            return moved(step), False
    return moved(step), True


def _shifted_leaf(leaf: Mask, at: Shape, lengths: Shape, shape: Shape) -> Mask | None:
    """A leaf that means on the shifted mask's region what `leaf` means inside it."""
    down, right = at
    match leaf:
        case Full() | Empty():
            return leaf
        case Causal() | Local():
            low, high = band_of(leaf, lengths)
            move = right - down
            return Local(
                None if low is None else -low - move, None if high is None else high + move
            )
        case Rectangle(q_start=q0, q_stop=q1, kv_start=k0, kv_stop=k1):
            q1, k1 = lengths[0] if q1 is None else q1, lengths[1] if k1 is None else k1
            return Rectangle(
                max(q0 + down, 0), max(q1 + down, 0), max(k0 + right, 0), max(k1 + right, 0)
            )
        case Chunked(chunk=chunk, offset=offset) if down == right:
            return Chunked(chunk, offset + down)
        case Strided(stride=stride, phase=phase):
            return Strided(stride, phase + down - right)
        case Diagonals(distances=distances):
            return Diagonals(distances.array.astype(np.int64) + (down - right))
        case Segments():
            ids = segment_ids(leaf, lengths)
            return Segments(*(_padded(*a, -1) for a in zip(ids, at, shape, strict=True)))
        case Intervals(starts=starts, stops=stops):
            check_intervals(leaf, lengths[0])
            keys = [
                np.clip(a.array.astype(np.int64), 0, lengths[1]) + right for a in (starts, stops)
            ]
            return Intervals(*(_padded(FrozenArray(a), down, shape[0], 0) for a in keys))
        case Random() if at == (0, 0):  # a longer one extends it
            return leaf
    return None


def check_intervals(mask: Intervals, q_len: int) -> None:
    """Refuse intervals that are not one for each query."""
    if len(mask.starts) != q_len:
        raise MaskArgumentError(
            f"Intervals.starts: expected q_len={q_len} starts, got {len(mask.starts)}"
        )


def _padded(values: FrozenArray, start: int, length: int, fill: int) -> _Ints:
    """`length` values of which `values` are those from `start` on; it may begin or end outside."""
    out = np.full(length, fill, values.array.dtype)
    first, last = max(start, 0), min(start + len(values), length)
    out[first:last] = values.array[first - start : last - start]
    return out


# --- transpose ----------------------------------------------------------------------------------


def _transpose(inner: Mask, shape: Shape, canonical: Canonical) -> tuple[Mask, bool]:
    lengths = (shape[1], shape[0])
    match inner:
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            return type(inner)(tuple(map(Transpose, masks))), False
        case Not(mask=part):
            return Not(Transpose(part)), False
        case Transpose(mask=part):
            return part, False
        case Shift(mask=part, q=q, kv=kv, q_len=q_len, kv_len=kv_len):
            return Shift(Transpose(part), kv, q, kv_len, q_len), False
        case Kron(masks=masks, q_shape=q_shape, kv_shape=kv_shape):
            keys = q_shape if kv_shape is None else kv_shape
            return Kron(tuple(map(Transpose, masks)), keys, q_shape), False
        case Remap(mask=part, q_positions=q, kv_positions=kv, q_len=q_len, kv_len=kv_len):
            return Remap(Transpose(part), q if kv is None else kv, q, kv_len, q_len), False
    leaf = _transposed_leaf(inner, lengths)
    if leaf is not None:
        return leaf, False
    tree, final = _wrapped(inner, lengths, canonical, Transpose)
    if final and isinstance(tree, Transpose) and isinstance(tree.mask, Strips):
        strips = transposed(tree.mask)
        return (tree, True) if strips is None else (strips, False)
    return tree, final


def _transposed_leaf(leaf: Mask, lengths: Shape) -> Mask | None:
    match leaf:
        case Full() | Empty() | Chunked():
            return leaf
        case Causal() | Local():
            low, high = band_of(leaf, lengths)
            return Local(high, None if low is None else -low)
        case Rectangle(q_start=q0, q_stop=q1, kv_start=k0, kv_stop=k1):
            return Rectangle(k0, k1, q0, q1)
        case Strided(stride=stride, phase=phase):
            return Strided(stride, -phase)
        case Diagonals(distances=distances):
            return Diagonals(-distances.array.astype(np.int64))
        case Segments():
            return Segments(*segment_ids(leaf, lengths)[::-1])
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            whole = pattern.rows(0, pattern.shape[0])
            return Blocks(whole.T, tile_kv, tile_q)
        case Dense(mask=dense):
            return Dense(dense.rows(0, dense.shape[0]).T)
    return None


def _wrapped(
    inner: Mask, lengths: Shape, canonical: Canonical, wrap: Callable[[Mask], Mask]
) -> tuple[Mask, bool]:
    """A combinator over a mask that it cannot move into."""
    step, final = rewritten(inner, lengths, canonical)
    if not final:
        return wrap(step), False
    form = canonical(step, *lengths)
    return wrap(form), not isinstance(form, Full | Empty)


# --- remap --------------------------------------------------------------------------------------


def _remap(mask: Remap, shape: Shape, canonical: Canonical) -> tuple[Mask, bool]:
    q, kv = _positions(mask, shape)
    q_len = max(int(q.array.max()) + 1, 1) if mask.q_len is None else mask.q_len
    kv_len = max(int(kv.array.max()) + 1, 1) if mask.kv_len is None else mask.kv_len
    lengths = (q_len, kv_len)

    def moved(part: Mask) -> Mask:
        return Remap(part, q, kv, *lengths)

    def picked(q_ids: _Ints, kv_ids: _Ints) -> Mask:
        """The ids of the tokens that come to stand at each position."""
        pairs = ((q, q_ids), (kv, kv_ids))
        return Segments(*(np.where(at.array < 0, -1, ids[at.array]) for at, ids in pairs))

    valid = picked(*(np.zeros(length, np.int32) for length in lengths))
    inner = mask.mask
    if lengths == shape and all(np.array_equal(at.array, np.arange(len(at))) for at in (q, kv)):
        return inner, False
    match inner:
        case Full():
            return valid, False
        case Empty():
            return inner, False
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            return type(inner)(tuple(map(moved, masks))), False
        case Not(mask=part):
            return valid - moved(part), False
        case Segments():
            return picked(*(ids.array for ids in segment_ids(inner, lengths))), False
        case Rectangle(q_start=q0, q_stop=q1, kv_start=k0, kv_stop=k1):
            ids = [np.full(length, -1, np.int32) for length in lengths]
            ids[0][q0:q1] = ids[1][k0:k1] = 0
            return picked(*ids), False
        case Remap(mask=part):
            inner_at = _positions(inner, lengths)
            both = [
                np.where(a.array < 0, -1, b.array[a.array])
                for a, b in zip((q, kv), inner_at, strict=True)
            ]
            least = [
                max(int(at.array.max()) + 1, 1) if given is None else given
                for at, given in zip(inner_at, (inner.q_len, inner.kv_len), strict=True)
            ]
            return Remap(part, both[0], both[1], least[0], least[1]), False
    return _wrapped(inner, lengths, canonical, moved)


def _positions(mask: Remap, shape: Shape) -> tuple[FrozenArray, FrozenArray]:
    both = mask.q_positions, mask.q_positions if mask.kv_positions is None else mask.kv_positions
    for name, at, length in zip(("q_positions", "kv_positions"), both, shape, strict=True):
        if len(at) != length:
            side = "q_len" if name == "q_positions" else "kv_len"
            hint = " (pass kv_positions where q_len != kv_len)" if mask.kv_positions is None else ""
            raise MaskArgumentError(
                f"Remap.{name}: expected {side}={length} positions, got {len(at)}{hint}"
            )
    return both
