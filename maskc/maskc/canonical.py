"""Bring equal masks to one form: bind to the lengths, then rewrite bottom-up.

Binding replaces the leaves that are spellings of others, so that only Full, Empty, Local (a band
of diagonals), ChunkedCausal, Rectangle, Segments, Dense, Blocks and Random remain. Each operator
is then rebuilt by a constructor whose steps are identities, named beside them. Every constructor
takes canonical operands and calls another one only on parts of them, so rewriting ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from maskc.arrays import FrozenArray, PackedMask
from maskc.errors import MaskArgumentError
from maskc.expr import (
    And,
    Blocks,
    Causal,
    ChunkedCausal,
    Dense,
    Documents,
    Empty,
    Full,
    Local,
    Mask,
    MultiHead,
    Not,
    Or,
    Prefix,
    Random,
    Rectangle,
    Segments,
    Xor,
)
from maskc_cache.plan import pack

__all__ = ["canonical", "encode", "spans"]

Shape = tuple[int, int]


def canonical(mask: Mask, q_len: int, kv_len: int) -> Mask:
    """The canonical form of a single head's mask for `q_len` queries and `kv_len` keys.

    It means the same on every element, and `canonical(canonical(m)) == canonical(m)`.

    Raises:
        MaskArgumentError: an array inside the mask does not fit the lengths.
    """
    shape = (q_len, kv_len)
    match mask:
        case And(masks=masks):
            return _and([canonical(m, *shape) for m in masks], shape)
        case Or(masks=masks):
            return _or([canonical(m, *shape) for m in masks], shape)
        case Xor(masks=masks):
            return _xor([canonical(m, *shape) for m in masks], shape)
        case Not(mask=inner):
            return _not(canonical(inner, *shape), shape)
        case MultiHead():
            raise TypeError("a MultiHead mask has one canonical form per head")
        case _:
            return _leaf(mask, shape)


def encode(mask: Mask) -> bytes:
    """Bytes that are equal exactly for equal trees; arrays stand in by dtype, shape and SHA-256."""
    return pack(_listed(mask))


def _listed(value: Any) -> Any:
    match value:
        case Mask():
            return [type(value).__name__, *(_listed(getattr(value, f.name)) for f in fields(value))]  # type: ignore[arg-type]  # every node is a dataclass
        case FrozenArray():
            return value.identity
        case PackedMask():
            return [list(value.shape), value.bits.identity]
        case tuple():
            return [_listed(item) for item in value]
        case _:
            return value


# --- leaves -----------------------------------------------------------------------------------


def _leaf(mask: Mask, shape: Shape) -> Mask:
    q_len, kv_len = shape
    match mask:
        case Full() | Empty():
            return mask
        case Causal(offset=offset, align=align):
            return _band(None, offset + _corner(align, shape), shape)
        case Local(left=left, right=right, offset=offset, align=align):
            shift = offset + _corner(align, shape)
            low = None if left is None else shift - left
            return _band(low, None if right is None else shift + right, shape)
        case ChunkedCausal(chunk=chunk):
            return mask if chunk < max(shape) else _band(None, 0, shape)
        case Prefix(length=length):
            return _rectangle((0, q_len), (0, length), shape)
        case Rectangle(q_start=q0, q_stop=q1, kv_start=k0, kv_stop=k1):
            q1, k1 = (q_len if q1 is None else q1), (kv_len if k1 is None else k1)
            return _rectangle((q0, q1), (k0, k1), shape)
        case Segments(q_ids=q_ids, kv_ids=kv_ids):
            return _segments(q_ids, q_ids if kv_ids is None else kv_ids, shape)
        case Documents():
            return _documents(mask, shape)
        case Dense(mask=dense):
            return _dense(mask, dense, shape, "Dense.mask")
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            tiles = (-(-q_len // tile_q), -(-kv_len // tile_kv))
            return _dense(Blocks(pattern, tile_q, tile_kv), pattern, tiles, "Blocks.pattern")
        case Random(sparsity=sparsity):
            return {0.0: Full(), 1.0: Empty()}.get(sparsity, mask)
    raise TypeError(f"not a mask node: {mask!r}")


def _corner(align: str, shape: Shape) -> int:
    return shape[1] - shape[0] if align == "bottom_right" else 0


def _band(low: int | None, high: int | None, shape: Shape) -> Mask:
    """`low <= kv - q <= high`, its sides dropped where no element lies beyond them."""
    least, most = 1 - shape[0], shape[1] - 1
    low = None if low is None or low <= least else low
    high = None if high is None or high >= most else high
    if low is None and high is None:
        return Full()
    first, last = least if low is None else low, most if high is None else high
    if first > last or first > most or last < least:
        return Empty()
    return Local(None if low is None else -low, high)


def _rectangle(q: Shape, kv: Shape, shape: Shape) -> Mask:
    q_stop, kv_stop = min(q[1], shape[0]), min(kv[1], shape[1])
    if q[0] >= q_stop or kv[0] >= kv_stop:
        return Empty()
    if (q[0], q_stop, kv[0], kv_stop) == (0, shape[0], 0, shape[1]):
        return Full()
    return Rectangle(q[0], q_stop, kv[0], kv_stop)


def _segments(q_ids: FrozenArray, kv_ids: FrozenArray, shape: Shape) -> Mask:
    """Ids numbered by first appearance among the queries; one that lacks a partner is padding."""
    for name, ids, length in (("q_ids", q_ids, shape[0]), ("kv_ids", kv_ids, shape[1])):
        if len(ids) != length:
            side = "q_len" if name == "q_ids" else "kv_len"
            raise MaskArgumentError(
                f"Segments.{name}: expected {side}={length} ids, got {len(ids)}"
                + (" (pass kv_ids where q_len != kv_len)" if q_ids is kv_ids else "")
            )
    shared, first = np.unique(q_ids.array, return_index=True)
    keep = (shared >= 0) & np.isin(shared, kv_ids.array)
    shared, first = shared[keep], first[keep]
    if not len(shared):
        return Empty()
    rank = np.empty(len(shared), np.int32)
    rank[np.argsort(first)] = np.arange(len(shared), dtype=np.int32)

    def renumbered(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        at = np.minimum(np.searchsorted(shared, ids), len(shared) - 1)
        return np.where(shared[at] == ids, rank[at], np.int32(-1))

    q_new, kv_new = renumbered(q_ids.array), renumbered(kv_ids.array)
    if not q_new.any() and not kv_new.any():
        return Full()
    return Segments(FrozenArray(q_new), FrozenArray(kv_new))


def _documents(mask: Documents, shape: Shape) -> Mask:
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
    return _segments(ids[0], ids[1], shape)


def _dense(mask: Mask, bits: PackedMask, shape: Shape, where: str) -> Mask:
    if bits.shape != shape:
        raise MaskArgumentError(f"{where}: expected shape {shape}, got {bits.shape}")
    trues = int(np.bitwise_count(bits.bits.array).sum(dtype=np.int64))
    if trues == shape[0] * shape[1]:
        return Full()
    return mask if trues else Empty()


# --- operators: the operands are canonical, and so is the result -------------------------------


def _not(mask: Mask, shape: Shape) -> Mask:
    match mask:
        case Full():  # ~Full = Empty
            return Empty()
        case Empty():  # ~Empty = Full
            return Full()
        case Not(mask=inner):  # ~~a = a
            return inner
        case And(masks=masks):  # ~(a & b) = ~a | ~b
            return _or([_not(m, shape) for m in masks], shape)
        case Or(masks=masks):  # ~(a | b) = ~a & ~b
            return _and([_not(m, shape) for m in masks], shape)
        case Local(left=None, right=int(right)):  # ~(d <= r) = (d >= r + 1)
            return _band(right + 1, None, shape)
        case Local(left=int(left), right=None):  # ~(d >= l) = (d <= l - 1)
            return _band(None, -left - 1, shape)
        case Local(left=int(left), right=int(right)):  # ~(a & b) = ~a | ~b, of its two sides
            return _or([_band(None, -left - 1, shape), _band(right + 1, None, shape)], shape)
        case _:
            return Not(mask)


def _and(masks: Iterable[Mask], shape: Shape) -> Mask:
    operands = _merge(_flatten(And, masks), _intersect, shape)
    return _lattice(And, Or, operands, unit=Full(), zero=Empty(), shape=shape)


def _or(masks: Iterable[Mask], shape: Shape) -> Mask:
    operands = _merge(_flatten(Or, masks), _unite, shape)
    return _lattice(Or, And, operands, unit=Empty(), zero=Full(), shape=shape)


_CONSTRUCTORS = {And: _and, Or: _or}


def _xor(masks: Iterable[Mask], shape: Shape) -> Mask:
    odd: dict[bytes, Mask] = {}
    inverted = False
    waiting = _flatten(Xor, masks)
    while waiting:
        operand = waiting.pop()
        other = _not(operand, shape)
        if _weight(other) < _weight(operand):  # ~a ^ b = ~(a ^ b): one of a, ~a stands for both
            inverted, operand = not inverted, other
        if isinstance(operand, Xor):  # ~(a ^ b) ^ c = ~(a ^ b ^ c)
            waiting.extend(operand.masks)
        elif not isinstance(operand, Empty):  # a ^ Empty = a
            code = encode(operand)
            if odd.pop(code, None) is None:  # a ^ a = Empty
                odd[code] = operand
    result = _ordered(Xor, odd, Empty())
    return _not(result, shape) if inverted else result


def _weight(mask: Mask) -> tuple[bool, int, bytes]:
    """An order: of a mask and its complement the shorter comes first, and Empty before Full."""
    code = encode(mask)
    return isinstance(mask, Full), len(code), code


def _flatten(kind: type[And | Or | Xor], masks: Iterable[Mask]) -> list[Mask]:
    """(a & b) & c = a & b & c, and likewise for | and ^."""
    flat: list[Mask] = []
    for mask in masks:
        flat.extend(mask.masks if isinstance(mask, kind) else (mask,))
    return flat


def _lattice(
    kind: type[And | Or],
    dual: type[And | Or],
    masks: list[Mask],
    *,
    unit: Mask,
    zero: Mask,
    shape: Shape,
) -> Mask:
    """What & and | have in common, each being the other's dual."""
    operands = {encode(m): m for m in masks if m != unit}  # a & Full = a;  a & a = a
    if any(m == zero for m in operands.values()):  # a & Empty = Empty
        return zero
    complements = {encode(_not(m, shape)) for m in operands.values()}
    if not complements.isdisjoint(operands):  # a & ~a = Empty
        return zero
    for code, mask in operands.items():
        if not isinstance(mask, dual):
            continue
        others = [m for c, m in operands.items() if c != code]
        inner = {encode(m): m for m in mask.masks}
        if not inner.keys().isdisjoint(operands):  # a & (a | b) = a
            return _lattice(kind, dual, others, unit=unit, zero=zero, shape=shape)
        if not inner.keys().isdisjoint(complements):  # a & (~a | b) = a & b
            rest = [m for c, m in inner.items() if c not in complements]
            return _CONSTRUCTORS[kind]([*others, _CONSTRUCTORS[dual](rest, shape)], shape)
    return _ordered(kind, operands, unit)


