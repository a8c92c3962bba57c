"""Parts that are leaves at their own positions: strips, diagonals, arrays, random elements."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import numpy.typing as npt

from maskc.arrays import PackedMask
from maskc.block_runs import FULL, MaskBlocks
from maskc.blocking import BlockGrid
from maskc.content import ALL, NONE, Grid, Ints, Part
from maskc.expr import Diagonals, Random, Strided
from maskc.packed import Bits, cut, pack, toeplitz, unpack
from maskc.random_bits import random_words

__all__ = ["ArrayPart", "DiagonalPart", "RandomPart", "StripPart", "TilePart"]


@final
class StripPart(Part):
    """A strip form, by the blocks found of it; equal ones have one number already."""

    def __init__(self, blocks: MaskBlocks, blocking: BlockGrid) -> None:
        self.bound = 2 + len(blocks.bits)
        self._blocks, self._columns = blocks, blocking.nk

    def _classify(self, rows: range) -> Grid:
        ptr, runs = self._blocks.rows
        ptr = ptr[rows.start : rows.stop + 1]
        start, stop, number = runs[ptr[0] : ptr[-1]].T
        line = np.repeat(np.arange(len(rows)), np.diff(ptr)) * (self._columns + 1)
        classes = np.where(number == FULL, ALL, number + 2)
        steps = np.zeros(len(rows) * (self._columns + 1), np.int64)
        steps[line + start] = classes  # no two runs start, nor stop, at one place
        steps[line + stop] -= classes
        return np.cumsum(steps).reshape(len(rows), -1)[:, :-1]

    def _draw(self, at: Ints, out: Bits) -> None:
        np.take(self._blocks.bits, self.classes(at) - 2, axis=0, out=out)


@final
class DiagonalPart(Part):
    """Whole diagonals: a block's content depends on which of them cross it, and where.

    Of periodic diagonals, the class is how far the first one lies inside the block; of single
    ones, the distance of the block's corner from the main diagonal.
    """

    def __init__(self, mask: Strided | Diagonals, blocking: BlockGrid) -> None:
        self._blocking = blocking
        self._crossing = blocking.block_q + blocking.block_kv - 1  # diagonals that cross a block
        q = np.arange(blocking.nq, dtype=np.int64)[:, None] * blocking.block_q
        kv = np.arange(blocking.nk, dtype=np.int64) * blocking.block_kv
        self._least = q, kv + blocking.block_kv - 1  # their difference is the least distance
        self._mask = mask
        if isinstance(mask, Strided):
            self.bound = 2 + min(mask.stride, self._crossing)
        else:
            self._number_corners(mask)

    def _number_corners(self, mask: Diagonals) -> None:
        """Classes for the distances that corners have, which are multiples of a step."""
        q, last = self._least
        self._step = math.gcd(self._blocking.block_q, self._blocking.block_kv)
        self._first = int(q[0, 0] - last[-1])
        least = np.arange(self._first, int(q[-1, 0] - last[0]) + 1, self._step)
        kept = mask.distances.array
        count = np.searchsorted(kept, least + self._crossing) - np.searchsorted(kept, least)
        self._corner = np.where(count == self._crossing, ALL, NONE)
        some = (count > 0) & (count < self._crossing)
        self._corner[some] = np.arange(2, 2 + int(some.sum()))
        self._drawn = least[some]
        self.bound = 2 + len(self._drawn)

    def _classify(self, rows: range) -> Grid:
        least = self._least[0][rows.start : rows.stop] - self._least[1]
        if isinstance(self._mask, Strided):
            first = (self._mask.phase - least) % self._mask.stride
            return np.where(first < self._crossing, 2 + first, NONE)
        return np.asarray(self._corner[(least - self._first) // self._step])

    def _draw(self, at: Ints, out: Bits) -> None:
        numbers, inverse = np.unique(self.classes(at) - 2, return_inverse=True)
        distance = np.arange(self._crossing)
        if isinstance(self._mask, Strided):
            kept = (distance - numbers[:, None]) % self._mask.stride == 0
        else:
            kept = np.isin(self._drawn[numbers][:, None] + distance, self._mask.distances.array)
        np.take(
            toeplitz(kept, self._blocking.block_q, self._blocking.block_kv),
            inverse,
            axis=0,
            out=out,
        )


class _Rows(Part):
    """Rows of bits at hand or quickly made: a block that is not constant has its own class.

    A row of blocks is read once, all its rows at a time, to see where it is constant.
    """

    def __init__(self, blocking: BlockGrid) -> None:
        self._blocking = blocking
        self.bound = 2 + blocking.nq * blocking.nk
        self._edges = np.minimum(np.arange(blocking.nk + 1) * blocking.block_kv, blocking.kv_len)

    def _classify(self, rows: range) -> Grid:
        b = self._blocking
        numbers = np.arange(rows.start * b.nk, rows.stop * b.nk, dtype=np.int64) + 2
        classes = numbers.reshape(len(rows), b.nk)
        for line, i in zip(classes, rows, strict=True):
            some, every = self._bounds(i * b.block_q, min((i + 1) * b.block_q, b.q_len))
            line[every] = ALL
            line[~some] = NONE
        return classes

    def _bounds(self, top: int, bottom: int) -> tuple[Ints, Ints]:
        raise NotImplementedError

    def _columns(self, line: npt.NDArray[np.bool_], ufunc: np.ufunc) -> Ints:
        return np.asarray(ufunc.reduceat(line, self._edges[:-1]))


@final
class ArrayPart(_Rows):
    """An array of elements, moved down and right; False outside of it.

    Args:
        dense: the elements.
        down: the row where its first row comes to stand.
        right: the column where its first column comes to stand.
        blocking: of the result.
    """

    def __init__(self, dense: PackedMask, down: int, right: int, blocking: BlockGrid) -> None:
        super().__init__(blocking)
        self._bits, self._down, self._right = dense.bits.array, down, right
        self._shape = dense.shape

    def _bounds(self, top: int, bottom: int) -> tuple[Ints, Ints]:
        first, last = (min(max(row - self._down, 0), self._shape[0]) for row in (top, bottom))
        lines = np.zeros((2, self._blocking.kv_len), np.bool_)
        if first < last:
            rows = self._bits[first:last]
            left, right = self._right, self._right + self._shape[1]
            inside = slice(max(left, 0), max(min(right, self._blocking.kv_len), 0))
            seen = slice(max(-left, 0), max(-left, 0) + max(inside.stop - inside.start, 0))
            for line, ufunc in zip(lines, (np.bitwise_or, np.bitwise_and), strict=True):
                line[inside] = unpack(ufunc.reduce(rows, axis=0), self._shape[1])[seen]
            lines[1] &= last - first == bottom - top
        return self._columns(lines[0], np.logical_or), self._columns(lines[1], np.logical_and)

    def _draw(self, at: Ints, out: Bits) -> None:
        b = self._blocking
        for i in np.unique(at[:, 0]).tolist():
            top = i * b.block_q - self._down
            first, last = (min(max(row, 0), self._shape[0]) for row in (top, top + b.block_q))
            here = np.flatnonzero(at[:, 0] == i)
            starts = at[here, 1] * b.block_kv - self._right
            if last - first < b.block_q:
                out[here] = 0
            out[here, first - top : last - top] = cut(self._bits[first:last], starts, b.width)


@final
class TilePart(_Rows):
    """Tiles of equal elements, of which there are many."""

    def __init__(self, pattern: PackedMask, tile: tuple[int, int], blocking: BlockGrid) -> None:
        super().__init__(blocking)
        self._pattern, self._tile = pattern, tile

    def _tiles(self, top: int, bottom: int) -> npt.NDArray[np.bool_]:
        return self._pattern.rows(top // self._tile[0], -(-bottom // self._tile[0]))

    def _wide(self, tiles: Ints) -> npt.NDArray[np.bool_]:
        wide = np.repeat(tiles, self._tile[1], axis=-1)[..., : self._blocking.kv_len]
        return np.asarray(wide, np.bool_)

    def _bounds(self, top: int, bottom: int) -> tuple[Ints, Ints]:
        tiles = self._tiles(top, bottom)
        return (
            self._columns(self._wide(np.logical_or.reduce(tiles, axis=0)), np.logical_or),
            self._columns(self._wide(np.logical_and.reduce(tiles, axis=0)), np.logical_and),
        )

    def _draw(self, at: Ints, out: Bits) -> None:
        b, tile_q = self._blocking, self._tile[0]
        for i in np.unique(at[:, 0]).tolist():
            top, bottom = i * b.block_q, min((i + 1) * b.block_q, b.q_len)
            rows = pack(self._wide(self._tiles(top, bottom)))
            here = np.flatnonzero(at[:, 0] == i)
            blocks = cut(rows, at[here, 1] * b.block_kv, b.width)
            out[here, : bottom - top] = blocks[:, np.arange(top, bottom) // tile_q - top // tile_q]


@final
class RandomPart(Part):
    """Random elements, moved down and right, also from outside their own lengths."""

    def __init__(self, mask: Random, down: int, right: int, blocking: BlockGrid) -> None:
        self.bound = 2 + blocking.nq * blocking.nk
        self._mask, self._blocking = mask, blocking
        self._down, self._right = down, right

    def _classify(self, rows: range) -> Grid:
        nk = self._blocking.nk
        return np.arange(2 + rows.start * nk, 2 + rows.stop * nk).reshape(-1, nk)

    def _draw(self, at: Ints, out: Bits) -> None:
        b = self._blocking
        rows = at[:, 0, None] * b.block_q - self._down + np.arange(b.block_q)
        first = at[:, 1] * b.block_kv - self._right
        for phase in np.unique(first & 63).tolist():
            here = np.flatnonzero(first & 63 == phase)
            words = (first[here, None] >> 6) + np.arange(-(-(phase + b.block_kv) // 64))
            bits = random_words(
                self._mask.sparsity, self._mask.seed, rows[here, :, None], words[:, None, :]
            ).astype("<u8", copy=False)
            lines = bits.view(np.uint8)
            if phase:
                lines = cut(lines.reshape(-1, lines.shape[2]), np.array([phase]), b.width)
            out[here] = lines.reshape(len(here), b.block_q, -1)[:, :, : b.width]
