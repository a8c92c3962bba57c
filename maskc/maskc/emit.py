"""Block lists -> splash attention's tables, bit for bit as JAX's `process_mask(_dkv)` makes them.

Source of the definition: `jax.experimental.pallas.ops.tpu.splash_attention` (JAX 0.10.2 to 0.12,
which agree). Where JAX fails, the answer here is the one that its kernel could run: a q shard with
no block at all keeps a width of one empty column, and a mask with nothing partial has no
`mask_next`, sharded or not.

The passes are small on purpose: grids -> next pointers -> shrink -> pad -> downcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskc.lower import BlockGrid
from maskc_cache.plan import BlockLists, BlockState, SplashTables, smallest_dtype

__all__ = ["SplashLayout", "splash_tables"]

_Ints = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True)
class SplashLayout:
    """How splash tables are cut and packed.

    Attributes:
        head_shards: over how many devices the heads are split; it divides the heads.
        q_seq_shards: over how many devices the queries are split; it divides the q blocks.
        shrink_grid: drop empty blocks from rows (fwd) or columns (dkv), where JAX does.
        downcast_smem_data: use the smallest of int8, int16 and int32 for each table.
    """

    head_shards: int = 1
    q_seq_shards: int = 1
    shrink_grid: bool = True
    downcast_smem_data: bool = True


@dataclass(slots=True)
class _Slab:
    """The three tables of one q shard, each [rows, q blocks, kv blocks] until shrunk."""

    data: _Ints
    mask: _Ints
    state: _Ints


def splash_tables(
    lists: BlockLists,
    blocking: BlockGrid,
    head_mask: _Ints,
    layout: SplashLayout,
    direction: Literal["fwd", "dkv"],
) -> SplashTables:
    """The tables of one direction.

    Args:
        lists: block lists with q blocks as rows, in both directions (ids are numbered alike).
        blocking: the blocking that `lists` was made for.
        head_mask: int [heads], the unique mask of each head.
        layout: shards, shrinking and dtypes.
        direction: "fwd" or "dkv".
    """
    rows, may_shrink = _table_rows(head_mask, layout)
    state, ids = lists.states(blocking.nq, blocking.nk)
    state, ids = state[rows], ids[rows]
    per_head_shard = len(rows) // layout.head_shards
    per_q_shard = blocking.nq // layout.q_seq_shards
    slabs = []
    for q in range(0, blocking.nq, per_q_shard):
        parts = [
            _next_blocks(
                state[r : r + per_head_shard, q : q + per_q_shard],
                ids[r : r + per_head_shard, q : q + per_q_shard],
                direction,
            )
            for r in range(0, len(rows), per_head_shard)
        ]
        slab = _Slab(*(np.concatenate([getattr(p, f) for p in parts]) for f in _FIELDS))
        slabs.append(_shrunk(slab, direction) if may_shrink else slab)
    tables = _joined(slabs, direction)
    data_next, mask_next, block_mask = (
        _downcast(getattr(tables, f), enabled=layout.downcast_smem_data) for f in _FIELDS
    )
    return SplashTables(data_next, mask_next if len(lists.partial_blocks) else None, block_mask)


_FIELDS = ("data", "mask", "state")


def _table_rows(head_mask: _Ints, layout: SplashLayout) -> tuple[_Ints, bool]:
    """The unique mask that each table row speaks for, and whether rows may shrink.

    One row per head shard if no shard mixes masks, else one per head.
    """
    shards = head_mask.reshape(layout.head_shards, -1)
    uniform = bool((shards == shards[:, :1]).all())
    rows = shards[:, 0] if uniform else head_mask
    return rows, layout.shrink_grid and uniform and not head_mask.any()


def _next_blocks(state: _Ints, ids: _Ints, direction: str) -> _Slab:
    """Next pointers of one (head shard, q shard), in the order in which its kernel walks."""
    axes = (0, 1, 2) if direction == "fwd" else (2, 0, 1)
    inner = 2 if direction == "fwd" else 1
    index = np.broadcast_to(
        np.arange(state.shape[inner], dtype=np.int32).reshape(
            [-1 if a == inner else 1 for a in range(3)]
        ),
        state.shape,
    )

    def walk(flag: npt.NDArray[np.bool_], value: _Ints) -> _Ints:
        walked = _next_flagged(flag.transpose(axes).ravel(), value.transpose(axes).ravel())
        shape = [state.shape[a] for a in axes]
        return walked.reshape(shape).transpose(np.argsort(axes))

    return _Slab(
        walk(state != BlockState.EMPTY, index),
        walk(state == BlockState.PARTIAL, ids),
        state.astype(np.int32),
    )


def _next_flagged(flag: npt.NDArray[np.bool_], value: _Ints) -> _Ints:
    """At each position the value of the first flagged one at or after it, wrapping to the first."""
    if not flag.any():
        return np.zeros(len(flag), np.int32)
    positions = np.where(flag, np.arange(len(flag)), len(flag))
    following = np.minimum.accumulate(positions[::-1])[::-1]
    following[following == len(flag)] = np.argmax(flag)
    return value[following].astype(np.int32, copy=False)


def _shrunk(slab: _Slab, direction: str) -> _Slab:
    """Keep the non-empty blocks of each line in order, padded with zeros to the longest line.

    fwd keeps kv blocks, pushed left; dkv keeps q blocks, pushed down.
    """
    axis = 2 if direction == "fwd" else 1
    active = slab.state != BlockState.EMPTY
    width = max(int(active.sum(axis=axis).max()), 1)
    lines = np.moveaxis(active, axis, -1)
    if direction == "fwd":
        order = np.argsort(~lines, axis=-1, kind="stable")[..., :width]
    else:
        order = np.argsort(lines, axis=-1, kind="stable")[..., -width:]
    kept = np.take_along_axis(lines, order, -1)

    def gather(table: _Ints) -> _Ints:
        values = np.take_along_axis(np.moveaxis(table, axis, -1), order, -1)
        return np.moveaxis(np.where(kept, values, 0), -1, axis)

    return _Slab(gather(slab.data), gather(slab.mask), gather(slab.state))


def _joined(slabs: list[_Slab], direction: str) -> _Slab:
    """Put q shards one after the other, narrower ones padded at their end to the widest."""
    axis = 2 if direction == "fwd" else 1
    width = max(s.state.shape[axis] for s in slabs)

    def padded(table: _Ints, mode: Literal["constant", "edge"]) -> _Ints:
        pad = [(0, 0)] * 3
        pad[axis] = (0, width - table.shape[axis])
        return np.pad(table, pad, mode=mode)

    return _Slab(
        np.concatenate([padded(s.data, "edge") for s in slabs], axis=1),
        np.concatenate([padded(s.mask, "edge") for s in slabs], axis=1),
        np.concatenate([padded(s.state, "constant") for s in slabs], axis=1),
    )


def _downcast(table: _Ints, *, enabled: bool) -> _Ints:
    dtype = smallest_dtype(int(table.max())) if enabled and table.size else np.dtype(np.int32)
    return np.ascontiguousarray(table, dtype)