def _ordered(kind: type[And | Or | Xor], operands: dict[bytes, Mask], unit: Mask) -> Mask:
    """A & b = b & a: operands in the order of their bytes."""
    if len(operands) < 2:
        return next(iter(operands.values()), unit)
    return kind(tuple(operands[code] for code in sorted(operands)))


# --- pairs of leaves that are one leaf ----------------------------------------------------------

Pairing = Callable[[Mask, Mask, Shape], Mask | None]


def _merge(masks: list[Mask], pair: Pairing, shape: Shape) -> list[Mask]:
    """Replace two operands by one wherever `pair` knows how, until it knows no more."""
    done: list[Mask] = []
    waiting = sorted(masks, key=encode)
    while waiting:
        mask = waiting.pop(0)
        for i, other in enumerate(done):
            if (merged := pair(mask, other, shape)) is not None:
                del done[i]
                waiting.insert(0, merged)
                break
        else:
            done.append(mask)
    return done


def _intersect(a: Mask, b: Mask, shape: Shape) -> Mask | None:
    match a, b:
        case Local(), Local():  # window & window = window
            (low_a, high_a), (low_b, high_b) = _diagonals(a, shape), _diagonals(b, shape)
            return _band(max(low_a, low_b), min(high_a, high_b), shape)
        case Rectangle(), Rectangle():  # rectangle & rectangle = rectangle
            (qa, ka), (qb, kb) = spans(a), spans(b)
            q = (max(qa[0], qb[0]), min(qa[1], qb[1]))
            return _rectangle(q, (max(ka[0], kb[0]), min(ka[1], kb[1])), shape)
    return None


