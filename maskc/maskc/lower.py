"""Canonical masks -> block lists: which blocks are empty, full or partial, and the partial ones.

Exact by construction. A mask in strip form is lowered from its strips, in time that grows with them
and with the blocks found. For any other, `rows.bounds` proves blocks empty or full, and every block
that it cannot decide is evaluated whole, element by element. Nothing of size q_len x kv_len is ever
made, and equal partial blocks are stored once, in the order in which splash attention first meets
them: (mask, q block, kv block).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.expr import Empty, Full, Mask
from maskc.rows import Grid, allowed, bounds
from maskc.strip_leaves import strips_of
from maskc.strips import Strips, find_blocks
from maskc_cache.plan import BlockLists, BlockState, blocks_along, smallest_dtype

__all__ = ["BlockGrid", "Progress", "lower", "lower_transposed"]

Progress = Callable[[int, int], None]
"""Called with (rows of blocks done, rows of blocks in all)."""

_GRID_CELLS = 1 << 22  # blocks classified at a time: some tens of MB of temporaries
_ELEMENTS = 1 << 22  # elements evaluated at a time: 32 MB of positions


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The blocking of one mask: lengths and block sizes.

    Attributes:
        q_len: number of queries.
        kv_len: number of keys.
        block_q: queries per block.
        block_kv: keys per block.
    """

    q_len: int
    kv_len: int
    block_q: int
    block_kv: int

    @property
    def nq(self) -> int:
        """Blocks along the queries."""
        return blocks_along(self.q_len, self.block_q)

    @property
    def nk(self) -> int:
        """Blocks along the keys."""
        return blocks_along(self.kv_len, self.block_kv)


def lower(
    masks: Sequence[Mask], blocking: BlockGrid, progress: Progress = lambda _done, _total: None
) -> BlockLists:
    """The block lists of canonical `masks`, with q blocks as rows.

    Args:
        masks: the unique masks, each canonical for the blocking's lengths.
        blocking: lengths and block sizes; lengths need not be multiples of the blocks.
        progress: called after each strip of block rows.
    """
    bank = _PartialBank(blocking)
    found: list[_Found] = []
    done, total = 0, len(masks) * blocking.nq
    for mask in masks:
        for part in _lower_mask(mask, blocking, bank):
            found.append(part)
            done += len(part.full)
            progress(done, total)
    return _lists(found, blocking.nk, bank.blocks(), blocking)


def lower_transposed(lists: BlockLists, blocking: BlockGrid) -> BlockLists:
    """The same blocks with kv blocks as rows, for dkv. The partial blocks are shared."""
    masks = (len(lists.full_ptr) - 1) // blocking.nq
    turned = []
    for mask in range(masks):
        first = mask * blocking.nq
        full = _turned(lists.full_ptr[first : first + blocking.nq + 1], lists.full_idx, blocking)
        partial = _turned(
            lists.partial_ptr[first : first + blocking.nq + 1], lists.partial_idx, blocking
        )
        turned.append(_Found(*full[:2], *partial[:2], lists.partial_id[partial[2]]))
    return _lists(turned, blocking.nq, lists.partial_blocks, blocking)


def _turned(ptr: _Ints, idx: _Ints, blocking: BlockGrid) -> tuple[_Ints, _Ints, _Ints]:
    """Counts and entries of the columns of one mask's rows, and which entries of `idx` they are."""
    column = idx[ptr[0] : ptr[-1]]
    order = np.argsort(column, kind="stable")  # a radix sort for the small dtypes of lists
    row = np.repeat(np.arange(blocking.nq, dtype=np.int32), np.diff(ptr))
    return np.bincount(column, minlength=blocking.nk), row[order], order + ptr[0]


_Ints = npt.NDArray[Any]


class _Found(NamedTuple):
    """Blocks of some rows of blocks, row by row, ascending.

    Attributes:
        full: how many full blocks each row has.
        full_idx: their columns.
        partial: how many partial blocks each row has.
        partial_idx: their columns.
        partial_id: their numbers in the bank.
    """

    full: _Ints
    full_idx: _Ints
    partial: _Ints
    partial_idx: _Ints
    partial_id: _Ints


