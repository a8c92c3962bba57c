"""The non-empty blocks of masks, as runs along their rows of blocks: what lowering finds.

A row of causal is two runs however long it is, and rows that repeat those above them, moved, are
not there at all, so everything that follows (lists, their transposition, tables) costs its output
and little more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import band_loops, run_loops
from maskc.jit import loops_for
from maskc.memory import empty
from maskc_cache.plan import BlockLists, smallest_dtype

__all__ = ["FULL", "MaskBlocks", "lists_of", "part_of", "turned"]

FULL = band_loops.FULL
"""The number of a run of full blocks, where partial ones have that of their bits."""

_Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]


@dataclass(eq=False)
class MaskBlocks:
    """The blocks of one mask or several of the same lengths, in one blocking.

    Attributes:
        bands: int64 [bands, 6], (line, row, period, count, step, still): the lines `line` to `line
            + period * count - 1` are the rows `row` to `row + period - 1`, `count` times, each time
            moved by `step` more columns, but for the first `still` runs of each. Lines are rows of
            blocks, mask after mask; bands are ascending and without gaps, and each is of one mask.
            The step is 0 or more; it is 0 where there are no blocks. Where `still` is not 0 the
            period is 1, some runs do move, and at least a column lies between them and the others.
        ptr: int64 [rows + 1], where each row's runs begin.
        runs: int32 [runs, 3], (start, stop, number): the block columns start to stop - 1, all of
            them full where the number is `FULL`, else all of them the partial block `number`.
            Within a row ascending, apart or of different numbers, never empty.
        bits: uint8 [unique, block_q, ceil(block_kv / 8)], each distinct partial block once, least
            significant bit first, numbered by first appearance (row by row, left to right).
    """

    bands: npt.NDArray[np.int64]
    ptr: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int32]
    bits: npt.NDArray[Any]

    @classmethod
    def of_rows(
        cls,
        ptr: npt.NDArray[np.int64],
        runs: npt.NDArray[np.int32],
        bits: npt.NDArray[Any],
        masks: int = 1,
    ) -> MaskBlocks:
        """Blocks whose rows are all there, as many for each of the masks."""
        height = (len(ptr) - 1) // masks
        bands = [(first, first, height, 1, 0, 0) for first in range(0, len(ptr) - 1, height)]
        return cls(np.array(bands), ptr, runs, bits)

    @property
    def lines(self) -> int:
        """Rows of blocks, those of all masks."""
        line, _, period, count, _, _ = self.bands[-1].tolist()
        return int(line + period * count)

    @property
    def work(self) -> int:
        """What one pass over the rows and runs costs, as `jit.loops_for` counts."""
        return 2 * (len(self.ptr) + len(self.runs))

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """See `band_loops.measure`."""
        loops = loops_for(band_loops, self.work)
        sizes: tuple[int, int, int, int] = loops.measure(self.bands, self.ptr, self.runs)
        return sizes

    @cached_property
    def rows(self) -> _Rows:
        """`(ptr, runs)` of every line, those that repeat others too."""
        if len(self.ptr) == self.lines + 1:
            return self.ptr, self.runs
        _, row, period, count, _, _ = self.bands.T
        found = int(((self.ptr[row + period] - self.ptr[row]) * count).sum())
        ptr, runs = np.empty(self.lines + 1, np.int64), np.empty((found, 3), np.int32)
        loops = loops_for(band_loops, 2 * (len(ptr) + len(runs)))
        loops.expand(self.bands, self.ptr, self.runs, ptr, runs)
        return ptr, runs


def part_of(blocks: MaskBlocks, masks: int, first: int, last: int) -> MaskBlocks:
    """The blocks of some lines of each mask only.

    Args:
        blocks: the blocks of all masks.
        masks: how many masks they are.
        first: first line of each mask.
        last: one past the last.
    """
    ptr, runs = blocks.rows
    height = blocks.lines // masks
    lines = [slice(top + first, top + last) for top in range(0, blocks.lines, height)]
    own = np.concatenate([[0], *(np.diff(ptr)[part] for part in lines)])
    some = np.concatenate([runs[ptr[part.start] : ptr[part.stop]] for part in lines])
    return MaskBlocks.of_rows(np.cumsum(own), some, blocks.bits, masks)


def turned(blocks: MaskBlocks, masks: int, columns: int) -> MaskBlocks:
    """The same blocks with columns as rows; bits stay in (q, kv) orientation, with their numbers.

    Args:
        blocks: the blocks of all masks.
        masks: how many masks they are.
        columns: blocks along a row.
    """
    loops, lines = loops_for(run_loops, blocks.work), masks * columns
    rows = blocks.bands, blocks.ptr, blocks.runs, masks, blocks.lines // masks, columns
    bands = np.empty((masks + 2 * len(blocks.bands), 6), np.int64)
    ptr, room = np.empty(lines + 1, np.int64), 2 * (len(blocks.runs) + lines)
    while True:
        runs = np.empty((room, 3), np.int32)
        found, stored, room = loops.turn(*rows, bands, ptr, runs)
        if room <= len(runs):
            return MaskBlocks(bands[:found], ptr[: stored + 1], runs[:room], blocks.bits)


def lists_of(blocks: MaskBlocks, columns: int, block_q: int, block_kv: int) -> BlockLists:
    """Compressed rows in the smallest dtypes.

    Args:
        blocks: the blocks of all masks, in the lists' direction.
        columns: blocks along a row.
        block_q: queries per block.
        block_kv: keys per block.
    """
    full, partial, _, _ = blocks.sizes
    full_ptr, partial_ptr = np.empty((2, blocks.lines + 1), np.int32)
    index = smallest_dtype(columns - 1)
    full_idx, partial_idx = empty(full, index), empty(partial, index)
    partial_id = empty(partial, smallest_dtype(max(len(blocks.bits) - 1, 0)))
    loops_for(run_loops, blocks.work).list_blocks(
        blocks.bands, blocks.ptr, blocks.runs, np.arange(columns, dtype=index),
        full_ptr, full_idx, partial_ptr, partial_idx, partial_id,
    )  # fmt: skip
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
