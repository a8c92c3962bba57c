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

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray
    from maskc_kernels.tpu.segments import BlockIds

__all__ = ["Entry", "EntryForm", "WorkList", "work_list"]

FIRST, LAST, LISTED, PARTIAL, CUT = (1 << bit for bit in range(5))
FLAGS = 5
"""Bits of an entry before its column."""

_WORD = 32


class Entry(NamedTuple):
    """One decoded entry, int32 scalars.

    Attributes:
        first: not 0 where a row begins.
        last: not 0 where it ends.
        listed: not 0 unless the row has no block; then the rest means nothing.
        partial: not 0 if the mask lets only some of the block's pairs attend.
        cut: not 0 if segment ids may forbid some of them.
        col: number of the block on the other side.
        partial_id: which partial block applies.
        held: bit `t` is set unless tile `t` of that block is empty.
    """

    first: jax.Array
    last: jax.Array
    listed: jax.Array
    partial: jax.Array
    cut: jax.Array
    col: jax.Array
    partial_id: jax.Array
    held: jax.Array


@dataclass(frozen=True, slots=True)
class EntryForm:
    """How entries are packed; static.

    Attributes:
        col_bits: bits of a column.
        words: int32 words per entry: 1 if flags, column and partial id fit 32 bits, else 2.
        chunk: entries per chunk that is streamed.
        tiles: bits of a partial id that are its tiles'.
    """

    col_bits: int
    words: int
    chunk: int
    tiles: int = 0

    def decode(self, words: tuple[jax.Array, ...]) -> Entry:
        """The entry that int32 scalars hold."""
        flags = words[0]
        col = jax.lax.shift_right_logical(flags, jnp.int32(FLAGS))
        if self.words == 1:
            partial_id = jax.lax.shift_right_logical(col, jnp.int32(self.col_bits))
            col &= jnp.int32((1 << self.col_bits) - 1)
        else:
            partial_id = words[1]
        first, last, listed, partial, cut = (
            flags & jnp.int32(mark) for mark in (FIRST, LAST, LISTED, PARTIAL, CUT)
        )
        held = partial_id & jnp.int32((1 << self.tiles) - 1)
        if self.tiles:
            partial_id = jax.lax.shift_right_logical(partial_id, jnp.int32(self.tiles))
        return Entry(first, last, listed, partial, cut, col, partial_id, held)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """All masks' entries, one mask after the other; a pytree.

    Attributes:
        form: how they are packed.
        batches: how many batches have lists of their own; 1 if all have the same.
        ptr: int32 [batches * masks + 1], offsets of the lists, in entries.
        entries: int32 [chunks * chunk * words]; two chunks more than needed, so that reading
            ahead stays inside.
    """

    form: EntryForm = field(metadata={"static": True})
    batches: int = field(metadata={"static": True})
    ptr: jax.Array
    entries: jax.Array

    @property
    def masks(self) -> int:
        """How many masks there are."""
        return (self.ptr.shape[0] - 1) // self.batches


def work_list(
    table: BlockTable,
    *,
    rows: int,
    cols: int,
    chunk: int = 1024,
    ids: tuple[BlockIds, BlockIds] | None = None,
    numbered: bool = True,
    tiles: int = 0,
) -> WorkList:
    """Merge the full and the partial blocks of every row into one list.

    Args:
        table: block lists of one pass.
        rows: rows of one mask.
        cols: blocks of the other side.
        chunk: entries per chunk.
        ids: segment ids of the rows and of the columns. Then every batch has lists of its own,
            without the blocks whose ids do not meet.
        numbered: say which partial block applies; row bounds need no such number, and an entry
            then fits one word.
        tiles: how many of the lowest bits of a partial id say which tiles are not empty.

    Returns:
        The list; in every row first the full blocks, then the partial ones.
    """
    col_bits = max(1, (cols - 1).bit_length())
    id_bits = max(1, (table.partial_blocks.shape[0] - 1).bit_length()) if numbered else 0
    form = EntryForm(col_bits, 1 if FLAGS + col_bits + id_bits + tiles <= _WORD else 2, chunk)
    # No word of tiles, and one dtype for all, so that the passes of a program share one text.
    shift = FLAGS + col_bits if form.words == 1 else 0
    numbers = jnp.asarray(table.partial_id).astype(jnp.int32) << shift
    table = replace(table, partial_id=numbers if numbered else jnp.zeros_like(numbers))
    work: WorkList = _merged(table, form=form, rows=rows, ids=ids)
    return replace(work, form=replace(form, tiles=tiles))


