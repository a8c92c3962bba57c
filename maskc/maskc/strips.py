"""Strip form: masks whose rows are few intervals, as one normal form per meaning.

A strip is a range of rows whose intervals of keys are as many and whose ends each stand still or
move by one key per row. Causal, windows, chunks, documents, prefixes, sinks, padding and image
blocks are a few strips per document or chunk. `&`, `|`, `^`, `-` and `~` are sweeps over two strip
forms, in time that grows with the strips and not with the lengths.

Strips are read greedily from the top row, so they depend on the rows alone: **equal masks have
equal strip forms**, however they were written, and a hash of the form is a hash of the meaning.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import numpy.typing as npt

from maskc import strip_block_loops, strip_loops
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

_NARROW = 1 << 30  # tokens; below it an end and its slope fit 32 bits
_LIMIT = 1 << 24  # intervals; beyond it a mask is not a strip mask
_UNLIMITED = 1 << 62  # where the output is about as long as the input


@final
@dataclass(frozen=True, eq=False)
class Strips(Mask):
    """A mask in strip form, bound to its lengths. Only this module and its leaves make one.

    Attributes:
        kv_len: number of keys.
        rows: int64 [strips + 1], first row of each strip, and q_len.
        ptr: int64 [strips + 1], where each strip's intervals begin.
        ends: int64 [intervals, 4], (lo, hi, lo_slope, hi_slope): [lo, hi) at the strip's first
            row, each end moving by its slope, 0 or 1, per row.

    Whoever makes one gives its arrays away: they are read-only from then on.
    """

    kv_len: int
    rows: Ints
    ptr: Ints
    ends: Ints

    def __post_init__(self) -> None:
        for array in self.arrays:
            array.setflags(write=False)

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return int(self.rows[-1])

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """`(rows, ptr, ends)`."""
        return self.rows, self.ptr, self.ends

    @functools.cached_property
    def identity(self) -> list[Any]:
        """What tells these strips from all others: lengths, and the SHA-256 of packed arrays.

        An end and its slope are one word, so that a quarter of the bytes are hashed.
        """
        n, wide = len(self.rows), max(self.q_len, self.kv_len) >= _NARROW
        words = np.empty(2 * n + 2 * len(self.ends), "<u8" if wide else "<u4")
        words[:n], words[n : 2 * n] = self.rows, self.ptr
        for side, packed in enumerate(words[2 * n :].reshape(2, -1)):
            packed[:] = 2 * self.ends[:, side] + self.ends[:, 2 + side]
        return [self.q_len, self.kv_len, n, hashlib.sha256(words.data).digest()]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Strips):
            return NotImplemented
        return self is other or self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity[-1])

    @property
    def corner(self) -> bool:
        """The element at (0, 0)."""
        return bool(self.ptr[1]) and int(self.ends[0, 0]) == 0

    @property
    def widest(self) -> int:
        """Most intervals of one row."""
        return int(np.diff(self.ptr).max())

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
            strip = int(np.searchsorted(self.rows, top, side="right")) - 1
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
        return True if self.ends.tolist() == [[0, self.kv_len, 0, 0]] else None


def _grown(
    kv_len: int, strips: int, intervals: int, fill: Callable[..., None], limit: int
) -> Strips | None:
    """Run a sweep with guessed room for its output, and once more if the guess was too small.

    None if it has more than `limit` intervals.
    """
    loops = loops_for(strip_loops, strips + intervals)
    height, width = strips + 4, strips + intervals + 4
    while True:
        size = np.zeros(2, np.int64)
        rows, ptr = np.empty(height, np.int64), np.empty(height, np.int64)
        ends = np.empty((width, 4), np.int64)
        fill(loops, size, rows, ptr, ends)
        n, m = size.tolist()
        if n < height and m <= width:
            rows, ptr, used = rows[: n + 1], ptr[: n + 1], ends[:m]
            return Strips(kv_len, rows, ptr, used if 2 * m >= width else used.copy())
        if m > limit:
            return None
        height, width = n + 1, m


def normal(kv_len: int, rows: Ints, ptr: Ints, ends: Ints) -> Strips:
    """The normal form of strips that need not be maximal; arrays that are in it already are kept.

    Args:
        kv_len: number of keys.
        rows: first row of each strip, and q_len.
        ptr: where each strip's intervals begin, and their number.
        ends: [intervals, 4]; sorted within a strip, apart, not empty, inside the keys.
    """
    settled = compiled(strip_loops).is_normal if is_compiled(strip_loops) else _is_normal
    if settled(rows, ptr, ends):
        return Strips(kv_len, rows, ptr, ends)

    def fill(loops: Any, *out: Ints) -> None:
        loops.normalise(rows, ptr, ends, *out)

    return cast("Strips", _grown(kv_len, len(rows), len(ends), fill, _UNLIMITED))


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
    strips, intervals = len(a.rows) + len(b.rows), len(a.ends) + len(b.ends)

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
    rows, ptr, ends = _framed(rows, ptr, ends, at, above > 0, below > 0)
    if below > 0:
        rows[-1] = q_len
    if at[1] < 0 or at[1] + mask.kv_len > kv_len:
        return _settled(kv_len, rows, ptr, ends)
    if cut or joins:
        return normal(kv_len, rows, ptr, ends)
    return Strips(kv_len, rows, ptr, ends)


def _framed(
    rows: Ints, ptr: Ints, ends: Ints, at: tuple[int, int], above: bool, below: bool
) -> tuple[Ints, Ints, Ints]:
    """Strips moved by `at`, with room for an empty one above and one below."""
    n, first = len(rows), int(above)
    both = np.empty((2, n + first + below), np.int64)
    both[:, 0] = 0
    np.add(rows, at[0], out=both[0, first : first + n])
    both[1, first : first + n], both[1, first + n :] = ptr, ptr[-1]
    spans = ends.copy()
    spans[:, :2] += at[1]
    return both[0], both[1], spans


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
    loops = loops_for(strip_loops, outer.q_len * len(inner.rows) + len(outer.ends))
    total = loops.tiles(*outer.arrays, inner.ptr, inner.ends, kv)
    if total > PER_ROW * outer.q_len * q:
        return None
    strips = outer.q_len * (len(inner.rows) - 1)
    rows, ptr = np.empty(strips + 1, np.int64), np.empty(strips + 1, np.int64)
    ends = np.empty((total, 4), np.int64)
    loops.tile(*outer.arrays, *inner.arrays, kv, rows, ptr, ends)
    touching = inner.value() is None  # where tiles are whole, those side by side are one interval
    return (_settled if touching else normal)(outer.kv_len * kv, rows, ptr, ends)


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