def _unite(a: Mask, b: Mask, shape: Shape) -> Mask | None:
    match a, b:
        case Local(), Local():  # windows that touch unite to one window
            (low_a, high_a), (low_b, high_b) = _diagonals(a, shape), _diagonals(b, shape)
            if max(low_a, low_b) <= min(high_a, high_b) + 1:
                return _band(min(low_a, low_b), max(high_a, high_b), shape)
        case Rectangle(), Rectangle():  # rectangles side by side unite to one rectangle
            (qa, ka), (qb, kb) = spans(a), spans(b)
            if qa == qb and max(ka[0], kb[0]) <= min(ka[1], kb[1]):
                return _rectangle(qa, (min(ka[0], kb[0]), max(ka[1], kb[1])), shape)
            if ka == kb and max(qa[0], qb[0]) <= min(qa[1], qb[1]):
                return _rectangle((min(qa[0], qb[0]), max(qa[1], qb[1])), ka, shape)
    return None


def _diagonals(band: Local, shape: Shape) -> Shape:
    low = 1 - shape[0] if band.left is None else -band.left
    return low, shape[1] - 1 if band.right is None else band.right


def spans(rectangle: Rectangle) -> tuple[Shape, Shape]:
    """`(start, stop)` of the queries and of the keys of a canonical rectangle."""
    assert rectangle.q_stop is not None  # noqa: S101  # a bound rectangle has both stops
    assert rectangle.kv_stop is not None  # noqa: S101
    return (rectangle.q_start, rectangle.q_stop), (rectangle.kv_start, rectangle.kv_stop)
