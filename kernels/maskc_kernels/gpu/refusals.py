"""What the GPU kernels cannot run, and why. Reads shapes and dtypes only; imports no Triton."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from maskc_kernels.gpu.config import DIRECTIONS, MIN_TILE, Tiles, largest_tile
from maskc_kernels.gpu.target import architecture, installed

if TYPE_CHECKING:
    import jax

    from maskc_kernels.tables import AttentionTables, BlockTable

__all__ = ["DTYPES", "LARGEST_HEAD_DIM", "refusal"]

DTYPES = ("bfloat16", "float16", "float32")
LARGEST_HEAD_DIM = 256
INT32 = 2**31
FAMILIES = (80, 90, 100, 103)
"""Architectures whose shared memory holds the tiles of the table."""


def refusal(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tables: AttentionTables,
    *,
    q_segment_ids: jax.Array | None = None,
    kv_segment_ids: jax.Array | None = None,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    bias: jax.Array | None = None,
    config: Tiles | None = None,
) -> str | None:
    """Why these kernels cannot run this, in a sentence; None if they can.

    Arguments are those of `block_sparse_attention`.
    """
    if not installed():
        return (
            "the GPU kernels need Triton and jax-triton, which are not installed; "
            "pip install 'maskc[gpu]'"
        )
    found = architecture()
    if found is not None and found not in FAMILIES:
        return (
            f"the GPU kernels are for compute capability "
            f"{', '.join(str(number / 10) for number in FAMILIES)}; got {found / 10}"
        )
    return (
        _of_operands(q, k, v)
        or _of_options(q, k, logits_soft_cap, sinks, bias)
        or _of_segments(q, k, q_segment_ids, kv_segment_ids)
        or _of_blocks(tables, config or Tiles())
    )


def _of_operands(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
    dtypes = {x.dtype.name for x in (q, k, v)}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        return (
            f"q, k, v: the GPU kernels take one dtype of {', '.join(DTYPES)}, got "
            f"{', '.join(sorted(dtypes))}"
        )
    for name, array in (("q", q), ("v", v)):
        if not 0 < array.shape[-1] <= LARGEST_HEAD_DIM:
            return (
                f"{name}: the GPU kernels take head dimensions 1 to {LARGEST_HEAD_DIM}, got "
                f"shape {array.shape}"
            )
    if not all(x.size for x in (q, k, v)):
        return f"q, k, v: nothing to compute for shapes {q.shape}, {k.shape}, {v.shape}"
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.shape[-2] * array.shape[-1] >= INT32:
            return (
                f"{name}: the GPU kernels count the elements of one head in 32 bits, got shape "
                f"{array.shape}"
            )
    return None


def _of_options(
    q: jax.Array,
    k: jax.Array,
    soft_cap: float | None,
    sinks: jax.Array | None,
    bias: jax.Array | None,
) -> str | None:
    if soft_cap is not None and not 0 < soft_cap < math.inf:
        return f"logits_soft_cap: expected a number above 0, got {soft_cap}"
    if sinks is not None and sinks.shape != q.shape[1:2]:
        return f"sinks: expected one logit for each of {q.shape[1]} heads, got shape {sinks.shape}"
    if bias is None:
        return None
    batch, heads, q_len = q.shape[:3]
    fits = len(bias.shape) == 4 and bias.shape[3] == k.shape[2]
    if not fits or any(
        size not in {1, full} for size, full in zip(bias.shape, (batch, heads, q_len), strict=False)
    ):
        return (
            f"bias: expected [{batch} or 1, {heads} or 1, {q_len} or 1, {k.shape[2]}], got shape "
            f"{bias.shape}"
        )
    if bias.dtype.name not in DTYPES:
        return f"bias: the GPU kernels take {', '.join(DTYPES)}, got {bias.dtype.name}"
    return None


def _of_segments(
    q: jax.Array, k: jax.Array, q_ids: jax.Array | None, kv_ids: jax.Array | None
) -> str | None:
    if (q_ids is None) != (kv_ids is None):
        return "segment ids: give q_segment_ids and kv_segment_ids, or neither"
    for name, ids, array in (("q", q_ids, q), ("kv", kv_ids, k)):
        expected = (array.shape[0], array.shape[2])
        if ids is not None and ids.shape != expected:
            return f"{name}_segment_ids: expected shape {expected}, got {ids.shape}"
    return None


def _of_blocks(tables: AttentionTables, config: Tiles) -> str | None:
    for name in DIRECTIONS:
        table: BlockTable = getattr(tables, name)
        tile = config.of(name)
        for side in ("q", "kv"):
            block = getattr(table, f"block_{side}")
            if largest_tile(block) < MIN_TILE:
                return (
                    f"plan: the GPU kernels need blocks that are multiples of {MIN_TILE}, got "
                    f"block_{side} {block} in the {name} pass; compile the plan with other blocks"
                )
            if tile is None:
                continue
            wanted = getattr(tile, side)
            if wanted < MIN_TILE or largest_tile(block) % wanted:
                return (
                    f"config: tiles are powers of two from {MIN_TILE} on that divide the plan's "
                    f"blocks; got {side} {wanted} for block_{side} {block} in the {name} pass"
                )
    return None
