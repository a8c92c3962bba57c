"""Block lists shortened on the device, to what is left of them at run time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray

__all__ = ["compacted", "overlapping", "row_numbers"]


def compacted(
    keep: jax.Array, ptr: TableArray, *columns: TableArray
) -> tuple[jax.Array, list[jax.Array]]:
    """Compressed rows with only the kept entries, once for each row of `keep`.

    All shapes are static: the lists stay as long as they could be, and what no row points at is 0.

    Args:
        keep: bool [copies, entries].
        ptr: int32 [rows + 1], offsets into the entries.
        columns: [entries, ...], what the entries hold.

    Returns:
        Offsets int32 [copies * rows + 1], and the columns, each [copies * entries, ...].
    """
    copies, entries = keep.shape
    ptr = jnp.asarray(ptr)
    listed = jnp.arange(entries, dtype=jnp.int32)
    # Lists may be longer than their rows; no row points at the rest, which has no place to go to.
    flat = (keep & (listed < ptr[-1])).reshape(-1)
    ends = jnp.cumsum(flat, dtype=jnp.int32)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
    starts = jnp.arange(copies, dtype=jnp.int32)[:, None] * entries + ptr[None, :-1]
    places = jnp.where(flat, before[:-1], copies * entries)

    def column(values: TableArray) -> jax.Array:
        array = jnp.asarray(values)
        every = jnp.broadcast_to(array[None], (copies, *array.shape))
        every = every.reshape(copies * entries, *array.shape[1:])
        return jnp.zeros_like(every).at[places].set(every, mode="drop")

    offsets = jnp.concatenate([before[starts.reshape(-1)], before[-1:]])
    return offsets, [column(values) for values in columns]


def row_numbers(ptr: TableArray, entries: int) -> jax.Array:
    """The row of every entry, int32 [entries], from the rows' offsets."""
    listed = jnp.arange(entries, dtype=jnp.int32)
    rows = jnp.searchsorted(jnp.asarray(ptr)[1:], listed, side="right")
    return rows.astype(jnp.int32)


def overlapping(
    table: BlockTable, rows: tuple[jax.Array, jax.Array], others: tuple[jax.Array, jax.Array]
) -> BlockTable:
    """The lists of each batch row, without the blocks whose ids have nothing in common.

    A block stays if the range of its queries' ids and that of its keys' overlap, so none is lost
    that two equal ids meet in.

    Args:
        table: the lists, the same for every batch row.
        rows: least and greatest id of every block on the rows' side, each int32 [batch, blocks];
            a block of no ids has a least one above its greatest.
        others: the same for the other side.

    Returns:
        The lists of one batch row after the other: row `r` of mask `m` in batch row `b` is number
        `(b * masks + m) * rows + r`.
    """
    (row_low, row_high), (low, high) = rows, others

    def kept(ptr: TableArray, idx: TableArray) -> jax.Array:
        row = row_numbers(ptr, idx.shape[0]) % row_low.shape[1]
        column = jnp.asarray(idx).astype(jnp.int32)
        return (row_low[:, row] <= high[:, column]) & (low[:, column] <= row_high[:, row])

    changed: dict[str, Any] = {}
    for kind, names in (("full", ("full_idx",)), ("partial", ("partial_idx", "partial_id"))):
        ptr, columns = getattr(table, f"{kind}_ptr"), [getattr(table, name) for name in names]
        offsets, shorter = compacted(kept(ptr, columns[0]), ptr, *columns)
        changed |= {f"{kind}_ptr": offsets, **dict(zip(names, shorter, strict=True))}
    return dataclasses.replace(table, **changed)
