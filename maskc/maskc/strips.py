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
from typing import Any, cast, final

import numpy as np
import numpy.typing as npt

from maskc import strip_block_loops, strip_loops
from maskc.arrays import FrozenArray
from maskc.expr import Mask
from maskc.jit import compiled, is_compiled, loops_for

__all__ = [
    "AND",
    "NOT",
    "OR",
    "PER_ROW",
    "XOR",
    "Strips",
    "combine",
    "moved",
    "normal",
    "product",
    "transposed",
]

Ints = npt.NDArray[np.int64]

AND, OR, XOR, NOT = 0b1000, 0b1110, 0b0110, 0b0011
"""Operators by truth table: bit 2 * a + b is the value. `NOT` is that of its first mask."""

PER_ROW = 8
"""Intervals per row, on average, beyond which bits are the better form."""

_LIMIT = 1 << 24  # intervals; beyond it a mask is not a strip mask
_UNLIMITED = 1 << 62  # where the output is about as long as the input


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
    def corner(self) -> bool:
        """The element at (0, 0)."""
        return bool(self.ptr.array[1]) and int(self.ends.array[0, 0]) == 0

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
        room = (
            np.zeros((nk + 1, 3), np.int64),
            np.empty(nk + 1, np.int64),
            np.empty((nk + 1, 3), np.int64),
        )
        for i, (top, bottom) in enumerate(zip(tops.tolist(), bottoms.tolist(), strict=True)):
            strip = int(np.searchsorted(self.rows.array, top, side="right")) - 1
            n = strip_block_loops.classify(*self.arrays, strip, top, bottom, block_kv, room)
            for start, stop, what in room[2][:n].tolist():
                some[i, start:stop] = True
                every[i, start:stop] = what == strip_block_loops.FULL
        return some, every

    def value(self) -> bool | None:
        """True if every element is, False if none is, else None."""
        if len(self.rows) != 2 or len(self.ends) > 1:
            return None
        if not len(self.ends):
            return False
        return True if self.ends.array.tolist() == [[0, self.kv_len, 0, 0]] else None


def _grown(
    kv_len: int, strips: int, intervals: int, fill: Callable[..., None], limit: int
) -> Strips | None:
    """Run a sweep with guessed room for its output, and once more if the guess was too small.

    None if it has more than `limit` intervals.
    """
    loops = loops_for(strip_loops, strips + intervals)
    room = strips + 4, strips + intervals + 4
    while True:
        size = np.zeros(2, np.int64)
        rows, ptr, ends = (np.empty(n, np.int64) for n in (room[0], room[0], (room[1], 4)))
        fill(loops, size, rows, ptr, ends)
        n, m = int(size[0]), int(size[1])
        if n < room[0] and m <= room[1]:
            frozen = FrozenArray.adopt if 2 * m >= room[1] else FrozenArray  # keep no large rest
            return Strips(kv_len, *map(frozen, (rows[: n + 1], ptr[: n + 1], ends[:m])))
        if m > limit:
            return None
        room = n + 1, m


def normal(kv_len: int, rows: Any, ptr: Any, ends: Any) -> Strips:
    """The normal form of strips that need not be maximal; arrays that are in it already are kept.

    Args:
        kv_len: number of keys.
        rows: first row of each strip, and q_len.
        ptr: where each strip's intervals begin, and their number.
        ends: [intervals, 4]; sorted within a strip, apart, not empty, inside the keys.
    """
    raw = tuple(np.asarray(a, np.int64) for a in (rows, ptr, np.reshape(ends, (-1, 4))))
    settled = compiled(strip_loops).is_normal if is_compiled(strip_loops) else _is_normal
    if settled(*raw):
        return Strips(kv_len, *map(FrozenArray.adopt, raw))

    def fill(loops: Any, *out: Ints) -> None:
        loops.normalise(*raw, *out)

    return cast("Strips", _grown(kv_len, len(raw[0]), len(raw[2]), fill, _UNLIMITED))


