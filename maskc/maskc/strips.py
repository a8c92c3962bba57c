"""Strip form: masks whose rows are few intervals, as one normal form per meaning.

A strip is a range of rows whose intervals of keys are as many and whose ends each stand still or
move by one key per row. Causal, windows, chunks, documents, prefixes, sinks, padding and image
blocks are a few strips per document or chunk. `&`, `|`, `^`, `-` and `~` are sweeps over two strip
forms, in time that grows with the strips and not with the lengths.

Strips are read greedily from the top row, so they depend on the rows alone: **equal masks have
equal strip forms**, however they were written, and a hash of the form is a hash of the meaning.

A mask that is alike in tiles of one size may be written over tiles, its *grain*: block-causal
attention is one strip then, and its blocks cost what a causal mask's do. Forms are compared, hashed
and lowered in the largest tiles that the mask is alike in, again a property of the mask alone.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import numpy.typing as npt

from maskc import block_range_loops, strip_loops
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
    "common_grain",
    "enlarged",
    "finer",
    "moved",
    "normal",
    "product",
    "settled",
    "transposed",
]

Ints = npt.NDArray[np.int64]

AND, OR, XOR, NOT = 0b1000, 0b1110, 0b0110, 0b0011
"""Operators by truth table: bit 2 * a + b is the value. `NOT` is that of its first mask."""

PER_ROW = 8
"""Intervals per row, on average, beyond which bits are the better form."""

_POINT = (1, 1)  # the grain of single tokens
_SOME = 64  # numbers
_ROOM = 1 << 10  # intervals; a result keeps the room that was guessed for it, if it is no more
_LIMIT = 1 << 24  # intervals; beyond it a mask is not a strip mask
_UNLIMITED = 1 << 62  # where the output is about as long as the input


@final
@dataclass(frozen=True, eq=False)
class Strips(Mask):
    """A mask in strip form, bound to its lengths. Only this module and its leaves make one.

    Attributes:
        keys: number of keys, as all below in grains.
        rows: int64 [strips + 1], first row of each strip, and how many rows there are.
        ptr: int64 [strips + 1], where each strip's intervals begin.
        ends: int64 [intervals, 4], (lo, hi, lo_slope, hi_slope): [lo, hi) at the strip's first
            row, each end moving by its slope, 0 or 1, per row.
        grain: (queries, keys) of a tile; the mask is the same for all elements of one.

    Whoever makes one gives its arrays away: they are read-only from then on.
    """

    keys: int
    rows: Ints
    ptr: Ints
    ends: Ints
    grain: tuple[int, int] = _POINT

    def __post_init__(self) -> None:
        self.rows.setflags(write=False)
        self.ptr.setflags(write=False)
        self.ends.setflags(write=False)

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return int(self.rows[-1]) * self.grain[0]

    @property
    def kv_len(self) -> int:
        """Number of keys."""
        return self.keys * self.grain[1]

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """`(rows, ptr, ends)`."""
        return self.rows, self.ptr, self.ends

    @property
    def fine(self) -> Strips:
        """The same mask by single tokens."""
        return finer(self, _POINT)

    @functools.cached_property
    def coarse(self) -> Strips:
        """The same mask in the largest tiles that it is alike in."""
        return _coarsest(self)

    @functools.cached_property
    def identity(self) -> list[Any]:
        """What tells this mask from all others: lengths, and the SHA-256 of the arrays."""
        form, content = self.coarse, hashlib.sha256()
        for array in form.arrays:
            content.update(array.data)
        return [form.keys, *form.grain, len(form.rows), content.digest()]

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
    def moves(self) -> bool:
        """Whether some end moves inside a strip."""
        return bool(np.count_nonzero(self.ends[:, 2:]))

    @property
    def widest(self) -> int:
        """Most intervals of one row."""
        return int(np.diff(self.ptr).max())

    def at(self, q: npt.NDArray[Any], kv: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """The elements at broadcast positions inside the lengths."""
        rows, ptr, ends = self.arrays
        if self.grain != _POINT:
            q, kv = q // self.grain[0], kv // self.grain[1]
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
        form, nk = self.fine, -(-self.kv_len // block_kv)
        some, every = (np.zeros((len(tops), nk), np.bool_) for _ in range(2))
        room = (
            np.zeros((nk + 1, 3), np.int64),
            np.empty(nk + 1, np.int64),
            np.empty((nk + 1, 3), np.int64),
        )
        for i, (top, bottom) in enumerate(zip(tops.tolist(), bottoms.tolist(), strict=True)):
            strip = int(np.searchsorted(form.rows, top, side="right")) - 1
            n = block_range_loops.classify(*form.arrays, strip, top, bottom, block_kv, room)
            for start, stop, what in room[2][:n].tolist():
                some[i, start:stop] = True
                every[i, start:stop] = what == block_range_loops.FULL
        return some, every

    def value(self) -> bool | None:
        """True if every element is, False if none is, else None."""
        if len(self.rows) != 2 or len(self.ends) > 1:
            return None
        if not len(self.ends):
            return False
        return True if self.ends.tolist() == [[0, self.keys, 0, 0]] else None


def _grown(
    keys: int,
    strips: int,
    intervals: int,
    fill: Callable[..., None],
    limit: int,
    grain: tuple[int, int] = _POINT,
) -> Strips | None:
    """Run a sweep with guessed room for its output, and once more if the guess was too small.

    None if it has more than `limit` intervals.
    """
    loops = loops_for(strip_loops, strips + intervals)
    height, width = 2 * strips + 4, 2 * (strips + intervals) + 4
    while True:
        size = np.zeros(2, np.int64)
        rows, ptr = np.empty(height, np.int64), np.empty(height, np.int64)
        ends = np.empty((width, 4), np.int64)
        fill(loops, size, rows, ptr, ends)
        n, m = size.tolist()
        if n < height and m <= width:
            rows, ptr, ends = rows[: n + 1], ptr[: n + 1], ends[:m]
            if width > _ROOM:  # keep no large rest
                rows, ptr, ends = rows.copy(), ptr.copy(), ends.copy()
            return Strips(keys, rows, ptr, ends, grain)
        if m > limit:
            return None
        height, width = n + 1, m


def normal(keys: int, rows: Ints, ptr: Ints, ends: Ints, grain: tuple[int, int] = _POINT) -> Strips:
    """The normal form of strips that need not be maximal; arrays that are in it already are kept.

    Args:
        keys: number of keys, as all below in grains.
        rows: first row of each strip, and how many rows there are.
        ptr: where each strip's intervals begin, and their number.
        ends: [intervals, 4]; sorted within a strip, apart, not empty, inside the keys.
        grain: (queries, keys) of a tile.
    """
    tested = compiled(strip_loops).is_normal if is_compiled(strip_loops) else _is_normal
    if tested(rows, ptr, ends):
        return Strips(keys, rows, ptr, ends, grain)

    def fill(loops: Any, *out: Ints) -> None:
        loops.normalise(rows, ptr, ends, *out)

    return cast("Strips", _grown(keys, len(rows), len(ends), fill, _UNLIMITED, grain))


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


def settled(
    keys: int, rows: Ints, ptr: Ints, ends: Ints, grain: tuple[int, int] = _POINT
) -> Strips:
    """`normal` of strips whose intervals may touch, and reach beyond the keys."""
    if _are_apart(keys, rows, ptr, ends):
        return normal(keys, rows, ptr, ends, grain)
    every = np.array([0, rows[-1]]), np.array([0, 1]), np.array([[0, keys, 0, 0]])

    def fill(loops: Any, *out: Ints) -> None:
        loops.combine(rows, ptr, ends, *every, keys, AND, *out)

    return cast("Strips", _grown(keys, len(rows), len(ends), fill, _UNLIMITED, grain))


def _are_apart(keys: int, rows: Ints, ptr: Ints, ends: Ints) -> bool:
    """Whether intervals are sorted, not empty, inside the keys, and do not touch.

    Ends move evenly, so what holds in the first and in the last row of a strip holds between.
    """
    counts = np.diff(ptr)
    below = (np.repeat(np.diff(rows), counts) - 1)[:, None] * ends[:, 2:]
    strip = np.repeat(np.arange(len(counts)), counts)
    neighbours = strip[1:] == strip[:-1]
    for lo, hi in (ends[:, :2].T, (ends[:, :2] + below).T):
        if lo.min(initial=0) < 0 or hi.max(initial=0) > keys or (hi <= lo).any():
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
    if a.grain != b.grain:
        grain = common_grain(a.grain, b.grain)
        a, b = finer(a, grain), finer(b, grain)
    strips, intervals = len(a.rows) + len(b.rows), len(a.ends) + len(b.ends)

    def fill(loops: Any, *out: Ints) -> None:
        loops.combine(*a.arrays, *b.arrays, a.keys, table, *out)

    return _grown(a.keys, strips, intervals, fill, _LIMIT, a.grain)


# --- grains -------------------------------------------------------------------------------------


def common_grain(*grains: tuple[int, int]) -> tuple[int, int]:
    """The largest grain that divides all of these."""
    queries, keys = zip(*grains, strict=True)
    return math.gcd(*queries), math.gcd(*keys)


def finer(mask: Strips, grain: tuple[int, int]) -> Strips:
    """The same mask in tiles whose sizes divide those of its own."""
    if mask.grain == grain:
        return mask
    q, kv = mask.grain[0] // grain[0], mask.grain[1] // grain[1]
    if not mask.moves:  # strips of equal rows stay what they are
        scale = np.array([kv, kv, 1, 1])
        return Strips(mask.keys * kv, mask.rows * q, mask.ptr, mask.ends * scale, grain)
    tile = Strips(kv, np.array([0, q]), np.array([0, 1]), np.array([[0, kv, 0, 0]]))
    tiled = _tiled(mask, tile, _UNLIMITED)
    assert tiled is not None  # noqa: S101  # it has no limit
    return normal(mask.keys * kv, *tiled, grain)


def _coarsest(mask: Strips) -> Strips:
    """The same mask in the largest tiles that it is alike in."""
    if mask.moves:  # an end does so by one tile, from one tile to the next
        return mask
    q, kv = _divisor(mask.rows), math.gcd(mask.keys, _divisor(mask.ends[:, :2].ravel()))
    if q == kv == 1:
        return mask
    grain = mask.grain[0] * q, mask.grain[1] * kv
    return normal(mask.keys // kv, mask.rows // q, mask.ptr, mask.ends // kv, grain)


def _divisor(numbers: Ints) -> int:
    """The greatest common divisor; most often 1, and soon found to be."""
    some = int(np.gcd.reduce(numbers[:_SOME]))
    return some if some == 1 else math.gcd(some, int(np.gcd.reduce(numbers[_SOME:])))


# --- shifts and products ------------------------------------------------------------------------


def moved(mask: Strips, at: tuple[int, int], shape: tuple[int, int]) -> Strips:
    """The mask with its first row and column at `at`, cut to `shape`, and False around it.

    Args:
        mask: what is moved.
        at: `(q, kv)`, either of which may be negative.
        shape: `(q_len, kv_len)` of the result; some of the mask's rows must lie in it.
    """
    grain = _POINT if mask.grain == _POINT else common_grain(mask.grain, at, shape)
    mask, down, right = finer(mask, grain), at[0] // grain[0], at[1] // grain[1]
    q, kv = shape[0] // grain[0], shape[1] // grain[1]
    height = int(mask.rows[-1])
    cut = down < 0 or down + height > q
    rows, ptr, ends = _rows_of(mask, max(-down, 0), q - down) if cut else mask.arrays
    above, below = down + int(rows[0]), q - down - int(rows[-1])
    joins = (above > 0 and ptr[1] == ptr[0]) or (below > 0 and ptr[-1] == ptr[-2])
    n, first = len(rows), int(above > 0)
    both, spans = (
        np.empty((2, n + first + (below > 0)), np.int64),
        np.empty((len(ends), 4), np.int64),
    )
    loops = loops_for(strip_loops, n + len(ends))
    loops.place(rows, ptr, ends, down, right, first, q, both[0], both[1], spans)
    if right < 0 or right + mask.keys > kv:
        return settled(kv, both[0], both[1], spans, grain)
    if cut or joins:
        return normal(kv, both[0], both[1], spans, grain)
    return Strips(kv, both[0], both[1], spans, grain)


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


def enlarged(mask: Strips, tile: tuple[int, int]) -> Strips:
    """The mask over tiles of so many queries and keys: its Kronecker product with `Full`."""
    grain = mask.grain[0] * tile[0], mask.grain[1] * tile[1]
    return Strips(mask.keys, mask.rows, mask.ptr, mask.ends, grain)


def product(outer: Strips, inner: Strips) -> Strips | None:
    """The Kronecker product: `outer[q // n, kv // m] and inner[q % n, kv % m]`, inner [n, m].

    Returns:
        None if it has more than 8 intervals per row, before tiles that meet are joined: too many
        for a strip form.
    """
    outer, inner = outer.fine, inner.fine
    tiled = _tiled(outer, inner, PER_ROW * outer.q_len * inner.q_len)
    return None if tiled is None else settled(outer.keys * inner.keys, *tiled)


def _tiled(outer: Strips, inner: Strips, most: int) -> tuple[Ints, Ints, Ints] | None:
    """A mask in place of every element of another; None if that has more than `most` intervals."""
    height = int(outer.rows[-1])
    loops = loops_for(strip_loops, height * len(inner.rows) + len(outer.ends))
    total = loops.tiles(*outer.arrays, inner.ptr, inner.ends, inner.keys)
    if total > most:
        return None
    strips = height * (len(inner.rows) - 1)
    rows, ptr = np.empty(strips + 1, np.int64), np.empty(strips + 1, np.int64)
    ends = np.empty((total, 4), np.int64)
    loops.tile(*outer.arrays, *inner.arrays, inner.keys, rows, ptr, ends)
    return rows, ptr, ends


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
    height = int(mask.rows[-1])
    cuts = np.sort(np.concatenate([[0, mask.keys], starts, stops]), kind="stable")
    cuts = cuts[np.append(True, cuts[1:] != cuts[:-1])]  # np.unique hashes, which is slower here
    first = np.searchsorted(cuts, starts)
    counts = np.searchsorted(cuts, stops) - first
    total = int(counts.sum())
    if total > 2 * PER_ROW * mask.keys:
        return None
    edge = np.repeat(np.arange(len(edges)), counts)
    piece = np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    at = row[edge] + slope[edge] * (cuts[piece] - starts[edge])
    order = np.argsort(piece * (height + 1) + at, kind="stable")
    ends = np.concatenate([at[order].reshape(-1, 2), slope[edge[order]].reshape(-1, 2)], axis=1)
    ptr = np.searchsorted(piece[order[::2]], np.arange(len(cuts)))
    return normal(height, cuts, ptr, ends, (mask.grain[1], mask.grain[0]))


def _level_edges(mask: Strips) -> Ints:
    """Where a row differs from the one above: [n, 4] of (first column, stop, row, slope 0)."""
    rows, ptr, ends = mask.arrays
    strip = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    top, width = ends[:, :2], mask.keys + 1
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
