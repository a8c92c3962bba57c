"""Segment ids at run time: lists cut down, on the device, to the blocks where ids can meet.

A kernel then visits fewer blocks and has no test of ranges in its loops. A full block whose
queries and keys are all of one segment stays full; every other one that is left becomes a partial
block, and partial blocks compare ids. Work and memory are those of the plan's lists, per batch
entry.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskc_kernels.gpu.lists import RowLists, longest_first

__all__ = ["BlockIds", "cut_lists"]

_LAST = np.iinfo(np.int32).max


class BlockIds(NamedTuple):
    """The segment ids of every block of one side.

    Attributes:
        low: int32 [batch, blocks], the smallest id that is not padding; the largest int32 if all
            are.
        high: int32 [batch, blocks], the largest id; -1 if all are padding.
        single: bool [batch, blocks], whether all positions are of one segment.
    """

    low: jax.Array
    high: jax.Array
    single: jax.Array

    @classmethod
    def of(cls, ids: jax.Array, block: int) -> BlockIds:
        """From ids [batch, length]; positions behind the end count as padding."""
        batch, length = ids.shape
        ids = jnp.pad(ids, ((0, 0), (0, -length % block)), constant_values=-1)
        ids = jnp.maximum(ids, -1).reshape(batch, -1, block)
        low, high = jnp.where(ids < 0, _LAST, ids).min(-1), ids.max(-1)
        return cls(low, high, (low == high) & (ids >= 0).all(-1))


def cut_lists(lists: RowLists, row_ids: BlockIds, column_ids: BlockIds) -> RowLists:
    """Lists of every batch entry, without the blocks where no ids meet.

    Args:
        lists: what `row_lists` made of the plan's.
        row_ids: ids of the blocks that the rows stand for.
        column_ids: ids of the blocks that the lists name.

    Returns:
        Lists with a leading batch axis; offsets count from the first entry of the first batch
        entry. The last of `words` is a new block of ones.
    """
    rows = row_ids.low.shape[1]

    def one(row_ids: BlockIds, column_ids: BlockIds) -> RowLists:
        return _cut(lists, rows, row_ids, column_ids)

    cut = jax.vmap(one)(row_ids, column_ids)
    number = jnp.arange(row_ids.low.shape[0], dtype=jnp.int32)[:, None]
    words = lists.words
    if words is not None:
        everything = jnp.full((1, *words.shape[1:]), 0xFFFFFFFF, jnp.uint32)
        words = jnp.concatenate([words, everything])
    return cut._replace(
        full_ptr=cut.full_ptr + number * cut.full_idx.shape[1],
        partial_ptr=cut.partial_ptr + number * cut.partial_idx.shape[1],
        words=words,
        bounds=lists.bounds,
    )


class _Entries(NamedTuple):
    """What becomes of the entries of one list.

    Attributes:
        row: int32 [entries], the list that each is in.
        meets: bool [entries], whether some id of its row is in its column.
        single: bool [entries], whether all ids of both are the same.
    """

    row: jax.Array
    meets: jax.Array
    single: jax.Array


def _entries(
    ptr: jax.Array, idx: jax.Array, rows: int, row_ids: BlockIds, column_ids: BlockIds
) -> _Entries:
    number = jnp.arange(idx.shape[0], dtype=jnp.int32)
    row = jnp.searchsorted(ptr, number, side="right", method="sort").astype(jnp.int32) - 1
    a, b = BlockIds(*(x[row % rows] for x in row_ids)), BlockIds(*(x[idx] for x in column_ids))
    # An entry behind the last row is filler, whatever it holds.
    meets = (a.low <= b.high) & (b.low <= a.high) & (number < ptr[-1])
    return _Entries(row, meets, a.single & b.single & (a.low == b.low))


def _cut(lists: RowLists, rows: int, row_ids: BlockIds, column_ids: BlockIds) -> RowLists:
    full = _entries(lists.full_ptr, lists.full_idx, rows, row_ids, column_ids)
    partial = _entries(lists.partial_ptr, lists.partial_idx, rows, row_ids, column_ids)
    stays, moved = full.meets & full.single, full.meets & ~full.single
    stays_before, moved_before = _count_before(stays), _count_before(moved)
    partial_before = _count_before(partial.meets)
    # In a row the partial blocks come first, then the full ones that ids have cut.
    behind = partial_before[lists.partial_ptr[full.row + 1]]
    moved_to = moved_before[:-1] + behind
    partial_to = partial_before[:-1] + moved_before[lists.full_ptr[partial.row]]
    size = lists.full_idx.shape[0] + lists.partial_idx.shape[0]

    def merged(moved_values: jax.Array, partial_values: jax.Array) -> jax.Array:
        out = jnp.zeros(size, jnp.int32)
        out = _scatter(out, moved_to, moved, moved_values)
        return _scatter(out, partial_to, partial.meets, partial_values)

    partial_id = None
    if lists.partial_id is not None and lists.words is not None:
        ones = jnp.full(lists.full_idx.shape, lists.words.shape[0], jnp.int32)
        partial_id = merged(ones, lists.partial_id)
    full_ptr = stays_before[lists.full_ptr]
    partial_ptr = partial_before[lists.partial_ptr] + moved_before[lists.full_ptr]
    return RowLists(
        order=longest_first(full_ptr, partial_ptr, rows),
        full_ptr=full_ptr,
        full_idx=_scatter(jnp.zeros_like(lists.full_idx), stays_before[:-1], stays, lists.full_idx),
        partial_ptr=partial_ptr,
        partial_idx=merged(lists.full_idx, lists.partial_idx),
        partial_id=partial_id,
        words=None,
        bounds=None,
    )


def _count_before(chosen: jax.Array) -> jax.Array:
    """How many are chosen before each, int32 [entries + 1]."""
    return jnp.pad(jnp.cumsum(chosen, dtype=jnp.int32), (1, 0))


def _scatter(out: jax.Array, to: jax.Array, chosen: jax.Array, values: jax.Array) -> jax.Array:
    to = jnp.where(chosen, to, out.shape[0])
    return out.at[to].set(values.astype(out.dtype), mode="drop")
