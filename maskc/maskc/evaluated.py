"""Masks without a strip form: their blocks, exactly, from one drawing per content class.

Where strips say in closed form which blocks are equal, the nodes met here say it block by block:
`content` gives every block a class for the node and combines the classes of operands, without
drawing a block. Then one block of each class is drawn, as bits, and compared with those before.
Work is done by rows of blocks; nothing of size q_len x kv_len is ever made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskc.block_bank import EMPTY, BlockBank
from maskc.block_runs import FULL, MaskBlocks
from maskc.blocking import BlockGrid
from maskc.content import ALL, NONE, Grid, Ints, Pairs, Part
from maskc.content_tree import part_of
from maskc.expr import Mask
from maskc.packed import Bits

__all__ = ["Progress", "evaluate_blocks"]

Progress = Callable[[int, int], None]
"""Called with (rows of blocks done, rows of blocks in all)."""

_CELLS = 1 << 18  # blocks classified at a time: some tens of MB of temporaries
_BYTES = 1 << 21  # of blocks drawn at a time
_UNKNOWN = -3


def evaluate_blocks(
    mask: Mask, blocking: BlockGrid, progress: Progress = lambda _done, _total: None
) -> MaskBlocks:
    """The blocks of a canonical mask that has no strip form (others are exact, and slower).

    Args:
        mask: canonical for the blocking's lengths.
        blocking: lengths and block sizes; lengths need not be multiples of the blocks.
        progress: called after some rows of blocks each.
    """
    part, bank = part_of(mask, blocking), BlockBank(blocking)
    classes = _Classes(part, blocking)
    ptr, runs = [np.zeros(1, np.int64)], []
    step = max(1, _CELLS // blocking.nk)
    for row in range(0, blocking.nq, step):
        rows = range(row, min(row + step, blocking.nq))
        numbers = classes.numbers(rows, bank)
        counts, found = _runs(numbers)
        ptr.append(ptr[-1][-1] + np.cumsum(counts))
        runs.append(found)
        progress(rows.stop, blocking.nq)
    return MaskBlocks.of_rows(np.concatenate(ptr), np.concatenate(runs), bank.blocks())


class _Classes:
    """The classes of a whole mask: those of its part, told apart at the ragged edges."""

    def __init__(self, part: Part, blocking: BlockGrid) -> None:
        self._part, self._blocking = part, blocking
        blocks = blocking.nq * blocking.nk
        self._even = not (blocking.q_len % blocking.block_q or blocking.kv_len % blocking.block_kv)
        self._at_edges = Pairs(_beyond, part.bound, 4, blocks)
        self._known = np.array([EMPTY, FULL], np.int64)  # the number of each class

    def numbers(self, rows: range, bank: BlockBank) -> Grid:
        """The number of every block of some rows."""
        inner = self._part.classify(rows)
        classes = inner if self._even else self._at_edges(inner, self._edges(rows))
        growth = int(classes.max()) + 1 - len(self._known)
        self._known = np.append(self._known, np.full(max(growth, 0), _UNKNOWN))
        flat = classes.ravel()
        cells = np.flatnonzero(self._known[flat] == _UNKNOWN)
        first = np.empty(len(self._known), np.int64)
        first[flat[cells[::-1]]] = cells[::-1]  # of equal ones the last to be written stays
        cells = cells[first[flat[cells]] == cells]
        at = np.stack(np.divmod(cells, self._blocking.nk), axis=1)
        whole = inner.ravel()[cells] == ALL
        batch = max(1, _BYTES // (self._blocking.block_q * self._blocking.width))
        for start in range(0, len(cells), batch):
            some = slice(start, start + batch)
            bits = bank.room(len(cells[some]), len(cells) - start)
            self._draw(at[some] + [rows.start, 0], whole[some], bits)
            self._known[flat[cells[some]]] = bank.number(len(cells[some]))
        return np.asarray(self._known[classes])

    def _edges(self, rows: range) -> Grid:
        """Per block: 1 if it reaches beyond the keys, plus 2 if beyond the queries."""
        b = self._blocking
        beyond_q = np.array([(i + 1) * b.block_q > b.q_len for i in rows])
        beyond_kv = np.arange(1, b.nk + 1) * b.block_kv > b.kv_len
        return 2 * beyond_q[:, None] + beyond_kv.astype(np.int64)

    def _draw(self, at: Ints, whole: Ints, bits: Bits) -> None:
        """Draw blocks, and clear what lies beyond the lengths."""
        b = self._blocking
        if whole.any():  # at an edge: full as far as it goes
            bits[whole] = 255
            drawn = np.empty((len(at) - int(whole.sum()), *bits.shape[1:]), np.uint8)
            self._part.draw(at[~whole], drawn)
            bits[~whole] = drawn
        else:
            self._part.draw(at, bits)
        rows, columns = b.q_len - (b.nq - 1) * b.block_q, b.kv_len - (b.nk - 1) * b.block_kv
        if rows < b.block_q:
            bits[at[:, 0] == b.nq - 1, rows:] = 0
        if columns < b.block_kv:
            line = np.packbits(np.arange(8 * b.width) < columns, bitorder="little")
            bits[at[:, 1] == b.nk - 1] &= line


def _beyond(classes: Ints, edge: Ints) -> Ints:
    """No block across an edge is full."""
    return np.where((classes == NONE) | ((classes == ALL) & (edge == 0)), classes, 2)


def _runs(numbers: Grid) -> tuple[Ints, Ints]:
    """How many runs of equal blocks each row has, and the runs (start, stop, number)."""
    rows, columns = numbers.shape
    turns = np.ones((rows, columns + 1), np.bool_)
    np.not_equal(numbers[:, 1:], numbers[:, :-1], out=turns[:, 1:-1])
    row, start = np.nonzero(turns)
    inside = start[:-1] < start[1:]  # not the turn at the end of a row
    stop, row, start = start[1:][inside], row[:-1][inside], start[:-1][inside]
    number = numbers[row, start]
    some = number != EMPTY
    runs = np.stack([start[some], stop[some], number[some]], axis=1).astype(np.int32)
    return np.bincount(row[some], minlength=rows), runs
