"""Blocks as bits: one bit per key, least significant first, in whole bytes per row.

What a row's last byte holds beyond the block's keys is left open here; `evaluated` clears it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Bits", "cut", "pack", "toeplitz", "transposed", "unpack"]

Bits = npt.NDArray[np.uint8]
_Ints = npt.NDArray[Any]
_TILE = 128  # rows and columns transposed at a time: both sides stay in the cache


def pack(mask: npt.NDArray[np.bool_]) -> Bits:
    """The last axis of a bool array as bits."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack(bits: Bits, count: int) -> npt.NDArray[np.bool_]:
    """The first `count` bits of the last axis."""
    return np.unpackbits(bits, axis=-1, count=count, bitorder="little").view(np.bool_)


def transposed(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The transpose, in C order; numpy alone takes ten times longer for 4096 x 4096."""
    out = np.empty(mask.shape[::-1], np.bool_)
    for i in range(0, mask.shape[0], _TILE):
        for j in range(0, mask.shape[1], _TILE):
            tile = mask[i : i + _TILE, j : j + _TILE]
            out[j : j + _TILE, i : i + _TILE] = tile.T
    return out


def cut(rows: Bits, starts: _Ints, width: int) -> Bits:
    """Blocks out of rows of bits.

    Args:
        rows: [n, bytes].
        starts: the first bit of each block; a block may begin before the rows or end after them,
            and has no bits set there.
        width: bytes per row of a block.

    Returns:
        [blocks, n, width].
    """
    starts = np.clip(starts, -8 * width, 8 * rows.shape[1])
    first, last = int(starts.min()), int(starts.max())
    if first < 0 or last + 8 * width > 8 * rows.shape[1]:
        rows = np.pad(rows, ((0, 0), (width, width + 1)))
        starts = starts + 8 * width
    out = np.empty((len(starts), len(rows), width), np.uint8)
    for phase in np.unique(starts & 7).tolist():
        shifted = rows
        if phase:
            shifted = rows >> np.uint8(phase)
            shifted[:, :-1] |= rows[:, 1:] << np.uint8(8 - phase)
        for block in np.flatnonzero(starts & 7 == phase).tolist():
            at = int(starts[block]) >> 3
            out[block] = shifted[:, at : at + width]
    return out


def toeplitz(diagonals: npt.NDArray[np.bool_], block_q: int, block_kv: int) -> Bits:
    """Blocks that are constant along their diagonals.

    Args:
        diagonals: bool [n, block_q + block_kv - 1], by distance `q - kv` inside a block, ascending
            from `1 - block_kv`.
        block_q: rows of a block.
        block_kv: columns of a block.

    Returns:
        [n, block_q, bytes].
    """
    width = -(-block_kv // 8)
    line = np.pad(diagonals[:, ::-1], ((0, 0), (0, 8 * width + 8 - block_kv)))
    shifted = np.stack([pack(line[:, phase : line.shape[1] - 8 + phase]) for phase in range(8)], 1)
    start = np.arange(block_q - 1, -1, -1)  # where each row begins in the reversed line
    windows = np.lib.stride_tricks.sliding_window_view(shifted, width, axis=2)
    return np.asarray(windows[:, start & 7, start >> 3])
