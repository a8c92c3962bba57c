"""What a rewriting rule is, and the measure that every application of one makes smaller."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskc.arrays import FrozenArray, PackedMask
from maskc.expr import (
    And,
    Blocks,
    Diagonals,
    Empty,
    Full,
    Kron,
    Mask,
    Neighborhood,
    Not,
    Or,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
)
from maskc.strips import Strips
from maskc_cache.plan import pack

__all__ = ["Rule", "Shape", "encode", "measure", "rule"]

Shape = tuple[int, int]
"""`(q_len, kv_len)`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One identity, read from left to right.

    Attributes:
        name: unique among the rules.
        identity: what it implements, as in "`a & Full = a`".
        kinds: the nodes that it may apply to.
        apply: from a node whose operands are canonical, and its lengths, to another mask of the
            same meaning; None where the rule does not apply.
    """

    name: str
    identity: str
    kinds: tuple[type[Mask], ...]
    apply: Callable[[Any, Shape], Mask | None]


def rule(*kinds: type[Mask]) -> Callable[[Callable[[Any, Shape], Mask | None]], Rule]:
    """Make a rule of a function; its docstring is the identity."""

    def made(apply: Callable[[Any, Shape], Mask | None]) -> Rule:
        return Rule(apply.__name__, inspect.cleandoc(apply.__doc__ or ""), kinds, apply)

    return made


def encode(mask: Mask) -> bytes:
    """Bytes that are equal exactly for equal trees; arrays stand in by dtype, shape and SHA-256."""
    return pack(_listed(mask))


def _listed(value: Any) -> Any:
    match value:
        case Strips():
            return ["Strips", *value.identity]
        case Mask():
            names = value.__match_args__  # type: ignore[attr-defined]  # every node is a dataclass
            return [type(value).__name__, *(_listed(getattr(value, name)) for name in names)]
        case FrozenArray():
            return value.identity
        case PackedMask():
            return [list(value.shape), value.bits.identity]
        case tuple():
            return [_listed(item) for item in value]
        case _:
            return value


# --- the measure: why rewriting ends ------------------------------------------------------------


def measure(mask: Mask) -> tuple[int, int]:
    """`(weight, disorder)` of a node: every rule makes this pair smaller, as words are ordered.

    The weight of a tree is made from those of its parts by sums and products, so a part that gets
    lighter makes the whole lighter; and operands are canonical before a rule sees a node. Pairs of
    whole numbers >= 0 cannot shrink for ever, so rewriting ends.
    """
    return weight(mask), _disorder(mask)


def weight(mask: Mask) -> int:
    """How far a tree is from being canonical."""
    match mask:
        case Empty():
            return 1
        case Full():
            return 3
        case Strips():
            return 4 if mask.corner else 2
        case Not(mask=inner):
            return weight(inner) + 3
        case And(masks=masks):
            return sum(map(weight, masks)) + len(masks) - 1
        case Or(masks=masks):
            return sum(map(weight, masks)) + 4 * len(masks) + 3
        case Xor(masks=masks):
            return 2 * sum(map(weight, masks)) + len(masks)
        case Transpose(mask=inner):
            return 8 * weight(inner)
        case Shift(mask=inner) | Remap(mask=inner):
            return 8 * weight(inner) + 3
        case Kron(masks=masks):
            return int(16 ** len(masks)) * (sum(map(weight, masks)) + 1)
        case Neighborhood(shape=shape):
            return int(16 ** len(shape)) * (20 * len(shape) + 2)
        case _:
            return 6


def _disorder(mask: Mask) -> int:
    """What is not yet sorted, numbered or written out in a node that keeps its weight."""
    match mask:
        case And(masks=masks) | Xor(masks=masks):
            codes = [encode(part) for part in masks]
            return sum(b < a for i, a in enumerate(codes) for b in codes[i + 1 :])
        case Strided(stride=stride, phase=phase):
            return abs(phase // stride)
        case Diagonals(distances=distances):
            return len(distances) + int((np.diff(distances.array) < 0).sum())
        case Segments(kv_ids=None):
            return 1 << 63
        case Segments(q_ids=q_ids, kv_ids=kv_ids):
            ids = np.concatenate([q_ids.array, kv_ids.array]).astype(np.int64)
            known, first = np.unique(ids[ids >= 0], return_index=True)
            gaps = int(known[-1]) + 1 - len(known) if len(known) else 0
            alone = sum(
                int((~np.isin(a.array, b.array) & (a.array >= 0)).sum())
                for a, b in ((q_ids, kv_ids), (kv_ids, q_ids))
            )
            return int((ids < -1).sum()) + gaps + alone + int((np.diff(first) < 0).sum())
        case Blocks(block_kv=block_kv):
            return int(block_kv is None)
        case Kron(kv_shape=kv_shape, q_shape=q_shape):
            return (
                int(kv_shape is None)
                + int(q_shape[0] is None)
                + (0 if kv_shape is None else int(kv_shape[0] is None))
            )
        case Shift(q_len=q_len, kv_len=kv_len):
            return int(q_len is None) + int(kv_len is None)
        case Remap(kv_positions=kv_positions, q_len=q_len, kv_len=kv_len):
            return sum(given is None for given in (kv_positions, q_len, kv_len))
        case _:
            return 0
