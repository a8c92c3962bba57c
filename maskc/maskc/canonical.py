"""Bring equal masks to one form: bind to the lengths, then rewrite bottom-up.

Binding resolves alignments and offsets, and gives every leaf whose rows are few intervals its
strip form (`strips`), which is the same for equal masks. Operators of strip forms are strip forms.
What is left (Dense, Random, ...) keeps its node, and each operator over it is rebuilt by a
constructor whose steps are identities, named beside them. Every constructor takes canonical
operands and calls another one only on parts of them, so rewriting ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from maskc.arrays import FrozenArray, PackedMask
from maskc.bind import band_of, check_intervals, rewritten, segment_ids
from maskc.errors import MaskArgumentError
from maskc.expr import (
    And,
    Blocks,
    Causal,
    Chunked,
    Dense,
    Diagonals,
    Empty,
    Full,
    Intervals,
    Kron,
    Local,
    Mask,
    MultiHead,
    Not,
    Or,
    Random,
    Rectangle,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
)
from maskc.strip_leaves import strips_of
from maskc.strips import AND, NOT, OR, XOR, Strips, combine
from maskc_cache.plan import pack

__all__ = ["canonical", "encode"]

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
        case Strips():
            return mask
        case _:
            tree, final = rewritten(mask, shape, canonical)
            if not final:
                return canonical(tree, *shape)
            leaf = _leaf(tree, shape)
            return _folded(strips_of(leaf, shape), leaf)


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
        case Causal() | Local():
            return _band(*band_of(mask, shape), shape)
        case Rectangle(q_start=q0, q_stop=q1, kv_start=k0, kv_stop=k1):
            q1, k1 = (q_len if q1 is None else q1), (kv_len if k1 is None else k1)
            return _rectangle((q0, q1), (k0, k1), shape)
        case Segments():
            return _segments(*segment_ids(mask, shape))
        case Intervals():
            return _intervals(mask, shape)
        case Diagonals(distances=distances):
            return _diagonals(distances, shape)
        case Strided(stride=stride, phase=phase):
            return _strided(stride, phase, shape)
        case Chunked(chunk=chunk, offset=offset):
            offset %= chunk
            whole = -offset // chunk == (max(shape) - 1 - offset) // chunk
            return Full() if whole else Chunked(chunk, offset)
        case Dense(mask=dense):
            return _dense(mask, dense, shape, "Dense.mask")
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            tiles = (-(-q_len // tile_q), -(-kv_len // tile_kv))
            return _dense(Blocks(pattern, tile_q, tile_kv), pattern, tiles, "Blocks.pattern")
        case Random(sparsity=sparsity):
            return {0.0: Full(), 1.0: Empty()}.get(sparsity, mask)
        case Kron() | Shift() | Transpose() | Remap():
            return mask
    raise TypeError(f"not a mask node: {mask!r}")


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


def _segments(q_ids: FrozenArray, kv_ids: FrozenArray) -> Mask:
    """Ids numbered by first appearance among the queries; one that lacks a partner is padding."""
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


def _intervals(mask: Intervals, shape: Shape) -> Mask:
    """Cut to the keys; an empty interval is [kv_len, 0), so that it never widens a range."""
    check_intervals(mask, shape[0])
    starts, stops = (np.clip(a.array, 0, shape[1]) for a in (mask.starts, mask.stops))
    empty = starts >= stops
    if empty.all():
        return Empty()
    if not starts.any() and (stops == shape[1]).all():
        return Full()
    starts, stops = np.where(empty, np.int32(shape[1]), starts), np.where(empty, np.int32(0), stops)
    return Intervals(FrozenArray(starts), FrozenArray(stops))


def _diagonals(distances: FrozenArray, shape: Shape) -> Mask:
    kept = np.unique(distances.array[(distances.array > -shape[1]) & (distances.array < shape[0])])
    if not len(kept):
        return Empty()
    if len(kept) == kept[-1] - kept[0] + 1:  # diagonals side by side are a band
        return _band(-int(kept[-1]), -int(kept[0]), shape)
    return Diagonals(FrozenArray(kept))


def _strided(stride: int, phase: int, shape: Shape) -> Mask:
    if stride == 1:
        return Full()
    least = 1 - shape[1]
    first = least + (phase - least) % stride
    if first >= shape[0]:
        return Empty()
    if first + stride >= shape[0]:  # a single diagonal is a band
        return _band(-first, -first, shape)
    return Strided(stride, phase % stride)


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
        case Strips():  # the complement of a strip form is one
            return _folded(combine(NOT, mask, mask), Not(mask))
        case _:
            return Not(mask)


def _folded(strips: Strips | None, otherwise: Mask) -> Mask:
    """A strip form as a node: constants by their own names, and no form as what it is of."""
    if strips is None:
        return otherwise
    value = strips.value()
    return strips if value is None else Full() if value else Empty()


def _and(masks: Iterable[Mask], shape: Shape) -> Mask:
    operands = _merged(AND, And, _flatten(And, masks))
    return _lattice(And, Or, operands, unit=Full(), zero=Empty(), shape=shape)


def _or(masks: Iterable[Mask], shape: Shape) -> Mask:
    operands = _merged(OR, Or, _flatten(Or, masks))
    return _lattice(Or, And, operands, unit=Empty(), zero=Full(), shape=shape)


def _merged(table: int, kind: type[And | Or | Xor], masks: list[Mask]) -> list[Mask]:
    """The strip forms among the operands of one operator are one strip form."""
    strips = [m for m in masks if isinstance(m, Strips)]
    rest = [m for m in masks if not isinstance(m, Strips)]
    while len(strips) > 1:  # in pairs of neighbours, so that many small ones stay small for long
        pairs = list(zip(strips[::2], strips[1::2], strict=False))
        joined = [_folded(combine(table, a, b), kind((a, b))) for a, b in pairs]
        last = strips[2 * len(pairs) :]
        strips = [m for m in joined if isinstance(m, Strips)] + last
        rest += [m for m in joined if not isinstance(m, Strips)]
    return [*strips, *rest]


_CONSTRUCTORS = {And: _and, Or: _or}


def _xor(masks: Iterable[Mask], shape: Shape) -> Mask:
    inverted, parts, waiting = False, [], list(masks)
    while waiting:
        mask = waiting.pop()
        if isinstance(mask, Not):  # ~a ^ b = ~(a ^ b)
            inverted, mask = not inverted, mask.mask
        if isinstance(mask, Xor):  # (a ^ b) ^ c = a ^ b ^ c
            waiting.extend(mask.masks)
        else:
            parts.append(mask)
    odd: dict[bytes, Mask] = {}
    for part in _merged(XOR, Xor, parts):
        operand, other = part, _not(part, shape)
        if _weight(other) < _weight(operand):  # the same, where one of a, ~a stands for both
            inverted, operand = not inverted, other
        if isinstance(operand, Empty):  # a ^ Empty = a
            continue
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
