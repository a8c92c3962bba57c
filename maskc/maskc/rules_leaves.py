"""Rules for leaves: sugar is written out, constants get their names, and most become strips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from maskc.arrays import FrozenArray, PackedMask
from maskc.errors import MaskArgumentError
from maskc.expr import (
    Blocks,
    Dense,
    Diagonals,
    Empty,
    Full,
    Intervals,
    Mask,
    Random,
    Segments,
    Strided,
)
from maskc.rules import Rule, Shape, rule
from maskc.strip_leaves import STRIP_LEAVES
from maskc.strips import Strips

__all__ = ["LEAF_CHECKS", "LEAF_RULES"]


def _check_segments(mask: Segments, shape: Shape) -> None:
    kv_ids, hint = mask.kv_ids, ""
    if kv_ids is None:
        kv_ids, hint = mask.q_ids, " (pass kv_ids where q_len != kv_len)"
    _check_ids("q_ids", "q_len", mask.q_ids, shape[0], "")
    _check_ids("kv_ids", "kv_len", kv_ids, shape[1], hint)


def _check_intervals(mask: Intervals, shape: Shape) -> None:
    if len(mask.starts) != shape[0]:
        raise MaskArgumentError(
            f"Intervals.starts: expected q_len={shape[0]} starts, got {len(mask.starts)}"
        )


def _check_blocks(mask: Blocks, shape: Shape) -> None:
    tiles = (-(-shape[0] // mask.tile[0]), -(-shape[1] // mask.tile[1]))
    _check_bits("Blocks.pattern", mask.pattern, tiles)


def _check_ids(name: str, side: str, ids: FrozenArray, length: int, hint: str) -> None:
    if len(ids) != length:
        raise MaskArgumentError(
            f"Segments.{name}: expected {side}={length} ids, got {len(ids)}{hint}"
        )


def _check_bits(where: str, bits: PackedMask, shape: Shape) -> None:
    if bits.shape != shape:
        raise MaskArgumentError(f"{where}: expected shape {shape}, got {bits.shape}")


LEAF_CHECKS: dict[type[Mask], Callable[[Any, Shape], None]] = {
    Segments: _check_segments,
    Intervals: _check_intervals,
    Dense: lambda mask, shape: _check_bits("Dense.mask", mask.mask, shape),
    Blocks: _check_blocks,
}
"""The leaves whose arrays must fit the lengths, and what raises MaskArgumentError if they do not:
which array, its length and what it should be."""


@rule(Strips)
def strips_constant(mask: Strips, _: Shape) -> Mask | None:
    """A strip form that is True everywhere is Full, and one that is True nowhere is Empty."""
    value = mask.value()
    return None if value is None else Full() if value else Empty()


@rule(*(kind for kind in STRIP_LEAVES if kind not in {Full, Empty}))
def leaf_strips(mask: Mask, shape: Shape) -> Mask | None:
    """A leaf with at most 8 intervals per row, on average, is its strip form."""
    return STRIP_LEAVES[type(mask)](mask, shape)


@rule(Dense, Blocks)
def bits_constant(mask: Dense | Blocks, _: Shape) -> Mask | None:
    """A bitmap that is True everywhere is Full, and one that is True nowhere is Empty."""
    bits: PackedMask = mask.mask if isinstance(mask, Dense) else mask.pattern
    trues = bits.count()
    if trues == bits.shape[0] * bits.shape[1]:
        return Full()
    return None if trues else Empty()


@rule(Blocks)
def blocks_tile(mask: Blocks, _: Shape) -> Mask | None:
    """`Blocks(p, n) = Blocks(p, n, n)`."""
    return Blocks(mask.pattern, *mask.tile) if mask.block_kv is None else None


@rule(Random)
def random_constant(mask: Random, _: Shape) -> Mask | None:
    """`Random(0) = Full` and `Random(1) = Empty`."""
    constants: dict[float, Mask] = {0.0: Full(), 1.0: Empty()}
    return constants.get(mask.sparsity)


@rule(Strided)
def strided_phase(mask: Strided, _: Shape) -> Mask | None:
    """`Strided(n, p) = Strided(n, p % n)`."""
    phase = mask.phase % mask.stride
    return None if phase == mask.phase else Strided(mask.stride, phase)


@rule(Diagonals)
def diagonals_seen(mask: Diagonals, shape: Shape) -> Mask | None:
    """Diagonals in order, each once, without those outside of the lengths."""
    given = mask.distances.array
    kept = np.unique(given[(given > -shape[1]) & (given < shape[0])])
    return None if np.array_equal(kept, given) else Diagonals(FrozenArray(kept))


@rule(Segments)
def segments_numbered(mask: Segments, _: Shape) -> Mask | None:
    """Ids may be exchanged: the first to appear is 0, and one without a partner is padding, -1."""
    q_ids = mask.q_ids.array
    kv_ids = q_ids if mask.kv_ids is None else mask.kv_ids.array
    shared, first = np.unique(q_ids, return_index=True)
    keep = (shared >= 0) & np.isin(shared, kv_ids)
    shared, first = shared[keep], first[keep]
    if not len(shared):
        return Empty()
    rank = np.empty(len(shared), np.int32)
    rank[np.argsort(first)] = np.arange(len(shared), dtype=np.int32)

    def numbered(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        at = np.minimum(np.searchsorted(shared, ids), len(shared) - 1)
        return np.where(shared[at] == ids, rank[at], np.int32(-1))

    q_new, kv_new = numbered(q_ids), numbered(kv_ids)
    same = np.array_equal(q_new, q_ids) and np.array_equal(kv_new, kv_ids)
    if same and mask.kv_ids is not None:
        return None
    return Segments(FrozenArray(q_new), FrozenArray(kv_new))


LEAF_RULES: tuple[Rule, ...] = (
    strips_constant,
    leaf_strips,
    bits_constant,
    blocks_tile,
    random_constant,
    strided_phase,
    diagonals_seen,
    segments_numbered,
)
