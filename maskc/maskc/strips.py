"""Strip form: masks whose rows are few intervals, as one normal form per meaning.

A strip is a range of rows whose intervals of keys are as many and whose ends each stand still or
move by one key per row. Causal, windows, chunks, documents, prefixes, sinks, padding and image
blocks are a few strips per document or chunk. `&`, `|`, `^`, `-` and `~` are sweeps over two strip
forms, in time that grows with the strips and not with the lengths.

Strips are read greedily from the top row, so they depend on the rows alone: **equal masks have
equal strip forms**, however they were written, and a hash of the form is a hash of the meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from maskc import strip_block_loops, strip_loops
from maskc.arrays import FrozenArray
from maskc.expr import Mask
from maskc.jit import loops_for

__all__ = [
    "AND",
    "NOT",
    "OR",
    "PER_ROW",
    "XOR",
    "Strips",
    "combine",
    "normal",
    "transposed",
]

Ints = npt.NDArray[np.int64]

AND, OR, XOR, NOT = 0b1000, 0b1110, 0b0110, 0b0011
"""Operators by truth table: bit 2 * a + b is the value. `NOT` is that of its first mask."""

PER_ROW = 8
"""Intervals per row, on average, beyond which bits are the better form."""

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
            t, f = strip_block_loops.classify(*self.arrays, strip, top, bottom, block_kv, lists)
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


# --- transposition ------------------------------------------------------------------------------


def transposed(mask: Strips) -> Strips | None:
    """The strip form of the mask with queries and keys swapped.

    Down a column, a mask changes its value at edges of two kinds: where two rows differ, which is
    level over a range of columns, and along an end that moves, which goes down a row per column.
    No two edges share an element, so between the columns where edges begin or end their order is
    fixed, and every other one of them opens an interval.

    Returns:
        None if it has more than 8 intervals per row of its own: too many for a strip form.
    """
    edges = np.concatenate([_level_edges(mask), _slanted_edges(mask)])
    starts, stops, row, slope = edges.T
    cuts = np.unique(np.concatenate([starts, stops, [0, mask.kv_len]]))
    first = np.searchsorted(cuts, starts)
    counts = np.searchsorted(cuts, stops) - first
    total = int(counts.sum())
    if total > 2 * PER_ROW * mask.kv_len:
        return None
    edge = np.repeat(np.arange(len(edges)), counts)
    piece = np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    at = row[edge] + slope[edge] * (cuts[piece] - starts[edge])
    order = np.argsort(piece * (mask.q_len + 1) + at)
    ends = np.concatenate([at[order].reshape(-1, 2), slope[edge[order]].reshape(-1, 2)], axis=1)
    ptr = np.searchsorted(piece[order[::2]], np.arange(len(cuts)))
    return normal(mask.q_len, cuts, ptr, ends)


def _level_edges(mask: Strips) -> Ints:
    """Where a row differs from the one above: [n, 4] of (first column, stop, row, slope 0)."""
    rows, ptr, ends = mask.arrays
    strip = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    top, width = ends[:, :2], mask.kv_len + 1
    bottom = top + (np.diff(rows) - 1)[strip, None] * ends[:, 2:]
    above, below = bottom + (strip + 1)[:, None] * width, top + strip[:, None] * width
    keys = np.sort(np.concatenate([above, below], axis=None))
    twice = keys[1:] == keys[:-1]  # an end of both rows is no change
    lone = keys[~(np.append(twice, False) | np.append(False, twice))[: len(keys)]]
    boundary, column = np.divmod(lone.reshape(-1, 2), width)
    out = np.zeros((len(boundary), 4), np.int64)
    out[:, :2], out[:, 2] = column, rows[boundary[:, 0]]
    return out


def _slanted_edges(mask: Strips) -> Ints:
    """Where an end moves: [n, 4] of (first column, stop, row at the first, slope 1)."""
    rows, ptr, ends = mask.arrays
    strip = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    interval, side = np.nonzero(ends[:, 2:])
    column, strip = ends[interval, side], strip[interval]
    steps = rows[strip + 1] - rows[strip] - 1
    return np.stack([column, column + steps, rows[strip] + 1, np.ones_like(column)], axis=1)


def _lists(nk: int, widest: int) -> tuple[Ints, ...]:
    """Room to classify one row of `nk` blocks."""
    return tuple(np.zeros((nk + widest + 1, 2), np.int64) for _ in range(5))
