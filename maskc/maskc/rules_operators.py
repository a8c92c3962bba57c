"""Rules for `&`, `|`, `^` and `~`. What is left of them is `&` and `^` of sorted operands, and `~`.

Strip forms are closed under all operators, so at most one is left among the operands of a node.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from maskc.expr import And, Empty, Full, Mask, Not, Or, Xor
from maskc.rules import Rule, Shape, encode, rule
from maskc.strips import AND, NOT, OR, XOR, Strips, combine

__all__ = ["OPERATOR_RULES"]


def _joined(kind: type[And | Or | Xor], masks: Sequence[Mask]) -> Mask:
    """An operator over any number of masks; of none, it is what it leaves unchanged."""
    if len(masks) > 1:
        return kind(tuple(masks))
    return masks[0] if masks else Full() if kind is And else Empty()


def _without(mask: And | Xor, kind: type[Mask]) -> Mask | None:
    """The operator over the operands that are not of a kind; None where all stay."""
    rest = [part for part in mask.masks if not isinstance(part, kind)]
    return None if len(rest) == len(mask.masks) else _joined(type(mask), rest)


def _merged(table: int, mask: And | Or | Xor) -> Mask | None:
    """The strip forms among the operands as one, in pairs of neighbours so that they stay small."""
    waiting = deque([part for part in mask.masks if isinstance(part, Strips)])
    if len(waiting) < 2:
        return None
    apart: list[Mask] = [part for part in mask.masks if not isinstance(part, Strips)]
    while len(waiting) > 1:
        a, b = waiting.popleft(), waiting.popleft()
        joint = combine(table, a, b)
        if joint is None:
            apart += (a, b)
        else:
            waiting.append(joint)
    masks = [*apart, *waiting]
    return None if len(masks) == len(mask.masks) else _joined(type(mask), masks)


def _sorted(mask: And | Xor) -> Mask | None:
    codes = [encode(part) for part in mask.masks]
    if all(a <= b for a, b in itertools.pairwise(codes)):
        return None
    order = sorted(range(len(codes)), key=codes.__getitem__)
    return type(mask)(tuple(mask.masks[i] for i in order))


def _complement(mask: Mask) -> Mask:
    """`~mask` in canonical form, of a canonical mask that is no constant."""
    strips = combine(NOT, mask, mask) if isinstance(mask, Strips) else None
    if strips is not None:
        return strips
    return mask.mask if isinstance(mask, Not) else Not(mask)


# --- | and ~ ------------------------------------------------------------------------------------


@rule(Or)
def or_strips(mask: Or, _: Shape) -> Mask | None:
    """`s | t` of strip forms s and t is a strip form."""
    return _merged(OR, mask)


@rule(Or)
def or_as_and(mask: Or, _: Shape) -> Mask | None:
    """`a | b = ~(~a & ~b)`: De Morgan."""
    return Not(And(tuple(map(Not, mask.masks))))


@rule(Not)
def not_constant(mask: Not, _: Shape) -> Mask | None:
    """`~Full = Empty` and `~Empty = Full`."""
    if isinstance(mask.mask, Full):
        return Empty()
    return Full() if isinstance(mask.mask, Empty) else None


@rule(Not)
def not_not(mask: Not, _: Shape) -> Mask | None:
    """`~~a = a`."""
    return mask.mask.mask if isinstance(mask.mask, Not) else None


@rule(Not)
def not_strips(mask: Not, _: Shape) -> Mask | None:
    """`~s` of a strip form s is a strip form."""
    inner = mask.mask
    return combine(NOT, inner, inner) if isinstance(inner, Strips) else None


# --- & ------------------------------------------------------------------------------------------


@rule(And)
def and_strips(mask: And, _: Shape) -> Mask | None:
    """`s & t` of strip forms s and t is a strip form."""
    return _merged(AND, mask)


@rule(And)
def and_empty(mask: And, _: Shape) -> Mask | None:
    """`a & Empty = Empty`."""
    return Empty() if any(isinstance(part, Empty) for part in mask.masks) else None


@rule(And)
def and_full(mask: And, _: Shape) -> Mask | None:
    """`a & Full = a`."""
    return _without(mask, Full)


@rule(And)
def and_same(mask: And, _: Shape) -> Mask | None:
    """`a & a = a`."""
    distinct = {encode(part): part for part in mask.masks}
    return None if len(distinct) == len(mask.masks) else _joined(And, list(distinct.values()))


@rule(And)
def and_complement(mask: And, _: Shape) -> Mask | None:
    """`a & ~a = Empty`."""
    known = {encode(part) for part in mask.masks}
    negated = (part.mask for part in mask.masks if isinstance(part, Not))
    return Empty() if any(encode(part) in known for part in negated) else None


@rule(And)
def and_absorbs(mask: And, _: Shape) -> Mask | None:
    """`a & ~(~a & b) = a`: absorption, `a & (a | b) = a`."""
    if not any(map(_conjuncts, mask.masks)):
        return None
    known = {encode(_complement(part)) for part in mask.masks}
    rest = [part for part in mask.masks if known.isdisjoint(map(encode, _conjuncts(part)))]
    return None if len(rest) == len(mask.masks) else _joined(And, rest)


@rule(And)
def and_reduces(mask: And, _: Shape) -> Mask | None:
    """`a & ~(a & b) = a & ~b`: `a & (~a | b) = a & b`."""
    if not any(map(_conjuncts, mask.masks)):
        return None
    known = {encode(part) for part in mask.masks}
    for i, part in enumerate(mask.masks):
        inner = _conjuncts(part)
        left = [one for one in inner if encode(one) not in known]
        if len(left) < len(inner):
            return And((*mask.masks[:i], Not(_joined(And, left)), *mask.masks[i + 1 :]))
    return None


def _conjuncts(mask: Mask) -> Sequence[Mask]:
    """Of `~(a & b)` a and b, of another mask none."""
    return mask.mask.masks if isinstance(mask, Not) and isinstance(mask.mask, And) else ()


@rule(And)
def and_commutes(mask: And, _: Shape) -> Mask | None:
    """`b & a = a & b`: operands in the order of their bytes."""
    return _sorted(mask)


# --- ^ ------------------------------------------------------------------------------------------


@rule(Xor)
def xor_strips(mask: Xor, _: Shape) -> Mask | None:
    """`s ^ t` of strip forms s and t is a strip form."""
    return _merged(XOR, mask)


@rule(Xor)
def xor_empty(mask: Xor, _: Shape) -> Mask | None:
    """`a ^ Empty = a`."""
    return _without(mask, Empty)


@rule(Xor)
def xor_full(mask: Xor, _: Shape) -> Mask | None:
    """`a ^ Full = ~a`."""
    for i, part in enumerate(mask.masks):
        if isinstance(part, Full):
            return Not(_joined(Xor, mask.masks[:i] + mask.masks[i + 1 :]))
    return None


@rule(Xor)
def xor_not(mask: Xor, _: Shape) -> Mask | None:
    """`~a ^ b = ~(a ^ b)`."""
    for i, part in enumerate(mask.masks):
        if isinstance(part, Not):
            return Not(Xor((*mask.masks[:i], part.mask, *mask.masks[i + 1 :])))
    return None


@rule(Xor)
def xor_same(mask: Xor, _: Shape) -> Mask | None:
    """`a ^ a = Empty`."""
    odd: dict[bytes, Mask] = {}
    for part in mask.masks:
        if odd.pop(code := encode(part), None) is None:
            odd[code] = part
    return None if len(odd) == len(mask.masks) else _joined(Xor, list(odd.values()))


@rule(Xor)
def xor_corner(mask: Xor, _: Shape) -> Mask | None:
    """`a ^ s = ~(a ^ ~s)` for a strip form s that is True at (0, 0): one of s, ~s for both."""
    for i, part in enumerate(mask.masks):
        if isinstance(part, Strips) and part.corner:
            other = combine(NOT, part, part)
            if other is not None:
                return Not(Xor((*mask.masks[:i], other, *mask.masks[i + 1 :])))
    return None


@rule(Xor)
def xor_commutes(mask: Xor, _: Shape) -> Mask | None:
    """`b ^ a = a ^ b`: operands in the order of their bytes."""
    return _sorted(mask)


OPERATOR_RULES: tuple[Rule, ...] = (
    or_strips,
    or_as_and,
    not_constant,
    not_not,
    not_strips,
    and_strips,
    and_empty,
    and_full,
    and_same,
    and_complement,
    and_absorbs,
    and_reduces,
    and_commutes,
    xor_strips,
    xor_empty,
    xor_full,
    xor_not,
    xor_same,
    xor_corner,
    xor_commutes,
)
