"""Strip form -> blocks: which are full, which partial, and each distinct partial one drawn once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import block_bank_loops, strip_block_loops
from maskc.background import Background
from maskc.block_runs import MaskBlocks
from maskc.jit import compiled, loops_for
from maskc.memory import empty
from maskc.strips import Strips, common_grain, finer

__all__ = ["find_blocks"]

Ints = npt.NDArray[np.int64]

_SHARED = 1 << 24  # bytes of drawn blocks from which a second core repays
_FREE = np.full(1 << 10, -1, np.int64)  # places for names of blocks, to begin with
_LITTLE = np.dtype("<u8")
_FIRST = np.array([(1 << n) - 1 for n in range(65)], np.uint64)  # words by how many bits are set


def find_blocks(
    masks: Sequence[Strips], block_q: int, block_kv: int, background: Background | None = None
) -> MaskBlocks:
    """The blocks of masks of the same lengths, one after the other, with one bank of partial ones.

    Masks are taken in the largest tiles that they and the blocks are made of. A block's content is
    named by the strip form of the block itself, so equal blocks are found equal before any of them
    is drawn, and each is drawn once.

    Args:
        masks: the masks.
        block_q: queries per block.
        block_kv: keys per block.
        background: where bits may still be drawn when this returns; None is to wait for them.
    """
    if background is None:
        with Background() as threads:
            return find_blocks(masks, block_q, block_kv, threads)
    masks = [mask.coarse for mask in masks]
    tile = common_grain((block_q, block_kv), *(mask.grain for mask in masks))
    masks = [finer(mask, tile) for mask in masks]
    height, width = block_q // tile[0], block_kv // tile[1]  # of a block, in tiles
    keys, nq = masks[0].keys, -(-masks[0].q_len // block_q)
    strips = sum(len(mask.rows) for mask in masks)
    loops = loops_for(strip_block_loops, 20 * (nq * len(masks) + strips))
    bank = block_bank_loops if loops is strip_block_loops else compiled(block_bank_loops)
    lines = nq * len(masks)
    bands, ptr = np.empty((lines, 6), np.int64), np.empty(lines + 1, np.int64)
    ptr[0] = 0
    runs = np.empty((4 * (nq + strips), 3), np.int32)
    pool, pool_ptr = np.empty(1 << 14, np.int64), np.zeros(1 << 9, np.int64)
    table, count = _FREE.copy(), np.zeros(1, np.int64)
    start = np.zeros(8, np.int64)
    for number, mask in enumerate(masks):
        start[: strip_block_loops.LINE] = 0
        start[strip_block_loops.LINE] = number * nq
        while lack := loops.find_runs(
            *mask.arrays, height, width, keys, start,
            bands, ptr, runs, table, pool, pool_ptr, count,
        ):  # fmt: skip
            if lack == strip_block_loops.NO_RUNS:
                runs = np.concatenate([runs, np.empty_like(runs)])
                continue
            pool, pool_ptr = (np.concatenate([a, np.empty_like(a)]) for a in (pool, pool_ptr))
            table = np.full(2 * len(table), -1, np.int64)
            bank.rehash(pool, pool_ptr, int(count[0]), table)
    descriptions = pool, pool_ptr[: int(count[0]) + 1]
    bits = _drawn(bank, descriptions, block_q, block_kv, tile, background)
    stored, found = start[strip_block_loops.STORED], start[strip_block_loops.BANDS]
    return MaskBlocks(bands[:found], ptr[: stored + 1], runs[: ptr[stored]], bits)


def _drawn(
    bank: Any,
    descriptions: tuple[Ints, Ints],
    block_q: int,
    block_kv: int,
    tile: tuple[int, int],
    background: Background,
) -> npt.NDArray[np.uint8]:
    """The bits of all descriptions; in the background where a second core repays."""
    (pool, ptr), lines = descriptions, _lines(block_kv, tile[1])
    count, width = len(ptr) - 1, -(-block_kv // 8)
    words = empty((count, block_q, lines.shape[1]), np.uint64)

    def draw(first: int, last: int) -> None:
        bank.paint(pool, ptr, first, last, tile[0], lines, words)

    if words.nbytes < _SHARED or bank is block_bank_loops or width % 8:
        draw(0, count)
    else:
        background.start(draw, 0, count // 2)
        background.start(draw, count // 2, count)
    bits = words.astype(_LITTLE, copy=False).view(np.uint8)
    return np.ascontiguousarray(bits[:, :, :width])


@functools.lru_cache(maxsize=2)
def _lines(block_kv: int, step: int) -> npt.NDArray[np.uint64]:
    """Line x has its first x * step bits set: [block_kv / step + 1, words], for any mask."""
    left, bits = 64 * np.arange(-(-block_kv // 64)), np.arange(0, block_kv + 1, step)
    lines: npt.NDArray[np.uint64] = _FIRST[np.clip(bits[:, None] - left, 0, 64)]
    return lines
