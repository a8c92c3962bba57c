"""The loops under `strip_blocks`: which blocks are full and which partial, row by row.

Plain functions over int64 arrays, in the subset of Python that numba compiles (see `jit`).
Intervals are as in `strip_loops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.block_bank_loops import NO_BANK, RECENT, SHORT, cut
from maskc.block_range_loops import FULL, MIXED, classify, column_of, logarithm
from maskc.jit import allocating_loop, loop

__all__ = ["BANDS", "LINE", "NO_RUNS", "STORED", "find_runs"]

Ints = npt.NDArray[Any]

NO_RUNS = -2
"""What `find_runs` returns where runs have no room; `NO_BANK` where names have none."""

ROW, STRIP, LAST, LOOK, CYCLES, LINE, STORED, BANDS = range(8)
"""How far `find_runs` has come. In the mask: the next row of blocks, its strip, the row of blocks
before which the last band's own rows end, and the rows from which on to look for strips that repeat
themselves, and for cycles of them. Then the mask's first line, and how many rows and bands are
there of all masks."""

_LONGEST = 4  # strips of a cycle
_WORTH = 8  # rows of blocks that a band must save

_Relative = tuple[int, int, int, int, int]


@loop
def _append(runs: Ints, begin: Any, n: Any, start: int, stop: int, number: int) -> Any:
    """Append blocks to a row whose runs began at `begin`; how many runs there are then."""
    if n > begin and runs[n - 1, 1] == start and runs[n - 1, 2] == number:
        runs[n - 1, 1] = stop
        return n
    runs[n, 0] = start
    runs[n, 1] = stop
    runs[n, 2] = number
    return n + 1


@loop
def _place(memo: Ints, relative: _Relative) -> int:
    """Where an interval relative to a block is remembered, if it is."""
    lo, hi, lo_slope, hi_slope, height = relative
    return (5 * lo + 3 * hi + 2 * lo_slope + hi_slope + height) & (len(memo) - 1)


@loop
def _recall(memo: Ints, relative: _Relative) -> int:
    """The number of the block with this interval alone, -1 if it is not remembered."""
    at = _place(memo, relative)
    for k in range(5):
        if memo[at, k] != relative[k]:
            return -1
    return int(memo[at, 5] - 1)


@loop
def _remember(memo: Ints, relative: _Relative, number: int) -> None:
    at = _place(memo, relative)
    for k in range(5):
        memo[at, k] = relative[k]
    memo[at, 5] = number + 1


@loop
def _one_strip(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    strip: int,
    sizes: tuple[int, int],
    start: Ints,
    out_ptr: Ints,
    runs: Ints,
    interned: Any,
    scratch: Any,
    memo: Ints,
) -> int:
    """The runs of those rows of blocks from `start` on that lie in one strip; as `find_runs`.

    What a block holds of a single interval follows from the interval's ends relative to the block,
    so `memo` gives most numbers without a look at the block: its rows are (lo, hi, lo_slope,
    hi_slope, height, number + 1).
    """
    block_q, block_kv = sizes
    i, at, shift, end = start[ROW], start[STORED], logarithm(block_kv), rows[len(rows) - 1]
    while i < start[LAST] and min((i + 1) * block_q, end) <= rows[strip + 1]:
        top = i * block_q
        bottom = min(top + block_q, end)
        height, down, seen = bottom - top, top - rows[strip], 0
        begin = out_ptr[at]
        n = begin
        for k in range(ptr[strip], ptr[strip + 1]):
            lo_slope, hi_slope = ends[k, 2], ends[k, 3]
            lo, hi = ends[k, 0] + down * lo_slope, ends[k, 1] + down * hi_slope
            lo_end, hi_end = lo + (height - 1) * lo_slope, hi + (height - 1) * hi_slope
            stop = column_of(hi_end - 1, block_kv, shift) + 1
            full_start = column_of(lo_end - 1, block_kv, shift) + 1
            full_stop = column_of(hi, block_kv, shift)
            if height < block_q:
                full_stop = full_start
            shared = stop  # blocks from here on belong to the next interval as well
            if k + 1 < ptr[strip + 1]:
                following = ends[k + 1, 0] + down * ends[k + 1, 2]
                shared = min(stop, column_of(following, block_kv, shift))
            j = max(column_of(lo, block_kv, shift), seen)
            while j < stop:
                if n >= len(runs):
                    return NO_RUNS
                if full_start <= j < full_stop:
                    n = _append(runs, begin, n, j, full_stop, -1)
                    j = full_stop
                    continue
                left = j * block_kv
                here, there, lo_moves, hi_moves = lo - left, hi - left, lo_slope, hi_slope
                if lo_end <= left:
                    here, lo_moves = 0, 0
                if there >= block_kv:
                    there, hi_moves = block_kv, 0
                relative = here, there, lo_moves, hi_moves, height
                number = -1 if j >= shared else _recall(memo, relative)
                if number < 0:
                    number = cut(rows, ptr, ends, strip, top, bottom, j, sizes, interned, scratch)
                    if j < shared:
                        _remember(memo, relative, number)
                if number < 0:
                    return NO_BANK
                n = _append(runs, begin, n, j, j + 1, number)
                j += 1
            seen = max(seen, stop)
        i += 1
        at += 1
        out_ptr[at] = n
        start[ROW] = i
        start[STORED] = at
    return 0


@loop
def _some_strips(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    strip: int,
    top: int,
    bottom: int,
    sizes: tuple[int, int],
    begin: Any,
    runs: Ints,
    interned: Any,
    scratch: Any,
    room: Any,
) -> Any:
    """The runs of any row of blocks, written from `begin` on.

    Returns:
        How many runs there are then, or `NO_RUNS` or `NO_BANK`.
    """
    block_q, block_kv = sizes
    n = begin
    for r in range(classify(rows, ptr, ends, strip, top, bottom, block_kv, room)):
        j, stop, what = room[2][r]
        if what == FULL and bottom - top == block_q:
            if n >= len(runs):
                return NO_RUNS
            n = _append(runs, begin, n, j, stop, -1)
            continue
        while j < stop:
            if n >= len(runs):
                return NO_RUNS
            number = cut(rows, ptr, ends, strip, top, bottom, j, sizes, interned, scratch)
            if number < 0:
                return NO_BANK
            after = j + 1 if what == MIXED else stop
            n = _append(runs, begin, n, j, after, number)
            j = after
    return n


@loop
def _moved(rows: Ints, ptr: Ints, ends: Ints, a: int, b: int, right: int) -> bool:
    """Whether strip b is strip a, moved to the right."""
    n = ptr[a + 1] - ptr[a]
    if rows[a + 1] - rows[a] != rows[b + 1] - rows[b] or ptr[b + 1] - ptr[b] != n:
        return False
    for i in range(n):
        x, y = ptr[a] + i, ptr[b] + i
        if ends[x, 0] + right != ends[y, 0] or ends[x, 1] + right != ends[y, 1]:
            return False
        if ends[x, 2] != ends[y, 2] or ends[x, 3] != ends[y, 3]:
            return False
    return True


@loop
def _slope(ptr: Ints, ends: Ints, strip: int) -> int:
    """The slope of all ends of a strip, -1 if they differ."""
    slope = 0
    for i in range(ptr[strip], ptr[strip + 1]):
        if i == ptr[strip]:
            slope = ends[i, 2]
        if ends[i, 2] != slope or ends[i, 3] != slope:
            return -1
    return int(slope)


@loop
def _standing(ptr: Ints, ends: Ints, strip: int) -> int:
    """How many of a strip's intervals stand still, if they are the first and the others move."""
    first, last = ptr[strip], ptr[strip + 1]
    i = first
    while i < last and ends[i, 2] == 0 and ends[i, 3] == 0:
        i += 1
    for j in range(i, last):
        if ends[j, 2] == 0 or ends[j, 3] == 0:
            return 0
    return int(i - first) if i < last else 0


