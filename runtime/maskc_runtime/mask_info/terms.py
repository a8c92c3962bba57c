"""What a mask is made of beside its segment ids: a small tree, a pytree, with no element in it.

None stands for the term that allows every pair. Coordinates are indices of queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import jax

from maskc_runtime.mask_info.traced import Array

if TYPE_CHECKING:
    from maskc.algebra import Mask
    from maskc_cache.plan import Plan

__all__ = [
    "AllOf",
    "AnyOf",
    "Between",
    "Compiled",
    "Equal",
    "Moved",
    "Static",
    "Stored",
    "Term",
    "both",
    "either",
    "heads_of",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class AllOf:
    """Pairs that every term allows."""

    terms: tuple[Term, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class AnyOf:
    """Pairs that some term allows."""

    terms: tuple[Term, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Between:
    """`starts[b, q] <= kv < stops[b, q]`, int32 [batch or 1, q_len] each."""

    starts: Array
    stops: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Equal:
    """`q[b, q] == kv[b, kv] >= 0`, int32 [batch or 1, len] or [batch or 1, heads, len]."""

    q: Array
    kv: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Stored:
    """An explicit mask, [batch or 1, heads or 1, q_len, kv_len]; not zero is True."""

    mask: Array


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """An expression of the mask language: one for all batch rows, or one for each."""

    masks: tuple[Mask, ...]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Compiled:
    """What a plan says; its heads are `batch` rows of as many heads each."""

    plan: Plan
    batch: int = 1


@dataclass(frozen=True, eq=False)
class Moved:
    """`term` at `(q + q_start[b], kv + kv_start[b])`, and nothing outside its lengths.

    Attributes:
        term: what is looked at.
        q_start: int32 [batch or 1].
        kv_start: int32 [batch or 1].
        q_len: queries of the inner term.
        kv_len: keys of the inner term.
    """

    term: Term
    q_start: Array
    kv_start: Array
    q_len: int
    kv_len: int


jax.tree_util.register_dataclass(
    Moved, data_fields=["term", "q_start", "kv_start"], meta_fields=["q_len", "kv_len"]
)

Term: TypeAlias = AllOf | AnyOf | Between | Compiled | Equal | Moved | Static | Stored


def both(*terms: Term | None) -> Term | None:
    """The pairs that all of them allow; expressions for all rows become one expression."""
    parts: list[Term] = []
    for term in terms:
        if isinstance(term, AllOf):
            parts.extend(term.terms)
        elif term is not None:
            parts.append(term)
    joined: list[Term] = []
    for part in parts:
        last = joined[-1] if joined else None
        match last, part:
            case Static(masks=(left,)), Static(masks=(right,)):
                joined[-1] = Static((left & right,))
            case _:
                joined.append(part)
    if len(joined) < 2:
        return joined[0] if joined else None
    return AllOf(tuple(joined))


def either(left: Term | None, right: Term) -> Term | None:
    """The pairs that one of them allows."""
    return None if left is None else AnyOf((left, right))


def heads_of(term: Term | None) -> int:
    """Heads that a term tells apart; 1 if none."""
    match term:
        case AllOf(terms=terms) | AnyOf(terms=terms):
            return max(map(heads_of, terms))
        case Equal(q=q):
            return int(q.shape[1]) if q.ndim == 3 else 1
        case Stored(mask=mask):
            return int(mask.shape[1])
        case Static(masks=masks):
            return max(_heads_of_mask(mask) for mask in masks)
        case Compiled(plan=plan, batch=batch):
            return plan.heads // batch
        case Moved(term=inner):
            return heads_of(inner)
    return 1


def _heads_of_mask(mask: Mask) -> int:
    from maskc.algebra import MultiHead  # the compiler is not needed to import this

    return len(mask.masks) if isinstance(mask, MultiHead) else 1
