"""The flat list of blocks that a TPU kernel walks: one entry per non-empty block, packed to bits.

Block lists name full and partial blocks apart, row by row. A kernel that walks them one at a time
wants one stream: what to do next, and whether a row begins or ends there. Rows are not stored.
Every row has an entry, one without blocks too (so that its output is written), and so a kernel
counts rows as they begin.

The list is made on the device, inside the traced program, from the arrays that a plan's view hands
over. Those may be tracers (the plan is an argument of the program), so no host code could read
them; and the program then holds no table, whatever the mask. The cost is a few passes over the
lists, against hundreds of nanoseconds of matmul per entry and head. Every operation is a line of
that program, and so full and partial blocks go through the same ones, one behind the other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.tpu.segments import BlockIds

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray

__all__ = ["Entry", "EntryForm", "WorkList", "work_list"]

FIRST, LAST, LISTED, PARTIAL, CUT = (1 << bit for bit in range(5))
FLAGS = 5
"""Bits of an entry before its column."""

_WORD = 32
_NOWHERE = 1 << 30
"""A place behind every list."""

_INSIDE = "promise_in_bounds"


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
        entries: int32 [chunks * chunk * words]; behind the last entry there are one more and a
            whole chunk, so that reading ahead stays inside.
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
    """The list in a given form; partial ids are in their places in a word."""
    chunk, blocks = form.chunk, _Blocks.of(table, ids)
    owners, n = table.full_ptr.shape[0] - 1, len(blocks.number)  # rows of all masks, and blocks
    counts = blocks.first[:, 1:] - blocks.first[:, :-1]
    full, partial = counts[:, :owners], counts[:, owners + 1 :]
    offsets = jax.lax.cumsum(jnp.maximum(full + partial, 1).reshape(-1))
    offsets = jax.lax.pad(offsets, jnp.int32(0), [(1, 0, 0)])

    batches, starts = len(full), offsets[:-1].reshape(full.shape)
    length = (batches * (n + owners) // chunk + 2) * chunk
    nowhere = jnp.full_like(starts[:, :1], _NOWHERE)
    places = jnp.concatenate([starts, nowhere, starts + full, nowhere], axis=1)
    place = _spread(places - blocks.first, blocks.ptr, n) + blocks.before
    if blocks.kept is not None:
        beyond = length + jnp.arange(batches * n, dtype=jnp.int32).reshape(batches, n)
        place = jax.lax.select(blocks.kept & (place < length), place, beyond)

    def put(entries: jax.Array, values: jax.Array) -> jax.Array:
        for kind in (slice(blocks.full), slice(blocks.full, n)):  # the places of each are in order
            entries = entries.at[place[:, kind].reshape(-1)].add(
                values[:, kind].reshape(-1), mode="drop", wrap_negative_indices=False,
                unique_indices=True, indices_are_sorted=ids is None,
            )  # fmt: skip
        return entries

    begins = jnp.zeros(length + 1, jnp.int32).at[offsets].set(
        FIRST, mode=_INSIDE, wrap_negative_indices=False,
        unique_indices=True, indices_are_sorted=True,
    )  # fmt: skip
    # Behind the end of a row another begins, or the list is at its end.
    entries = begins[:-1] | begins[1:] * LAST
    if form.words == 1:
        entries = put(entries, blocks.flags | blocks.number)
    else:
        number = jnp.broadcast_to(blocks.number, place.shape)
        both = put(entries, blocks.flags), put(jnp.zeros_like(entries), number)
        entries = jnp.stack(both, axis=1).reshape(-1)
    return WorkList(form, batches, offsets[::rows], entries)


class _Blocks(NamedTuple):
    """All listed blocks: the full ones row by row, then the partial ones. Batches keep some.

    Behind the last row of both kinds there may be more, at which no row points; they are a row too.

    Attributes:
        full: how many come first.
        ptr: int32 [2 * (rows + 1)], where the rows of both kinds begin.
        number: int32 [n], numbers of partial blocks.
        flags: int32 [batches, n], entries without them and without the marks of rows.
        kept: bool [batches, n]; None is all.
        before: int32 [batches, n], how many blocks are kept before it.
        first: int32 [batches, 2 * (rows + 1)], the same of every row's first.
    """

    full: int
    ptr: jax.Array
    number: jax.Array
    flags: jax.Array
    kept: jax.Array | None
    before: jax.Array
    first: jax.Array

    @classmethod
    def of(cls, table: BlockTable, ids: tuple[BlockIds, BlockIds] | None) -> _Blocks:
        """Of a table; see `work_list`."""
        full = table.full_idx.shape[0]
        ptr = jnp.concatenate([table.full_ptr, table.partial_ptr + full])
        col = jnp.concatenate([_int32(table.full_idx), _int32(table.partial_idx)])
        numbers = _int32(table.partial_id)
        number = jax.lax.pad(numbers, jnp.int32(0), [(full, 0, 0)])
        before = jnp.arange(len(col), dtype=jnp.int32)
        partial = jax.lax.pad(jnp.full_like(numbers, PARTIAL), jnp.int32(0), [(full, 0, 0)])
        flags = col << FLAGS | LISTED | partial
        if ids is None:
            return cls(full, ptr, number, flags[None], None, before[None], ptr[None])
        row_ids, col_ids = _of_rows(ids[0], ptr, len(col)), ids[1].pick(col)
        kept = row_ids.meets(col_ids)
        sums = jax.lax.pad(kept.astype(jnp.int32), jnp.int32(0), [(0, 0, 0), (1, 0, 0)])
        sums = jax.lax.cumsum(sums, axis=1)
        first = sums.at[:, ptr].get(mode=_INSIDE, wrap_negative_indices=False)
        flags |= row_ids.cuts(col_ids).astype(jnp.int32) * CUT
        return cls(full, ptr, number, flags, kept, sums[:, :-1], first)


def _of_rows(ids: BlockIds, ptr: jax.Array, n: int) -> BlockIds:
    """Those of the row of every block; of any behind the last row."""
    fields = jnp.concatenate(ids)
    masks = len(ptr) // 2 // fields.shape[1]
    kinds = jnp.concatenate(([fields] * masks + [fields[:, :1]]) * 2, axis=1)
    return BlockIds(*jnp.split(_spread(kinds, ptr, n), len(ids)))


def _int32(x: TableArray) -> jax.Array:
    return jnp.asarray(x).astype(jnp.int32)


def _spread(values: jax.Array, ptr: jax.Array, n: int) -> jax.Array:
    """A number per row [batches, rows], given to every block of the row: [batches, n].

    Steps at the rows' beginnings, summed: gathering millions of numbers is slow on a TPU.
    """
    steps = values - jax.lax.pad(values, jnp.int32(0), [(0, 0, 0), (1, -1, 0)])
    marks = (
        jnp.zeros((values.shape[0], n + 1), jnp.int32)
        .at[:, ptr]
        .add(steps, mode=_INSIDE, wrap_negative_indices=False, indices_are_sorted=True)
    )
    return jax.lax.cumsum(marks, axis=1)[:, :n]
