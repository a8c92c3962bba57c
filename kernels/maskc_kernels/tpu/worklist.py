"""The flat list of blocks that a TPU kernel walks: one entry per non-empty block, packed to bits.

Block lists name full and partial blocks apart, row by row. A kernel that walks them one at a time
wants one stream: what to do next, and whether a row begins or ends there. Rows are not stored.
Every row has an entry, one without blocks too (so that its output is written), and so a kernel
counts rows as they begin.

The list is made on the device, inside the traced program, from the arrays that a plan's view hands
over. Those may be tracers (the plan is an argument of the program), so no host code could read
them; and the program then holds no table, whatever the mask. The cost is a few passes over the
lists, against hundreds of nanoseconds of matmul per entry and head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray

__all__ = ["Entry", "EntryForm", "WorkList", "work_list"]

FIRST, LAST, LISTED, PARTIAL = (1 << bit for bit in range(4))
FLAGS = 4
"""Bits of an entry before its column."""

_WORD = 32


class Entry(NamedTuple):
    """One decoded entry, int32 scalars.

    Attributes:
        first: not 0 where a row begins.
        last: not 0 where it ends.
        listed: not 0 unless the row has no block; then the rest means nothing.
        partial: not 0 if only some of the block's pairs attend.
        col: number of the block on the other side.
        partial_id: which partial block applies.
    """

    first: jax.Array
    last: jax.Array
    listed: jax.Array
    partial: jax.Array
    col: jax.Array
    partial_id: jax.Array


@dataclass(frozen=True, slots=True)
class EntryForm:
    """How entries are packed; static.

    Attributes:
        col_bits: bits of a column.
        words: int32 words per entry: 1 if flags, column and partial id fit 32 bits, else 2.
        chunk: entries per chunk that is streamed.
    """

    col_bits: int
    words: int
    chunk: int

    def decode(self, words: tuple[jax.Array, ...]) -> Entry:
        """The entry that int32 scalars hold."""
        flags = words[0]
        col = jax.lax.shift_right_logical(flags, jnp.int32(FLAGS))
        if self.words == 1:
            partial_id = jax.lax.shift_right_logical(col, jnp.int32(self.col_bits))
            col &= jnp.int32((1 << self.col_bits) - 1)
        else:
            partial_id = words[1]
        first, last, listed, partial = (
            flags & jnp.int32(mark) for mark in (FIRST, LAST, LISTED, PARTIAL)
        )
        return Entry(first, last, listed, partial, col, partial_id)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """All masks' entries, one mask after the other; a pytree.

    Attributes:
        form: how they are packed.
        ptr: int32 [masks + 1], offsets of the masks, in entries.
        entries: int32 [chunks * chunk * words]; two chunks more than needed, so that reading
            ahead stays inside.
    """

    form: EntryForm = field(metadata={"static": True})
    ptr: jax.Array
    entries: jax.Array


def work_list(table: BlockTable, rows: int, cols: int, *, chunk: int = 1024) -> WorkList:
    """Merge the full and the partial blocks of every row into one list.

    Args:
        table: block lists of one pass.
        rows: rows of one mask.
        cols: blocks of the other side.
        chunk: entries per chunk.

    Returns:
        The list; in every row first the full blocks, then the partial ones.
    """
    col_bits = max(1, (cols - 1).bit_length())
    id_bits = max(1, (table.partial_blocks.shape[0] - 1).bit_length())
    words = 1 if FLAGS + col_bits + id_bits <= _WORD else 2
    full_ptr, partial_ptr = jnp.asarray(table.full_ptr), jnp.asarray(table.partial_ptr)
    full, partial = jnp.diff(full_ptr), jnp.diff(partial_ptr)
    size = jnp.maximum(full + partial, 1)
    ends = jnp.cumsum(size, dtype=jnp.int32)
    starts = ends - size

    most = table.full_idx.shape[0] + table.partial_idx.shape[0] + size.shape[0]
    length = (-(-most // chunk) + 2) * chunk
    entries = jnp.zeros((length, words), jnp.int32)
    entries = entries.at[starts, 0].set(FIRST, unique_indices=True, indices_are_sorted=True)
    entries = entries.at[ends - 1, 0].add(LAST, unique_indices=True, indices_are_sorted=True)
    columns = _words(table.full_idx, None, LISTED, col_bits, words)
    entries = _put(entries, columns, starts, full_ptr)
    columns = _words(table.partial_idx, table.partial_id, LISTED | PARTIAL, col_bits, words)
    entries = _put(entries, columns, starts + full, partial_ptr)
    ptr = jnp.concatenate([starts, ends[-1:]])[::rows]
    return WorkList(EntryForm(col_bits, words, chunk), ptr, entries.reshape(-1))


def _words(
    columns: TableArray, ids: TableArray | None, flags: int, col_bits: int, words: int
) -> jax.Array:
    """What the list holds for these blocks, without the marks of rows: int32 [blocks, words]."""
    col = jnp.asarray(columns).astype(jnp.int32)
    number = jnp.zeros_like(col) if ids is None else jnp.asarray(ids).astype(jnp.int32)
    word = flags | col << FLAGS
    if words == 1:
        return (word | number << (FLAGS + col_bits))[:, None]
    return jnp.stack([word, number], axis=1)


def _put(entries: jax.Array, blocks: jax.Array, starts: jax.Array, ptr: jax.Array) -> jax.Array:
    """Add the blocks of every row from `starts[row]` on."""
    count = blocks.shape[0]
    if not count:
        return entries
    number = jnp.arange(count, dtype=jnp.int32)
    row = jnp.repeat(jnp.arange(len(starts), dtype=jnp.int32), jnp.diff(ptr),
                     total_repeat_length=count)  # fmt: skip
    # Lists may be longer than their rows say; what no row points at goes nowhere.
    beyond = len(entries) + number
    place = jnp.where(number < ptr[-1], starts[row] + number - ptr[row], beyond)
    return entries.at[place].add(blocks, mode="drop", unique_indices=True, indices_are_sorted=True)
