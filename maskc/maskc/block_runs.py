"""The non-empty blocks of masks, as runs along their rows of blocks: what lowering finds.

A row of causal is two runs however long it is, so everything that follows (lists, their
transposition, tables) costs its output and little more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import run_loops
from maskc.jit import loops_for
from maskc.memory import empty
from maskc_cache.plan import BlockLists, smallest_dtype

__all__ = ["FULL", "MaskBlocks", "lists_of", "turned"]

FULL = run_loops.FULL
"""The number of a run of full blocks, where partial ones have that of their bits."""


@dataclass(frozen=True, slots=True)
class MaskBlocks:
    """The blocks of one mask or several of the same lengths, in one blocking.

    Attributes:
        ptr: int64 [masks * rows of blocks + 1], where each row's runs begin, mask after mask.
        runs: int32 [runs, 3], (start, stop, number): the block columns start to stop - 1, all of
            them full where the number is `FULL`, else all of them the partial block `number`.
            Within a row ascending, apart or of different numbers, never empty.
        bits: uint8 [unique, block_q, ceil(block_kv / 8)], each distinct partial block once, least
            significant bit first, numbered by first appearance (row by row, left to right).
    """

    ptr: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int32]
    bits: npt.NDArray[Any]

    @property
    def work(self) -> int:
        """What one pass over the rows and runs costs, as `jit.loops_for` counts."""
        return 2 * (len(self.ptr) + len(self.runs))


def turned(
    blocks: MaskBlocks, masks: int, columns: int, rows: tuple[int, int] | None = None
) -> MaskBlocks:
    """The same blocks with columns as rows; bits stay in (q, kv) orientation, with their numbers.

    Args:
        blocks: the blocks of all masks.
        masks: how many masks they are.
        columns: blocks along a row.
        rows: only those of each mask from the first to before the second; numbered from 0.
    """
    height = (len(blocks.ptr) - 1) // masks
    first, last = rows or (0, height)
    loops = loops_for(run_loops, blocks.work)
    counts = np.zeros((masks, columns), np.int64)
    out = np.empty((0, 3), np.int32)
    loops.turn(blocks.ptr, blocks.runs, height, first, last, counts, out, False)
    ptr = np.zeros(counts.size + 1, np.int64)
    counts.cumsum(out=ptr[1:])
    out = np.empty((ptr[-1], 3), np.int32)
    place = ptr[:-1].reshape(masks, columns).copy()
    loops.turn(blocks.ptr, blocks.runs, height, first, last, place, out, True)
    return MaskBlocks(ptr, out, blocks.bits)


def lists_of(blocks: MaskBlocks, columns: int, block_q: int, block_kv: int) -> BlockLists:
    """Compressed rows in the smallest dtypes.

    Args:
        blocks: the blocks of all masks, in the lists' direction.
        columns: blocks along a row.
        block_q: queries per block.
        block_kv: keys per block.
    """
    loops = loops_for(run_loops, blocks.work)
    full_ptr, partial_ptr = np.empty((2, len(blocks.ptr)), np.int32)
    loops.count(blocks.ptr, blocks.runs, full_ptr, partial_ptr)
    index = smallest_dtype(columns - 1)
    full_idx, partial_idx = (empty(int(ptr[-1]), index) for ptr in (full_ptr, partial_ptr))
    partial_id = empty(len(partial_idx), smallest_dtype(max(len(blocks.bits) - 1, 0)))
    iota = np.arange(columns, dtype=index)
    loops.list_blocks(blocks.runs, iota, full_idx, partial_idx, partial_id)
    return BlockLists(
        block_q=block_q,
        block_kv=block_kv,
        full_ptr=full_ptr,
        full_idx=full_idx,
        partial_ptr=partial_ptr,
        partial_idx=partial_idx,
        partial_id=partial_id,
        partial_blocks=blocks.bits,
    )
