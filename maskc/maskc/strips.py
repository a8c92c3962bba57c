"""Strip form: masks whose rows are few intervals, as one normal form per meaning.

A strip is a range of rows whose intervals of keys are as many and whose ends each stand still or
move by one key per row. Causal, windows, chunks, documents, prefixes, sinks, padding and image
blocks are a few strips per document or chunk. `&`, `|`, `^`, `-` and `~` are sweeps over two strip
forms, in time that grows with the strips and not with the lengths.

Strips are read greedily from the top row, so they depend on the rows alone: **equal masks have
equal strip forms**, however they were written, and a hash of the form is a hash of the meaning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from maskc import strip_loops
from maskc.arrays import FrozenArray
from maskc.block_runs import MaskBlocks
from maskc.expr import Mask
from maskc.jit import loops_for

__all__ = ["AND", "NOT", "OR", "XOR", "Strips", "combine", "find_blocks", "normal"]

Ints = npt.NDArray[np.int64]

AND, OR, XOR, NOT = 0b1000, 0b1110, 0b0110, 0b0011
"""Operators by truth table: bit 2 * a + b is the value. `NOT` is that of its first mask."""

_SHARED = 1 << 22  # bytes of drawn blocks from which a second core repays
_LIMIT = 1 << 24  # intervals; beyond it a mask is not a strip mask


@final
@dataclass(frozen=True, slots=True)
class Strips(Mask):
    """A mask in strip form, bound to its lengths. Only `normal` and `combine` make one.

    Attributes:
        kv_len: number of keys.
        rows: int64 [strips + 1], first row of each strip, and q_len.
        ptr: int64 [strips + 1], where each strip's intervals begin.
        ends: int64 [intervals, 4], (lo, hi, lo_slope, hi_slope): [lo, hi) at the strip's first
            row, each end moving by its slope, 0 or 1, per row.
    """

    kv_len: int
    rows: FrozenArray
    ptr: FrozenArray
    ends: FrozenArray

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return int(self.rows.array[-1])

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """`(rows, ptr, ends)`."""
        return self.rows.array, self.ptr.array, self.ends.array

    @property
    def widest(self) -> int:
        """Most intervals of one row."""
        return int(np.diff(self.ptr.array).max())

    def at(self, q: npt.NDArray[Any], kv: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """The elements at broadcast positions inside the lengths."""
        rows, ptr, ends = self.arrays
        strip = np.searchsorted(rows, q, side="right") - 1
        down, first, stop = q - rows[strip], ptr[strip], ptr[strip + 1]
        inside = np.zeros(np.broadcast_shapes(q.shape, kv.shape), np.bool_)
        for i in range(self.widest):
            end = ends[np.minimum(first + i, len(ends) - 1)]
            lo, hi = (end[..., side] + down * end[..., 2 + side] for side in (0, 1))
            inside |= (first + i < stop) & (lo <= kv) & (kv < hi)
        return inside

    def block_bounds(
        self, tops: npt.NDArray[Any], bottoms: npt.NDArray[Any], block_kv: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which blocks are touched, and which are full as far as they lie inside the lengths.

        Args:
            tops: first row of each row of blocks.
            bottoms: one past the last row of each.
            block_kv: keys per block.

        Returns:
            Two bool arrays [rows of blocks, kv blocks].
        """
        nk = -(-self.kv_len // block_kv)
        some, every = (np.zeros((len(tops), nk), np.bool_) for _ in range(2))
        lists = _lists(nk, self.widest)
        for i, (top, bottom) in enumerate(zip(tops.tolist(), bottoms.tolist(), strict=True)):
            strip = int(np.searchsorted(self.rows.array, top, side="right")) - 1
            t, f = strip_loops.classify(*self.arrays, strip, top, bottom, block_kv, lists)
            for ranges, n, out in ((lists[0], t, some), (lists[1], f, every)):
                for start, stop in ranges[:n].tolist():
                    out[i, start:stop] = True
        return some, every

    def value(self) -> bool | None:
        """True if every element is, False if none is, else None."""
        rows, _, ends = self.arrays
        if not len(ends):
            return False
        full = len(rows) == 2 and ends.tolist() == [[0, self.kv_len, 0, 0]]
        return True if full else None


def _grown(kv_len: int, strips: int, intervals: int, fill: Callable[..., None]) -> Strips | None:
    """Run a sweep with guessed room for its output, and once more if the guess was too small."""
    loops = loops_for(strip_loops, strips + intervals)
    room = strips + 4, intervals + 4
    while True:
        size = np.zeros(2, np.int64)
        rows, ptr = np.zeros(room[0], np.int64), np.zeros(room[0], np.int64)
        ends = np.zeros((room[1], 4), np.int64)
        fill(loops, size, rows, ptr, ends)
        n, m = int(size[0]), int(size[1])
        if n < room[0] and m <= room[1]:
            return Strips(kv_len, *map(FrozenArray, (rows[: n + 1], ptr[: n + 1], ends[:m])))
        if m > _LIMIT:
            return None
        room = n + 1, m


def normal(kv_len: int, rows: Any, ptr: Any, ends: Any) -> Strips | None:
    """The normal form of strips that need not be maximal.

    Args:
        kv_len: number of keys.
        rows: first row of each strip, and q_len.
        ptr: where each strip's intervals begin, and their number.
        ends: [intervals, 4]; sorted within a strip, apart, not empty, inside the keys.

    Returns:
        None if the mask has too many intervals to be worth a strip form.
    """
    raw = [np.asarray(a, np.int64) for a in (rows, ptr, np.reshape(ends, (-1, 4)))]
    return _grown(kv_len, len(raw[0]), len(raw[2]), lambda loops, *out: loops.normalise(*raw, *out))


def combine(table: int, a: Strips, b: Strips) -> Strips | None:
    """An operator of two masks of the same lengths.

    Args:
        table: the operator, such as `AND`.
        a: its first mask.
        b: its second mask.

    Returns:
        None if the result has too many intervals to be worth a strip form.
    """
    strips, intervals = (len(x) + len(y) for x, y in zip(a.arrays[::2], b.arrays[::2], strict=True))

    def fill(loops: Any, *out: Ints) -> None:
        loops.combine(*a.arrays, *b.arrays, a.kv_len, table, *out)

    return _grown(a.kv_len, strips, intervals, fill)


def find_blocks(masks: Sequence[Strips], block_q: int, block_kv: int) -> MaskBlocks:
    """The blocks of masks of the same lengths, one after the other, with one bank of partial ones.

    A block's content is named by the strip form of the block itself, so equal blocks are found
    equal before any of them is drawn, and each is drawn once.
    """
    nq = -(-masks[0].q_len // block_q)
    strips = sum(len(mask.rows.array) for mask in masks)
    loops = loops_for(strip_loops, nq * len(masks) + strips)
    ptr, runs = np.zeros(nq * len(masks) + 1, np.int64), np.empty((4 * (nq + strips), 3), np.int32)
    pool, pool_ptr = np.empty(1024, np.int64), np.zeros(64, np.int64)
    table, count = np.full(128, -1, np.int64), np.zeros(1, np.int64)
    for number, mask in enumerate(masks):
        start = np.array([0, 0, number * nq])
        while lack := loops.find_runs(
            *mask.arrays, block_q, block_kv, mask.kv_len, start,
            ptr, runs, table, pool, pool_ptr, count,
        ):  # fmt: skip
            if lack == strip_loops.NO_RUNS:
                runs = np.concatenate([runs, np.empty_like(runs)])
                continue
            pool, pool_ptr = (np.concatenate([a, np.empty_like(a)]) for a in (pool, pool_ptr))
            table = np.full(2 * len(table), -1, np.int64)
            loops.rehash(pool, pool_ptr, int(count[0]), table)
    bits = _drawn(loops, pool, pool_ptr[: int(count[0]) + 1], block_q, block_kv)
    return MaskBlocks(ptr, runs[: ptr[-1]], bits)


def _drawn(
    loops: Any, pool: Ints, pool_ptr: Ints, block_q: int, block_kv: int
) -> npt.NDArray[np.uint8]:
    """The bits of all descriptions; on two cores where that repays starting a thread."""
    count = len(pool_ptr) - 1
    if loops is strip_loops:
        return _drawn_by_strips(pool, pool_ptr, block_q, block_kv)
    out = np.empty((count, block_q, -(-block_kv // 8)), np.uint8)
    if out.nbytes < _SHARED:
        loops.paint(pool, pool_ptr, 0, count, block_q, out)
        return out
    with ThreadPoolExecutor(2) as pair:
        halves = [
            pair.submit(loops.paint, pool, pool_ptr, first, last, block_q, out)
            for first, last in ((0, count // 2), (count // 2, count))
        ]
    for half in halves:
        half.result()
    return out


def _drawn_by_strips(
    pool: Ints, pool_ptr: Ints, block_q: int, block_kv: int
) -> npt.NDArray[np.uint8]:
    """`paint` for a few blocks: numpy draws a strip at a time where plain loops draw a row."""
    out = np.zeros((len(pool_ptr) - 1, block_q, -(-block_kv // 8)), np.uint8)
    kv = np.arange(block_kv)
    for number, (first, end) in enumerate(itertools.pairwise(pool_ptr.tolist())):
        at = first
        while at < end:
            top, n = pool[at : at + 2].tolist()
            following = at + 2 + 4 * n
            bottom = int(pool[following]) if following < end else block_q
            down = np.arange(bottom - top)[:, None]
            inside = np.zeros((bottom - top, block_kv), np.bool_)
            for lo, hi, lo_slope, hi_slope in pool[at + 2 : following].reshape(n, 4).tolist():
                inside |= (lo + down * lo_slope <= kv) & (kv < hi + down * hi_slope)
            out[number, top:bottom] = np.packbits(inside, axis=1, bitorder="little")
            at = following
    return out


def _lists(nk: int, widest: int) -> tuple[Ints, ...]:
    """Room to classify one row of `nk` blocks."""
    return tuple(np.zeros((nk + widest + 1, 2), np.int64) for _ in range(5))