def _is_normal(rows: Ints, ptr: Ints, ends: Ints) -> bool:
    """`strip_loops.is_normal` by numpy: a leaf of a hundred thousand strips needs no numba."""
    heights, counts = np.diff(rows), np.diff(ptr)
    strip = np.repeat(np.arange(len(counts)), counts)
    if not heights.all() or ends[heights[strip] == 1, 2:].any():
        return False
    takes = np.append(counts[1:] == counts[:-1], False)  # the next strip has as many intervals
    own = np.flatnonzero(takes[strip])
    s = strip[own]
    step, height = ends[own + counts[s], :2] - ends[own, :2], heights[s, None]
    fits = np.where(height == 1, (step >> 1) == 0, step == height * ends[own, 2:]).all(axis=1)
    takes[s[~fits]] = False
    return not takes.any()


def _settled(kv_len: int, rows: Ints, ptr: Ints, ends: Ints) -> Strips:
    """`normal` of strips whose intervals may touch, and reach beyond the keys."""
    if _are_apart(kv_len, rows, ptr, ends):
        return normal(kv_len, rows, ptr, ends)
    keys = np.array([0, rows[-1]]), np.array([0, 1]), np.array([[0, kv_len, 0, 0]])

    def fill(loops: Any, *out: Ints) -> None:
        loops.combine(rows, ptr, ends, *keys, kv_len, AND, *out)

    return cast("Strips", _grown(kv_len, len(rows), len(ends), fill, _UNLIMITED))


def _are_apart(kv_len: int, rows: Ints, ptr: Ints, ends: Ints) -> bool:
    """Whether intervals are sorted, not empty, inside the keys, and do not touch.

    Ends move evenly, so what holds in the first and in the last row of a strip holds between.
    """
    counts = np.diff(ptr)
    below = (np.repeat(np.diff(rows), counts) - 1)[:, None] * ends[:, 2:]
    strip = np.repeat(np.arange(len(counts)), counts)
    neighbours = strip[1:] == strip[:-1]
    for lo, hi in (ends[:, :2].T, (ends[:, :2] + below).T):
        if lo.min(initial=0) < 0 or hi.max(initial=0) > kv_len or (hi <= lo).any():
            return False
        if (neighbours & (lo[1:] <= hi[:-1])).any():
            return False
    return True


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

    return _grown(a.kv_len, strips, intervals, fill, _LIMIT)


# --- shifts and products ------------------------------------------------------------------------


def moved(mask: Strips, at: tuple[int, int], shape: tuple[int, int]) -> Strips:
    """The mask with its first row and column at `at`, cut to `shape`, and False around it.

    Args:
        mask: what is moved.
        at: `(q, kv)`, either of which may be negative.
        shape: `(q_len, kv_len)` of the result; some of the mask's rows must lie in it.
    """
    q_len, kv_len = shape
    cut = at[0] < 0 or at[0] + mask.q_len > q_len
    rows, ptr, ends = _rows_of(mask, max(-at[0], 0), q_len - at[0]) if cut else mask.arrays
    above, below = at[0] + int(rows[0]), q_len - at[0] - int(rows[-1])
    joins = (above > 0 and ptr[1] == ptr[0]) or (below > 0 and ptr[-1] == ptr[-2])
    ends, rows = ends + np.array([at[1], at[1], 0, 0]), rows + at[0]
    if above > 0:
        rows, ptr = np.append(0, rows), np.append(0, ptr)
    if below > 0:
        rows, ptr = np.append(rows, q_len), np.append(ptr, ptr[-1])
    if at[1] < 0 or at[1] + mask.kv_len > kv_len:
        return _settled(kv_len, rows, ptr, ends)
    if cut or joins:
        return normal(kv_len, rows, ptr, ends)
    return Strips(kv_len, *map(FrozenArray.adopt, (rows, ptr, ends)))


def _rows_of(mask: Strips, start: int, stop: int) -> tuple[Ints, Ints, Ints]:
    """Rows `start` to before `stop` of a mask, which need not be in normal form then."""
    rows, ptr, ends = mask.arrays
    first = int(np.searchsorted(rows, start, side="right")) - 1
    last = int(np.searchsorted(rows[:-1], stop))
    skip = start - int(rows[first])
    own = ptr[first : last + 1] - ptr[first]
    rows, ends = rows[first : last + 1].copy(), ends[ptr[first] : ptr[last]].copy()
    rows[0], rows[-1] = start, min(int(rows[-1]), stop)
    ends[: own[1], :2] += skip * ends[: own[1], 2:]
    return rows, own, ends


