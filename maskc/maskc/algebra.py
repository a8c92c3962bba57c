"""The algebra of masks: the base of every node, the operators, and masks per head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import final

from maskc import checks
from maskc.errors import MaskArgumentError

__all__ = ["And", "Mask", "MultiHead", "Not", "Or", "Plain", "Xor", "check_operands", "per_batch"]


class Mask:
    """Base of every mask node: the operators."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy must not broadcast an operator over its own elements

    def __and__(self, other: Mask) -> Mask:
        return _combine(And, self, other)

    def __or__(self, other: Mask) -> Mask:
        return _combine(Or, self, other)

    def __xor__(self, other: Mask) -> Mask:
        return _combine(Xor, self, other)

    def __sub__(self, other: Mask) -> Mask:
        return self & ~other if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> Mask:
        if isinstance(self, MultiHead):
            return MultiHead([~mask for mask in self.masks])
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value; combine masks with & | ^ ~ -, not and/or/not")

    def __str__(self) -> str:
        return repr(self)

    def _set(self, name: str, value: object) -> None:
        """Store a checked argument while the node is being built."""
        object.__setattr__(self, name, value)

    def _where(self, argument: str) -> str:
        return f"{type(self).__name__}.{argument}"


class Plain(Mask):
    """A node that is no operator; prints only the arguments that differ from their defaults."""

    __slots__ = ()

    def __repr__(self) -> str:
        parts = []
        for field in fields(self):  # type: ignore[arg-type]  # every node is a dataclass
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Not(Mask):
    """`~mask`."""

    mask: Mask

    def __post_init__(self) -> None:
        check_operands(self, (self.mask,))

    def __repr__(self) -> str:
        return f"~{_parenthesised(self.mask)}"


class _Nary(Mask):
    """An associative operator over two or more masks; nested ones of the same kind are joined."""

    __slots__ = ()
    masks: tuple[Mask, ...]
    symbol: str

    def __post_init__(self) -> None:
        masks = tuple(self.masks)
        if len(masks) < 2:
            raise checks.fail(self._where("masks"), "two or more masks", masks)
        check_operands(self, masks)
        joined: list[Mask] = []
        for mask in masks:
            if type(mask) is type(self):
                joined.extend(mask.masks)
            else:
                joined.append(mask)
        self._set("masks", tuple(joined))

    def __repr__(self) -> str:
        return f" {self.symbol} ".join(map(_parenthesised, self.masks))


@final
@dataclass(frozen=True, slots=True, repr=False)
class And(_Nary):
    """`a & b & ...`: attends where every mask does."""

    masks: tuple[Mask, ...]
    symbol = "&"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Or(_Nary):
    """`a | b | ...`: attends where some mask does."""

    masks: tuple[Mask, ...]
    symbol = "|"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Xor(_Nary):
    """`a ^ b ^ ...`: attends where an odd number of masks does."""

    masks: tuple[Mask, ...]
    symbol = "^"


@final
@dataclass(frozen=True, slots=True)
class MultiHead(Mask):
    """One mask per query head. An operator on it works head by head.

    Args:
        masks: one mask for each head, none of them a `MultiHead` itself.
    """

    masks: Sequence[Mask]

    def __post_init__(self) -> None:
        masks = tuple(self.masks)
        if not masks:
            raise checks.fail("MultiHead.masks", "one mask or more", masks)
        check_operands(self, masks)
        self._set("masks", masks)


def per_batch(rows: Iterable[Mask], heads: int | None = None) -> MultiHead:
    """A mask for each batch row and head, of a batch that is folded into the heads.

    Query head h of batch row b is head `b * heads + h`, which is where
    `q.reshape(1, batch * heads, q_len, head_dim)` has it; keys and values fold likewise, fewer
    heads of them too. Rows and heads that share a mask share its part of the plan.

    Args:
        rows: the mask of each batch row, for all its heads or as a `MultiHead`.
        heads: query heads of a batch row; None is as many as a `MultiHead` among the rows has,
            else 1.

    Raises:
        MaskArgumentError: no row, a row that is no mask, or a `MultiHead` of other than `heads`.
    """
    batch = tuple(rows)
    if not batch:
        raise checks.fail("per_batch.rows", "one mask or more", batch)
    if heads is None:
        heads = next((len(row.masks) for row in batch if isinstance(row, MultiHead)), 1)
    checks.at_least("per_batch.heads", heads, 1)
    masks: list[Mask] = []
    for b, row in enumerate(batch):
        own = row.masks if isinstance(row, MultiHead) else (row,) * heads
        if len(own) != heads:
            raise MaskArgumentError(
                f"per_batch.rows: expected a MultiHead of heads={heads} masks, "
                f"got {len(own)} in row {b}"
            )
        masks.extend(own)
    return MultiHead(masks)


def check_operands(node: Mask, masks: tuple[object, ...]) -> None:
    """Refuse what cannot stand inside `node`: only masks of a single head can.

    Raises:
        MaskArgumentError: one of `masks` is no mask, or is a `MultiHead`.
    """
    for mask in masks:
        if not isinstance(mask, Mask) or isinstance(mask, MultiHead):
            raise checks.fail(type(node).__name__, "a mask of a single head", mask)


def _parenthesised(mask: Mask) -> str:
    return f"({mask!r})" if isinstance(mask, _Nary) else repr(mask)


def _combine(kind: type[And | Or | Xor], left: Mask, right: Mask) -> Mask:
    if not isinstance(right, Mask):
        return NotImplemented
    if not isinstance(left, MultiHead) and not isinstance(right, MultiHead):
        return kind((left, right))
    count = max(len(mask.masks) for mask in (left, right) if isinstance(mask, MultiHead))
    heads = [
        mask.masks if isinstance(mask, MultiHead) else (mask,) * count for mask in (left, right)
    ]
    if len(heads[0]) != len(heads[1]):
        raise MaskArgumentError(
            f"{kind.symbol}: expected two MultiHead masks of as many heads, "
            f"got {len(heads[0])} and {len(heads[1])}"
        )
    return MultiHead([_combine(kind, a, b) for a, b in zip(*heads, strict=True)])