@loop
def _cycle(rows: Ints, ptr: Ints, ends: Ints, strip: int) -> tuple[int, int, int]:
    """How strips repeat themselves from one on that has intervals.

    Returns:
        (end, down, right): a row that is `down` or more below the strip's first, and above row
        `end`, is the one `down` above it, moved to the right. 0 down if there is no such thing.
    """
    strips = len(ptr) - 1
    for n in range(1, 1 + min(_LONGEST, strips - strip - 1)):
        if ptr[strip] == ptr[strip + 1] or ptr[strip + n] == ptr[strip + n + 1]:
            continue
        right, s = ends[ptr[strip + n], 0] - ends[ptr[strip], 0], strip
        while right >= 0 and s + n < strips and _moved(rows, ptr, ends, s, s + n, right):
            s += 1
        if s >= strip + n:
            return int(rows[s + n]), int(rows[strip + n] - rows[strip]), int(right)
    return int(rows[strip + 1]), 0, 0


@loop
def _divisor(a: int, b: int) -> int:
    """The greatest common one."""
    while b:
        a, b = b, a % b
    return a


@loop
def _blocks(
    i: int, end: Any, down: int, right: int, sizes: tuple[int, int]
) -> tuple[int, int, int]:
    """The period, count and step of the band of blocks from row of blocks `i` on; count 1 if none.

    Rows of blocks repeat themselves as rows do, where rows move by whole blocks, both ways.
    """
    block_q, block_kv = sizes
    if down:
        x, y = block_q // _divisor(block_q, down), block_kv // _divisor(block_kv, right)
        times = x // _divisor(x, y) * y
        period = times * down // block_q
        count = (end // block_q - i) // period
        if count > 2 and (count - 1) * period >= _WORTH:
            return period, count, times * right // block_kv
    return 0, 1, 0


@loop
def _announce(
    rows: Ints, ptr: Ints, ends: Ints, sizes: tuple[int, int], start: Ints, bands: Ints
) -> None:
    """Begin a band, or go on with the last one. The rows up to `start[LAST]` are to be found."""
    (block_q, block_kv), i, strip = sizes, start[ROW], start[STRIP]
    period, count, step, gap = 0, 1, 0, 0
    if i * block_q >= start[LOOK]:
        start[LOOK] = rows[strip + 1]
        if i * block_q >= start[CYCLES]:
            end, down, right = _cycle(rows, ptr, ends, strip)
            start[CYCLES] = end
            period, count, step = _blocks(i, end, down, right, sizes)
        slope = _slope(ptr, ends, strip)
        if count == 1 and slope >= 0:
            period, count, step = _blocks(i, rows[strip + 1], 1, slope, sizes)
        still = _standing(ptr, ends, strip)
        if count == 1 and still and block_q % block_kv == 0:
            moving = ptr[strip] + still
            gap = (ends[moving - 1, 1] - 1) // block_kv + 1  # a column that nothing may have
            apart = rows[strip] + (gap + 1) * block_kv - ends[moving, 0]  # from this row on
            if apart <= i * block_q:
                period, count, step = _blocks(i, rows[strip + 1], 1, 1, sizes)
            elif apart < start[LOOK]:
                start[LOOK] = apart
    b = start[BANDS]
    if count == 1:
        last = rows[len(rows) - 1]
        period = max(i + 1, -(-min(start[LOOK], last) // block_q)) - i
        if i and bands[b - 1, 3] == 1:
            b -= 1
            bands[b, 2] += period
            start[LAST] = i + period
            return
    bands[b, 0] = start[LINE] + i
    bands[b, 1] = start[STORED]
    bands[b, 2] = period
    bands[b, 3] = count
    bands[b, 4] = step
    bands[b, 5] = gap if count > 1 else 0  # until its rows are found
    start[BANDS] = b + 1
    start[LAST] = i + period


@allocating_loop
def _room_to_classify(columns: int) -> Any:
    """The room of `classify`."""
    return (
        np.zeros((columns, 3), np.int64),
        np.empty(columns, np.int64),
        np.empty((columns, 3), np.int64),
    )


@allocating_loop
def _room_to_cut(ptr: Ints, block_q: int, block_kv: int) -> Any:
    """The scratch of `cut`."""
    widest = 1
    for s in range(len(ptr) - 1):
        widest = max(widest, ptr[s + 1] - ptr[s])
    most = min(widest, block_kv // 2 + 1)  # intervals of a row of a block
    intervals = (block_q + 1) * (most + 1)
    forms = (
        np.empty((most + 2, 4), np.int64),
        np.empty(3, np.int64),
        np.empty((most + 2, 4), np.int64),
        np.empty(2, np.int64),
        np.empty(block_q + 1, np.int64),
        np.empty(block_q + 1, np.int64),
        np.empty((intervals, 4), np.int64),
    )
    longest = 2 * block_q + 4 + 4 * intervals
    recent = np.zeros((RECENT + 1, 2), np.int64), np.empty((RECENT, SHORT), np.int64)
    return forms, np.empty(longest, np.int64), np.empty(longest, np.int64), recent


@allocating_loop
def find_runs(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    block_q: int,
    block_kv: int,
    kv_len: int,
    start: Ints,
    bands: Ints,
    out_ptr: Ints,
    runs: Ints,
    table: Ints,
    pool: Ints,
    pool_ptr: Ints,
    count: Ints,
) -> Any:
    """The runs of every row of blocks from `start` on; `NO_RUNS` or `NO_BANK` if there is no room.

    Where rows of blocks repeat those above, moved, a band says so, and they are not looked at. A
    row that found no room is found again when there is more: equal blocks get equal numbers.

    Args:
        rows: first row of each strip, and the end.
        ptr: where each strip's intervals begin.
        ends: the intervals.
        block_q: queries per block.
        block_kv: keys per block.
        kv_len: number of keys.
        start: how far it has come: see `ROW`; updated.
        bands: as in `MaskBlocks.bands`; filled from `start[BANDS]` on.
        out_ptr: as in `MaskBlocks.ptr`; filled from `start[STORED]` on.
        runs: as in `MaskBlocks.runs`; filled from `out_ptr[start[STORED]]` on.
        table: of `_intern`, as are the rest.
        pool: descriptions of the distinct partial blocks.
        pool_ptr: where each begins.
        count: how many there are.
    """
    end = rows[len(rows) - 1]
    nq = -(-end // block_q)
    room, scratch = _room_to_classify(0), _room_to_cut(ptr, block_q, block_kv)
    interned = table, pool, pool_ptr, count
    sizes = block_q, block_kv
    memo = np.zeros((64, 6), np.int64)
    while start[ROW] < nq:
        i, s = start[ROW], start[STRIP]
        top, bottom = i * block_q, min((i + 1) * block_q, end)
        while rows[s + 1] <= top:
            s += 1
        start[STRIP] = s
        if i == start[LAST]:
            _announce(rows, ptr, ends, sizes, start, bands)
        if rows[s + 1] >= bottom:
            lack = _one_strip(
                rows, ptr, ends, s, sizes, start, out_ptr, runs, interned, scratch, memo
            )
            if lack < 0:
                return lack
        else:
            if not len(room[1]):
                room = _room_to_classify(-(-kv_len // block_kv) + 1)
            at = start[STORED]
            n = _some_strips(
                rows, ptr, ends, s, top, bottom, sizes, out_ptr[at], runs, interned, scratch, room
            )
            if n < 0:
                return n
            out_ptr[at + 1] = n
            start[ROW] += 1
            start[STORED] += 1
        band = start[BANDS] - 1
        if start[ROW] == start[LAST] and bands[band, 3] > 1:
            first, gap, still = out_ptr[bands[band, 1]], bands[band, 5], 0
            while gap and runs[first + still, 0] < gap:
                still += 1
            bands[band, 5] = still
            start[ROW] += bands[band, 2] * (bands[band, 3] - 1)
            start[LAST] = start[ROW]
    return 0
