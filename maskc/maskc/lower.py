"""Canonical masks -> block lists: which blocks are empty, full or partial, and the partial ones.

Exact by construction. A mask in strip form is lowered from its strips, in time that grows with them
and with the blocks found; any other is `evaluated`. Nothing of size q_len x kv_len is ever made,
and equal partial blocks are stored once, in the order in which splash attention first meets
them: (mask, q block, kv block).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.block_runs import FULL, MaskBlocks
from maskc.blocking import BlockGrid
from maskc.evaluated import Progress, evaluate_blocks
from maskc.expr import Empty, Full, Mask
from maskc.strip_leaves import strips_of
from maskc.strips import Strips, find_blocks
from maskc_cache.plan import BlockLists, smallest_dtype

__all__ = ["lower", "lower_transposed"]


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
    yield _from_runs(evaluate_blocks(mask, blocking), bank)


def _lower_strips(mask: Strips, blocking: BlockGrid, bank: _PartialBank) -> _Found:
    blocks = find_blocks(mask, blocking.block_q, blocking.block_kv)
    numbers = bank.number_distinct(blocks.bits)
    return _Found(
        blocks.full, blocks.full_idx, blocks.partial, blocks.partial_idx, numbers[blocks.partial_id]
    )


def _from_runs(blocks: MaskBlocks, bank: _PartialBank) -> _Found:
    numbers = bank.number_distinct(blocks.bits)
    start, stop, number = blocks.runs.T
    width, row = stop - start, np.repeat(np.arange(len(blocks.ptr) - 1), np.diff(blocks.ptr))
    column = np.repeat(start + width - np.cumsum(width), width) + np.arange(width.sum())
    row, number = np.repeat(row, width), np.repeat(number, width)
    full, rows = number == FULL, len(blocks.ptr) - 1
    return _Found(
        np.bincount(row[full], minlength=rows),
        column[full],
        np.bincount(row[~full], minlength=rows),
        column[~full],
        numbers[number[~full]],
    )


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