def product(outer: Strips, inner: Strips) -> Strips | None:
    """The Kronecker product: `outer[q // n, kv // m] and inner[q % n, kv % m]`, inner [n, m].

    Returns:
        None if it has more than 8 intervals per row, before tiles that meet are joined: too many
        for a strip form.
    """
    q, kv = inner.q_len, inner.kv_len
    rows, ptr, ends = inner.arrays
    strips = len(ptr) - 1
    strip = np.repeat(np.arange(strips), np.diff(ptr))
    whole = (ends == [0, kv, 0, 0]).all(axis=1)  # side by side these are one interval
    row, spans = _row_intervals(outer)
    widths = spans[:, 1] - spans[:, 0]
    parts, joined = ends[~whole], strip[whole]
    total = len(row) * len(joined) + int(widths.sum()) * len(parts)
    if total > PER_ROW * outer.q_len * q:
        return None
    places = ((row * strips)[:, None] + joined).ravel()
    pieces = np.zeros((len(places), 4), np.int64)
    pieces[:, :2] = np.repeat(spans * kv, len(joined), axis=0)
    if len(parts):
        place, split = _tiled(row, spans, strip[~whole], parts, strips, kv)
        places, pieces = np.concatenate([place, places]), np.concatenate([split, pieces])
        del place, split  # large, as what follows is
    if len(parts) or len(joined) > 1:
        order = np.argsort(places * (outer.kv_len * kv) + pieces[:, 0], kind="stable")  # two runs
        pieces = pieces[order]
    counts = np.bincount(places, minlength=outer.q_len * strips)
    heads = (np.arange(outer.q_len) * q)[:, None] + rows[:-1]
    return (_settled if len(parts) else normal)(
        outer.kv_len * kv,
        np.append(heads.ravel(), outer.q_len * q),
        np.append(0, np.cumsum(counts)),
        pieces,
    )


def _tiled(
    row: Ints, spans: Ints, strip: Ints, parts: Ints, strips: int, kv: int
) -> tuple[Ints, Ints]:
    """One tile's intervals in each tile of outer intervals, and the strips that they are in."""
    widths = spans[:, 1] - spans[:, 0]
    column = np.repeat(spans[:, 0] - (np.cumsum(widths) - widths), widths) + np.arange(widths.sum())
    place = (np.repeat(row, widths) * strips)[:, None] + strip
    split = np.tile(parts, (len(column), 1))
    split[:, :2] += np.repeat(column * kv, len(parts))[:, None]
    return place.ravel(), split


def _row_intervals(mask: Strips) -> tuple[Ints, Ints]:
    """Every interval of every row: its row, ascending, and its `(start, stop)`, [n, 2]."""
    rows, ptr, ends = mask.arrays
    heights, counts = np.diff(rows), np.diff(ptr)
    per_row = np.repeat(counts, heights)
    row = np.repeat(np.arange(mask.q_len), per_row)
    within = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    strip = np.repeat(np.arange(len(counts)), heights)[row]
    end = ends[ptr[strip] + within]
    return row, end[:, :2] + (row - rows[strip])[:, None] * end[:, 2:]


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
    cuts = np.sort(np.concatenate([[0, mask.kv_len], starts, stops]), kind="stable")
    cuts = cuts[np.append(True, cuts[1:] != cuts[:-1])]  # np.unique hashes, which is slower here
    first = np.searchsorted(cuts, starts)
    counts = np.searchsorted(cuts, stops) - first
    total = int(counts.sum())
    if total > 2 * PER_ROW * mask.kv_len:
        return None
    edge = np.repeat(np.arange(len(edges)), counts)
    piece = np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    at = row[edge] + slope[edge] * (cuts[piece] - starts[edge])
    order = np.argsort(piece * (mask.q_len + 1) + at, kind="stable")
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
    keys = np.sort(np.concatenate([above, below], axis=None), kind="stable")
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
