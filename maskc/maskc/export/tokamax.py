"""Plans as tokamax splash attention's `MaskInfo`, as its `process_mask(_dkv)` makes it.

Source of the definition: tokamax 0.0.17, `_src/ops/experimental/tpu/splash_attention`. It has one
mask for all heads, lists only the blocks that are not empty, and knows shards of the keys (ring
attention) as well as of the queries. Where it fails, the answer here is:

- A full mask has no tables, and no `q_sequence` either: tokamax keeps that of a computable mask
  beside a mask function of None, which its kernel refuses.
- The lists of a shard without blocks are one entry of padding, and its `num_active_blocks` is 0;
  those of an empty mask are so too, where tokamax makes lists of size 0 that cannot be indexed.
- A shard without partial blocks beside one that has some names partial block 0 in `mask_next`,
  where tokamax has -1, which its kernel would fetch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc import checks
from maskc.errors import MaskArgumentError
from maskc.walk import Walk, next_flagged, walk
from maskc_cache.plan import BlockState, Plan, smallest_dtype

__all__ = ["MaskInfo", "mask_info"]

_Ints = npt.NDArray[np.signedinteger[Any]]
_PADDING = -1


class MaskInfo(NamedTuple):
    """The fields of tokamax's `MaskInfo`, in its order, as host arrays.

    With a dynamic grid, lists are [shards * longest list], each shard's padded with -1 at its end;
    shards are ordered by (q shard, kv shard). With a static grid they are the flattened block grids
    of the shards. "Rows" are q blocks for fwd and kv blocks for dkv.

    Attributes:
        mask_next: the partial block to fetch next; None if nothing is partial, or computable.
        active_rows: the row of each block within its shard; None with a static grid.
        active_cols: its column within its shard, likewise.
        block_mask: 0 empty, 1 partial, 2 full; None for a full mask.
        num_active_blocks: int32 [shards], the length of each shard's list; None with a static grid.
        partial_mask_blocks: int8 [unique, block_q, block_kv], transposed for dkv; None if nothing
            is partial, or computable.
        q_sequence: int32 [q_len] for a mask that the kernel recomputes, else None.
    """

    mask_next: _Ints | None
    active_rows: _Ints | None
    active_cols: _Ints | None
    block_mask: _Ints | None
    num_active_blocks: _Ints | None
    partial_mask_blocks: _Ints | None
    q_sequence: _Ints | None


def mask_info(
    plan: Plan,
    direction: Literal["fwd", "dkv"] = "fwd",
    *,
    q_seq_shards: int | None = None,
    kv_seq_shards: int = 1,
    dynamic_grid: bool = True,
    computable: bool = False,
    downcast_smem_data: bool = True,
) -> MaskInfo:
    """The tables of one direction of a plan, for tokamax.

    Args:
        plan: a plan whose heads share one mask, of whole blocks.
        direction: "fwd" or "dkv".
        q_seq_shards: over how many devices the queries are split; None is the plan's own.
        kv_seq_shards: over how many devices the keys are split.
        dynamic_grid: list only the blocks that are not empty. tokamax wants this for fwd, and for
            dkv with `dq_reduction_steps=3`.
        computable: give `q_sequence` in place of `mask_next` and `partial_mask_blocks`, as tokamax
            does for a mask that its kernel recomputes with a mask function.
        downcast_smem_data: the smallest integer dtype for each list.

    Raises:
        MaskArgumentError: the heads have several masks, or blocks or shards do not divide the
            lengths.
        ValueError: `direction` is neither "fwd" nor "dkv".
    """
    if direction not in {"fwd", "dkv"}:
        raise ValueError(f"direction: expected 'fwd' or 'dkv', got {direction!r}")
    q_seq_shards = plan.q_seq_shards if q_seq_shards is None else q_seq_shards
    _check(plan, direction, q_seq_shards, kv_seq_shards)
    lists, (rows, columns) = plan.lists(direction), plan.grid(direction)
    if len(lists.full_idx) == rows * columns:
        return MaskInfo(None, None, None, None, None, None, None)
    shards = [
        _listed(blocks, every_row=direction == "dkv") if dynamic_grid else _gridded(blocks, width)
        for blocks, width in _shards(plan, direction, q_seq_shards, kv_seq_shards)
    ]
    partial_blocks = None
    if len(lists.partial_blocks) and not computable:
        partial_blocks = lists.unpacked_blocks().astype(np.int8)
        partial_blocks = partial_blocks.swapaxes(1, 2) if direction == "dkv" else partial_blocks
    active_rows, active_cols, mask_next, block_mask = (
        _joined(parts, downcast=downcast_smem_data) for parts in zip(*shards, strict=True)
    )
    counts = np.array([len(shard[0]) for shard in shards], np.int32)
    return MaskInfo(
        mask_next=None if partial_blocks is None else mask_next,
        active_rows=active_rows if dynamic_grid else None,
        active_cols=active_cols if dynamic_grid else None,
        block_mask=block_mask,
        num_active_blocks=counts if dynamic_grid else None,
        partial_mask_blocks=partial_blocks,
        q_sequence=np.arange(plan.q_len, dtype=np.int32) if computable else None,
    )


def _check(plan: Plan, direction: Literal["fwd", "dkv"], q_seq_shards: int, kv_shards: int) -> None:
    if plan.masks != 1:
        raise MaskArgumentError(
            f"plan: expected one mask for all heads, as tokamax has, got {plan.masks}"
        )
    lists = plan.lists(direction)
    for side, length, block, name, shards in (
        ("q_len", plan.q_len, lists.block_q, "q_seq_shards", q_seq_shards),
        ("kv_len", plan.kv_len, lists.block_kv, "kv_seq_shards", kv_shards),
    ):
        if length % (block * checks.at_least(name, shards, 1)):
            raise MaskArgumentError(
                f"{name}: expected whole blocks in every shard, got {side}={length} "
                f"in {shards} shards of blocks of {block}"
            )


def _shards(
    plan: Plan, direction: Literal["fwd", "dkv"], q_seq_shards: int, kv_seq_shards: int
) -> Iterator[tuple[Walk, int]]:
    """The walk of each shard and how many columns it has, by (q shard, kv shard)."""
    lists, (rows, columns) = plan.lists(direction), plan.grid(direction)
    per_side = (
        (q_seq_shards, kv_seq_shards) if direction == "fwd" else (kv_seq_shards, q_seq_shards)
    )
    height, width = rows // per_side[0], columns // per_side[1]
    for q in range(q_seq_shards):
        for kv in range(kv_seq_shards):
            row, column = (q, kv) if direction == "fwd" else (kv, q)
            lines = np.arange(row * height, (row + 1) * height)
            window = range(column * width, (column + 1) * width)
            yield walk(lists, lines, window if width < columns else None), width


_Shard = tuple[_Ints, _Ints, _Ints, _Ints]
"""Rows, columns, mask_next and block_mask of one shard, int32."""


def _listed(blocks: Walk, *, every_row: bool) -> _Shard:
    """The blocks of a shard, one after the other.

    With `every_row`, a row without a block has an empty one in column 0, so that a kernel visits it
    and writes its zeros.
    """
    counts = np.maximum(blocks.counts, 1) if every_row else blocks.counts
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    exists = np.repeat(blocks.counts > 0, counts)
    partial = np.flatnonzero(exists)[blocks.place]
    state = np.multiply(exists, BlockState.FULL, dtype=np.int32)
    state[partial] = BlockState.PARTIAL
    columns = np.zeros(len(rows), np.int32)
    columns[state == BlockState.FULL] = blocks.full
    columns[partial] = blocks.partial
    return rows, columns, _mask_next(blocks, partial, len(rows)), state


def _gridded(blocks: Walk, width: int) -> _Shard:
    """Every block of a shard's grid; rows and columns are left out."""
    lines = np.arange(len(blocks.counts))
    full_counts = blocks.counts - np.bincount(blocks.line, minlength=len(lines))
    state = np.zeros(len(lines) * width, np.int32)
    state[np.repeat(lines * width, full_counts) + blocks.full] = BlockState.FULL
    partial = blocks.line * width + blocks.partial
    state[partial] = BlockState.PARTIAL
    nothing = np.zeros(0, np.int32)
    return nothing, nothing, _mask_next(blocks, partial, len(state)), state


def _mask_next(blocks: Walk, partial: _Ints, size: int) -> _Ints:
    return next_flagged(partial, blocks.number.astype(np.int32), size)


def _joined(parts: tuple[_Ints, ...], *, downcast: bool) -> _Ints:
    """Lists of all shards in one, each padded to the longest."""
    longest = max(1, *(len(part) for part in parts))
    table = np.full((len(parts), longest), _PADDING, np.int32)
    for row, part in zip(table, parts, strict=True):
        row[: len(part)] = part
    return table.ravel().astype(smallest_dtype(int(table.max()))) if downcast else table.ravel()