class _PartialBank:
    """The unique partial blocks of all masks, by content, in order of first appearance."""

    def __init__(self, blocking: BlockGrid) -> None:
        self._shape = (blocking.block_q, -(-blocking.block_kv // 8))
        self._numbers: dict[bytes, int] = {}
        self._distinct: npt.NDArray[np.uint8] | None = None

    def number(self, packed: npt.NDArray[np.uint8]) -> int:
        """The number of one block."""
        self._settle()
        return self._numbers.setdefault(packed.tobytes(), len(self._numbers))

    def number_distinct(self, blocks: npt.NDArray[np.uint8]) -> _Ints:
        """The numbers of blocks that differ from one another."""
        if self._distinct is None and not self._numbers:
            self._distinct = blocks  # nothing to compare with yet, perhaps never
            return np.arange(len(blocks))
        return np.array([self.number(block) for block in blocks], np.int64)

    def blocks(self) -> npt.NDArray[np.uint8]:
        """All blocks by number."""
        if self._distinct is not None:
            return self._distinct
        content = b"".join(self._numbers)
        return np.frombuffer(content, np.uint8).reshape(-1, *self._shape)

    def _settle(self) -> None:
        """Another block arrives: the distinct ones must be known by content after all."""
        if self._distinct is not None:
            self._numbers = {block.tobytes(): i for i, block in enumerate(self._distinct)}
            self._distinct = None


def _lower_mask(mask: Mask, blocking: BlockGrid, bank: _PartialBank) -> Iterator[_Found]:
    """The blocks of one mask: at once from its strips, else by strips of block rows."""
    constant = isinstance(
        mask, Full | Empty
    )  # these two have names of their own as canonical forms
    strips = strips_of(mask, (blocking.q_len, blocking.kv_len)) if constant else mask
    if isinstance(strips, Strips):
        yield _lower_strips(strips, blocking, bank)
        return
    step = max(1, _GRID_CELLS // blocking.nk)
    for row in range(0, blocking.nq, step):
        rows = np.arange(row, min(row + step, blocking.nq), dtype=np.int64)
        yield _lower_rows(mask, rows, blocking, bank)


def _lower_strips(mask: Strips, blocking: BlockGrid, bank: _PartialBank) -> _Found:
    blocks = find_blocks(mask, blocking.block_q, blocking.block_kv)
    numbers = bank.number_distinct(blocks.bits)
    return _Found(
        blocks.full, blocks.full_idx, blocks.partial, blocks.partial_idx, numbers[blocks.partial_id]
    )


def _lower_rows(mask: Mask, rows: _Ints, blocking: BlockGrid, bank: _PartialBank) -> _Found:
    grid = Grid.of(
        rows * blocking.block_q,
        blocking.block_q,
        blocking.q_len,
        blocking.nk,
        blocking.block_kv,
        blocking.kv_len,
    )
    some, every = bounds(mask, grid)
    whole_q = grid.q[1] - grid.q[0] + 1 == blocking.block_q
    whole_kv = grid.kv[1] - grid.kv[0] + 1 == blocking.block_kv
    full = every & whole_q & whole_kv
    unknown = np.argwhere(some & ~full)
    states = np.where(full, BlockState.FULL, BlockState.EMPTY)
    ids = np.full(states.shape, -1, np.int64)
    for i, j, state, number in _resolve(mask, unknown, int(rows[0]), blocking, bank):
        states[i, j], ids[i, j] = state, number
    full_at, partial_at = states == BlockState.FULL, states == BlockState.PARTIAL
    return _Found(
        full_at.sum(axis=1),
        np.nonzero(full_at)[1],
        partial_at.sum(axis=1),
        np.nonzero(partial_at)[1],
        ids[partial_at],
    )


def _resolve(
    mask: Mask, unknown: _Ints, row: int, blocking: BlockGrid, bank: _PartialBank
) -> Iterator[tuple[int, int, BlockState, int]]:
    """Evaluate undecided blocks, given as (strip row, column) in row-major order."""
    elements = blocking.block_q * blocking.block_kv
    batch = max(1, _ELEMENTS // elements)
    for start in range(0, len(unknown), batch):
        at = unknown[start : start + batch]
        blocks = _evaluate(mask, at + np.array([row, 0]), blocking)
        counts = np.count_nonzero(blocks, axis=(1, 2))
        packed = np.packbits(blocks, axis=2, bitorder="little")
        for (i, j), count, bits in zip(at.tolist(), counts.tolist(), packed, strict=True):
            if count == elements:
                yield i, j, BlockState.FULL, -1
            elif count:
                yield i, j, BlockState.PARTIAL, bank.number(bits)


def _evaluate(mask: Mask, at: _Ints, blocking: BlockGrid) -> npt.NDArray[np.bool_]:
    """Whole blocks as bool [n, block_q, block_kv]; False beyond the lengths."""
    q = at[:, 0, None, None] * blocking.block_q + np.arange(blocking.block_q)[:, None]
    kv = at[:, 1, None, None] * blocking.block_kv + np.arange(blocking.block_kv)
    inside = (q < blocking.q_len) & (kv < blocking.kv_len)
    value = allowed(mask, np.minimum(q, blocking.q_len - 1), np.minimum(kv, blocking.kv_len - 1))
    return value & inside


def _lists(
    found: Sequence[_Found],
    columns: int,
    blocks: npt.NDArray[np.uint8],
    blocking: BlockGrid,
) -> BlockLists:
    """Compressed rows of all that was found, in the smallest dtypes."""
    whole = _Found(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    index = smallest_dtype(columns - 1)

    def offsets(counts: _Ints) -> npt.NDArray[np.int32]:
        ptr = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts, out=ptr[1:])
        return ptr

    return BlockLists(
        block_q=blocking.block_q,
        block_kv=blocking.block_kv,
        full_ptr=offsets(whole.full),
        full_idx=whole.full_idx.astype(index),
        partial_ptr=offsets(whole.partial),
        partial_idx=whole.partial_idx.astype(index),
        partial_id=whole.partial_id.astype(smallest_dtype(max(len(blocks) - 1, 0))),
        partial_blocks=blocks,
    )
