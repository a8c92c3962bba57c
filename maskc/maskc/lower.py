"""Canonical masks -> block lists: which blocks are empty, full or partial, and the partial ones.

Exact by construction. `rows.bounds` proves blocks empty or full; every block that it cannot decide
is evaluated whole, element by element. Blocks are visited in rows of blocks, so nothing of size
q_len x kv_len is ever made, and equal partial blocks are stored once, in the order in which splash
attention first meets them: (mask, q block, kv block).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.expr import Mask
from maskc.rows import Grid, allowed, bounds
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
    step = max(1, _GRID_CELLS // blocking.nk)
    for number, mask in enumerate(masks):
        for row in range(0, blocking.nq, step):
            rows = np.arange(row, min(row + step, blocking.nq), dtype=np.int64)
            found.append(_lower_rows(mask, rows, blocking, bank).shifted(number * blocking.nq))
            progress(number * blocking.nq + int(rows[-1]) + 1, len(masks) * blocking.nq)
    return _compress(found, len(masks) * blocking.nq, bank, blocking)


def lower_transposed(lists: BlockLists, blocking: BlockGrid) -> BlockLists:
    """The same blocks with kv blocks as rows, for dkv. The partial blocks are shared."""
    masks = (len(lists.full_ptr) - 1) // blocking.nq

    def turned(ptr: npt.NDArray[np.int32], idx: _Ints) -> tuple[_Ints, _Ints]:
        mask, row = np.divmod(np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)), blocking.nq)
        new_row = mask * blocking.nk + idx
        order = np.argsort(new_row, kind="stable")
        return order, np.stack([new_row[order], row[order]])

    _, full = turned(lists.full_ptr, lists.full_idx)
    order, partial = turned(lists.partial_ptr, lists.partial_idx)
    return _lists(
        _Found(full, partial, lists.partial_id[order]),
        masks * blocking.nk,
        blocking.nq,
        lists.partial_blocks,
        blocking,
    )


_Ints = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Found:
    """Blocks found in row-major order: [2, n] of (row, column), and the partial ones' ids [n]."""

    full: _Ints
    partial: _Ints
    ids: _Ints

    def shifted(self, rows: int) -> _Found:
        down = np.array([[rows], [0]])
        return _Found(self.full + down, self.partial + down, self.ids)


class _PartialBank:
    """The unique partial blocks of all masks, by content, in order of first appearance."""

    def __init__(self, blocking: BlockGrid) -> None:
        self._shape = (blocking.block_q, -(-blocking.block_kv // 8))
        self._numbers: dict[bytes, int] = {}

    def number(self, packed: npt.NDArray[np.uint8]) -> int:
        return self._numbers.setdefault(packed.tobytes(), len(self._numbers))

    def blocks(self) -> npt.NDArray[np.uint8]:
        content = b"".join(self._numbers)
        return np.frombuffer(content, np.uint8).reshape(-1, *self._shape)


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
    offset = np.array([[rows[0]], [0]])
    partial = np.argwhere(states == BlockState.PARTIAL).T
    return _Found(
        np.argwhere(states == BlockState.FULL).T + offset, partial + offset, ids[tuple(partial)]
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


def _compress(
    found: list[_Found], rows: int, bank: _PartialBank, blocking: BlockGrid
) -> BlockLists:
    whole = _Found(
        np.concatenate([f.full for f in found], axis=1),
        np.concatenate([f.partial for f in found], axis=1),
        np.concatenate([f.ids for f in found]),
    )
    return _lists(whole, rows, blocking.nk, bank.blocks(), blocking)


def _lists(
    found: _Found,
    rows: int,
    columns: int,
    blocks: npt.NDArray[np.uint8],
    blocking: BlockGrid,
) -> BlockLists:
    index = smallest_dtype(columns - 1)

    def offsets(row: _Ints) -> npt.NDArray[np.int32]:
        ptr = np.zeros(rows + 1, np.int32)
        np.cumsum(np.bincount(row, minlength=rows), out=ptr[1:])
        return ptr

    return BlockLists(
        block_q=blocking.block_q,
        block_kv=blocking.block_kv,
        full_ptr=offsets(found.full[0]),
        full_idx=found.full[1].astype(index),
        partial_ptr=offsets(found.partial[0]),
        partial_idx=found.partial[1].astype(index),
        partial_id=found.ids.astype(smallest_dtype(max(len(blocks) - 1, 0))),
        partial_blocks=blocks,
    )