@functools.partial(jax.jit, static_argnames=("form", "rows"))
def _merged(
    table: BlockTable,
    *,
    form: EntryForm,
    rows: int,
    ids: tuple[BlockIds, BlockIds] | None,
) -> WorkList:
    """The list in a given form."""
    chunk = form.chunk
    lists = [
        _listed(table.full_ptr, table.full_idx, None, form, rows, ids),
        _listed(table.partial_ptr, table.partial_idx, table.partial_id, form, rows, ids),
    ]
    full, partial = (part.per_row for part in lists)
    size = jnp.maximum(full + partial, 1)
    ends = jnp.cumsum(size, dtype=jnp.int32).reshape(size.shape)
    starts = ends - size

    batches, most = size.shape[0], sum(part.words.shape[1] for part in lists) + size.shape[1]
    length = (-(-batches * most // chunk) + 2) * chunk
    entries = jnp.zeros((length, form.words), jnp.int32)
    first, last = starts.reshape(-1), ends.reshape(-1) - 1
    entries = entries.at[first, 0].set(FIRST, unique_indices=True, indices_are_sorted=True)
    entries = entries.at[last, 0].add(LAST, unique_indices=True, indices_are_sorted=True)
    entries = lists[0].put(entries, starts)
    entries = lists[1].put(entries, starts + full)
    ptr = jnp.concatenate([starts.reshape(-1), ends[-1, -1:]])[::rows]
    return WorkList(form, batches, ptr, entries.reshape(-1))


class _Listed(NamedTuple):
    """The blocks of one kind, of which every batch keeps some.

    Attributes:
        ptr: int32 [rows + 1], offsets of the rows of all masks.
        words: int32 [batches, n, words], its entry, without the marks of rows.
        before: int32 [batches, n + 1], how many blocks are kept before it.
        sorted: what is kept of a list is its beginning.
    """

    ptr: jax.Array
    words: jax.Array
    before: jax.Array
    sorted: bool

    @property
    def per_row(self) -> jax.Array:
        """How many blocks every row keeps: int32 [batches, rows]."""
        return jnp.diff(self.before[:, self.ptr], axis=1)

    def put(self, entries: jax.Array, starts: jax.Array) -> jax.Array:
        """Add what is kept to the entries of every row, from `starts[batch, row]` on."""
        batches, n, words = self.words.shape
        if not n:
            return entries
        first = self.before[:, self.ptr[:-1]]
        place = _spread(starts - first, self.ptr, n) + self.before[:, :-1]
        kept = jnp.diff(self.before, axis=1) != 0
        beyond = len(entries) + jnp.arange(batches * n, dtype=jnp.int32).reshape(batches, n)
        return entries.at[jnp.where(kept, place, beyond).reshape(-1)].add(
            self.words.reshape(-1, words),
            mode="drop", unique_indices=True, indices_are_sorted=self.sorted,
        )  # fmt: skip


def _listed(
    offsets: TableArray,
    columns: TableArray,
    numbers: TableArray | None,
    form: EntryForm,
    rows: int,
    ids: tuple[BlockIds, BlockIds] | None,
) -> _Listed:
    """Blocks of one kind; `numbers` of partial ones, in their places in a word."""
    ptr, col = jnp.asarray(offsets), jnp.asarray(columns).astype(jnp.int32)
    # Lists may be longer than their rows say; what no row points at goes nowhere.
    before = jnp.minimum(jnp.arange(len(col) + 1, dtype=jnp.int32), ptr[-1])[None]
    flags = (LISTED if numbers is None else LISTED | PARTIAL) | col[None] << FLAGS
    if ids is not None:
        row = jnp.arange(len(ptr) - 1, dtype=jnp.int32)[None]
        row = _spread(jax.lax.rem(row, jnp.int32(rows)), ptr, len(col))[0]
        row_ids, col_ids = ids[0].pick(row), ids[1].pick(col)
        kept = row_ids.meets(col_ids) & (jnp.diff(before) != 0)
        before = jnp.pad(jnp.cumsum(kept, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
        flags |= jnp.where(row_ids.cuts(col_ids), CUT, 0)
    number = jnp.zeros_like(col) if numbers is None else jnp.asarray(numbers)
    if form.words == 1:
        words = (flags | number)[..., None]
    else:
        words = jnp.stack(jnp.broadcast_arrays(flags, number[None]), axis=-1)
    return _Listed(ptr, words, before, ids is None)


def _spread(values: jax.Array, ptr: jax.Array, n: int) -> jax.Array:
    """A number per row [batches, rows], given to every block of the row: [batches, n].

    Steps at the rows' beginnings, summed: gathering millions of numbers is slow on a TPU.
    """
    steps = jnp.diff(values, axis=1, prepend=0)
    marks = jnp.zeros((values.shape[0], n + 1), jnp.int32)
    marks = marks.at[:, ptr[:-1]].add(steps, indices_are_sorted=True)
    return jnp.cumsum(marks[:, :n], axis=1, dtype=jnp.int32)
