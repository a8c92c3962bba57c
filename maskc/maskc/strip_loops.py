"""The loops under `strips`: boolean sweeps and the normal form.

Plain functions over int64 arrays, in the subset of Python that numba compiles (see `jit`).

An interval is a row (lo, hi, lo_slope, hi_slope) of an [n, 4] array: [lo, hi) at the first row of
its strip, each end moving by its slope, 0 or 1, from row to row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import allocating_loop, loop

__all__ = [
    "combine",
    "flush",
    "goes_on",
    "is_normal",
    "normalise",
    "place",
    "push",
    "tile",
    "tiles",
]

Ints = npt.NDArray[Any]


# --- the normal form ----------------------------------------------------------------------------
#
# Rows are read from the top. A strip takes the next row as long as the row has as many intervals,
# with both ends of each moved by the slopes that the strip's first two rows fix. So strips depend
# on the rows alone and not on how they were written: equal masks have equal strips.
#
# `state` is (first row, height, intervals) of the strip under way, `run` its intervals, and `size`
# (strips, intervals) written so far. Beyond the capacity of the output nothing is written, but all
# is counted, so that the caller can come back with enough room.


@loop
def goes_on(height: int, lo: int, hi: int, lo_slope: int, hi_slope: int) -> bool:
    """Whether an interval goes on: its ends have moved by `lo` and `hi` in `height` rows.

    After one row any moves of 0 or 1 will do: they fix the slopes.
    """
    if height == 1:
        return 0 <= lo <= 1 and 0 <= hi <= 1
    return lo == height * lo_slope and hi == height * hi_slope


@loop
def flush(
    state: Ints, run: Ints, size: Ints, out_rows: Ints, out_ptr: Ints, out_ends: Ints
) -> None:
    """Write the strip under way."""
    strips, ends = size[0], size[1]
    n = state[2]
    if strips < out_rows.shape[0] and ends + n <= out_ends.shape[0]:
        out_rows[strips] = state[0]
        out_ptr[strips] = ends
        for i in range(n):
            out_ends[ends + i, 0] = run[i, 0]
            out_ends[ends + i, 1] = run[i, 1]
            out_ends[ends + i, 2] = run[i, 2] if state[1] > 1 else 0
            out_ends[ends + i, 3] = run[i, 3] if state[1] > 1 else 0
    size[0] = strips + 1
    size[1] = ends + n


@loop
def _begin(row: int, height: int, ends: Ints, n: int, skip: int, state: Ints, run: Ints) -> None:
    """Start a strip from `ends`, `skip` rows further down."""
    state[0] = row
    state[1] = height
    state[2] = n
    for i in range(n):
        run[i, 0] = ends[i, 0] + skip * ends[i, 2]
        run[i, 1] = ends[i, 1] + skip * ends[i, 3]
        run[i, 2] = ends[i, 2]
        run[i, 3] = ends[i, 3]


@loop
def _takes(ends: Ints, n: int, state: Ints, run: Ints) -> bool:
    """Whether the strip under way goes on with this row; a second row fixes its slopes."""
    height = state[1]
    if state[2] != n:
        return False
    for i in range(n):
        lo, hi = ends[i, 0] - run[i, 0], ends[i, 1] - run[i, 1]
        if not goes_on(height, lo, hi, run[i, 2], run[i, 3]):
            return False
    if height == 1:
        for i in range(n):
            run[i, 2] = ends[i, 0] - run[i, 0]
            run[i, 3] = ends[i, 1] - run[i, 1]
    return True


@loop
def push(
    row: int,
    stop: int,
    ends: Ints,
    n: int,
    state: Ints,
    run: Ints,
    size: Ints,
    out_rows: Ints,
    out_ptr: Ints,
    out_ends: Ints,
) -> None:
    """Append rows `row` to `stop` with the intervals `ends`, given at `row`."""
    if state[1] == 0:
        _begin(row, stop - row, ends, n, 0, state, run)
        return
    if not _takes(ends, n, state, run):
        flush(state, run, size, out_rows, out_ptr, out_ends)
        _begin(row, stop - row, ends, n, 0, state, run)
        return
    state[1] += 1
    if row + 1 == stop:
        return
    same = True
    for i in range(n):
        same = same and ends[i, 2] == run[i, 2] and ends[i, 3] == run[i, 3]
    if same:
        state[1] += stop - row - 1
    else:
        flush(state, run, size, out_rows, out_ptr, out_ends)
        _begin(row + 1, stop - row - 1, ends, n, 1, state, run)


@loop
def _finish(
    end: int,
    state: Ints,
    run: Ints,
    size: Ints,
    out_rows: Ints,
    out_ptr: Ints,
    out_ends: Ints,
) -> None:
    """Write the last strip, and where all of them end."""
    if state[1]:
        flush(state, run, size, out_rows, out_ptr, out_ends)
    if size[0] < out_rows.shape[0]:
        out_rows[size[0]] = end
        out_ptr[size[0]] = size[1]


@loop
def _settled(rows: Ints, ptr: Ints, ends: Ints, strip: int) -> int:
    """The first from `strip` on that is not in normal form as it stands: it takes a row below."""
    for s in range(strip, len(ptr) - 1):
        height, first, n = rows[s + 1] - rows[s], ptr[s], ptr[s + 1] - ptr[s]
        if height == 0:
            return s
        if height == 1:
            for i in range(first, first + n):
                if ends[i, 2] != 0 or ends[i, 3] != 0:
                    return s
        if s + 2 == len(ptr) or ptr[s + 2] - ptr[s + 1] != n:
            continue
        taken = True
        for i in range(first, first + n):
            lo, hi = ends[i + n, 0] - ends[i, 0], ends[i + n, 1] - ends[i, 1]
            if not goes_on(height, lo, hi, ends[i, 2], ends[i, 3]):
                taken = False
                break
        if taken:
            return s
    return len(ptr) - 1


@loop
def is_normal(rows: Ints, ptr: Ints, ends: Ints) -> bool:
    """Whether strips are in normal form as they stand."""
    return _settled(rows, ptr, ends, 0) == len(ptr) - 1


@loop
def _copy(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    first: int,
    last: int,
    size: Ints,
    out_rows: Ints,
    out_ptr: Ints,
    out_ends: Ints,
) -> None:
    """`_begin` and `flush` of strips that are in normal form as they stand."""
    strips, start, n = size[0], size[1], ptr[last] - ptr[first]
    if strips + last - first <= out_rows.shape[0] and start + n <= out_ends.shape[0]:
        for s in range(first, last):
            out_rows[strips + s - first] = rows[s]
            out_ptr[strips + s - first] = start + ptr[s] - ptr[first]
        for i in range(n):
            for k in range(4):
                out_ends[start + i, k] = ends[ptr[first] + i, k]
    size[0] = strips + last - first
    size[1] = start + n


@allocating_loop
def normalise(
    rows: Ints, ptr: Ints, ends: Ints, size: Ints, out_rows: Ints, out_ptr: Ints, out_ends: Ints
) -> None:
    """Bring strips with true intervals (sorted, apart, not empty) to the normal form."""
    widest, strips = 0, len(ptr) - 1
    for s in range(strips):
        widest = max(widest, ptr[s + 1] - ptr[s])
    state, run = np.zeros(3, np.int64), np.zeros((widest + 1, 4), np.int64)
    s = 0
    while s < strips:
        first = _settled(rows, ptr, ends, s)
        _copy(rows, ptr, ends, s, first, size, out_rows, out_ptr, out_ends)
        s = first
        while s < strips:
            if rows[s] < rows[s + 1]:
                push(
                    rows[s], rows[s + 1], ends[ptr[s] : ptr[s + 1]], ptr[s + 1] - ptr[s],
                    state, run, size, out_rows, out_ptr, out_ends,
                )  # fmt: skip
                if s > first and state[0] == rows[s] and state[1] == rows[s + 1] - rows[s]:
                    state[1] = 0  # it began with this strip, which may be settled again
                    break
            s += 1
    _finish(rows[strips], state, run, size, out_rows, out_ptr, out_ends)


# --- shifts -------------------------------------------------------------------------------------


@loop
def place(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    down: int,
    right: int,
    first: int,
    q_len: int,
    out_rows: Ints,
    out_ptr: Ints,
    out_ends: Ints,
) -> None:
    """Move strips; there is room for `first` empty one above, and for one below down to `q_len`."""
    n = len(rows)
    out_rows[0] = 0
    out_ptr[0] = 0
    for i in range(n):
        out_rows[first + i] = rows[i] + down
        out_ptr[first + i] = ptr[i]
    if first + n < len(out_rows):
        out_rows[first + n] = q_len
        out_ptr[first + n] = ptr[n - 1]
    for i in range(len(ends)):
        out_ends[i, 0] = ends[i, 0] + right
        out_ends[i, 1] = ends[i, 1] + right
        out_ends[i, 2] = ends[i, 2]
        out_ends[i, 3] = ends[i, 3]


# --- products -----------------------------------------------------------------------------------


@loop
def _is_whole(ends: Ints, first: int, last: int, kv_len: int) -> bool:
    """Whether a strip has all keys in all of its rows."""
    if last != first + 1 or ends[first, 2] != 0:
        return False
    return bool(ends[first, 0] == 0 and ends[first, 1] == kv_len)


@loop
def tiles(
    outer_rows: Ints, outer_ptr: Ints, outer_ends: Ints, ptr: Ints, ends: Ints, kv: int
) -> int:
    """How many intervals `tile` writes."""
    whole, parts = 0, 0
    for t in range(len(ptr) - 1):
        if _is_whole(ends, ptr[t], ptr[t + 1], kv):
            whole += 1
        else:
            parts += ptr[t + 1] - ptr[t]
    total = 0
    for s in range(len(outer_ptr) - 1):
        height = outer_rows[s + 1] - outer_rows[s]
        for i in range(outer_ptr[s], outer_ptr[s + 1]):
            lo, hi, lo_slope, hi_slope = outer_ends[i]
            area = height * (hi - lo) + height * (height - 1) // 2 * (hi_slope - lo_slope)
            total += height * whole + area * parts
    return int(total)


@loop
def tile(
    outer_rows: Ints,
    outer_ptr: Ints,
    outer_ends: Ints,
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    kv: int,
    out_rows: Ints,
    out_ptr: Ints,
    out_ends: Ints,
) -> None:
    """Put a mask with `kv` keys in place of every element of another one.

    The outcome is strips for every row of the outer mask; intervals that come to touch stay two,
    but for those of whole tiles.
    """
    n, m, q = 0, 0, rows[len(rows) - 1]
    for s in range(len(outer_ptr) - 1):
        for row in range(outer_rows[s], outer_rows[s + 1]):
            down = row - outer_rows[s]
            for t in range(len(ptr) - 1):
                out_rows[n] = row * q + rows[t]
                out_ptr[n] = m
                n += 1
                whole = _is_whole(ends, ptr[t], ptr[t + 1], kv)
                for i in range(outer_ptr[s], outer_ptr[s + 1]):
                    lo = outer_ends[i, 0] + down * outer_ends[i, 2]
                    hi = outer_ends[i, 1] + down * outer_ends[i, 3]
                    if whole:
                        out_ends[m, 0] = lo * kv
                        out_ends[m, 1] = hi * kv
                        out_ends[m, 2] = 0
                        out_ends[m, 3] = 0
                        m += 1
                        continue
                    for column in range(lo, hi):
                        for j in range(ptr[t], ptr[t + 1]):
                            out_ends[m, 0] = column * kv + ends[j, 0]
                            out_ends[m, 1] = column * kv + ends[j, 1]
                            out_ends[m, 2] = ends[j, 2]
                            out_ends[m, 3] = ends[j, 3]
                            m += 1
    out_rows[n] = outer_rows[len(outer_rows) - 1] * q
    out_ptr[n] = m


# --- boolean operators --------------------------------------------------------------------------


@loop
def _gather(
    ends: Ints, first: int, last: int, down: int, source: int, at: int, events: Ints
) -> int:
    """Write the ends of intervals `first:last`, `down` rows into their strip, as events."""
    for i in range(first, last):
        for side in range(2):
            events[at, 0] = ends[i, side] + down * ends[i, 2 + side]
            events[at, 1] = ends[i, 2 + side]
            events[at, 2] = source
            at += 1
    return at


@loop
def _edges(events: Ints, kv_len: int) -> int:
    """Write the ends of the keys as events; how many they are."""
    for i in range(2):
        events[i, 0] = i * kv_len
        events[i, 1] = 0
        events[i, 2] = 2
    return 2


@loop
def _lower(ends: Ints, first: int, last: int, down: int, cur: Ints) -> int:
    """Copy intervals `first:last`, as they are `down` rows into their strip; how many they are."""
    for i in range(last - first):
        lo_slope, hi_slope = ends[first + i, 2], ends[first + i, 3]
        cur[i, 0] = ends[first + i, 0] + down * lo_slope
        cur[i, 1] = ends[first + i, 1] + down * hi_slope
        cur[i, 2] = lo_slope
        cur[i, 3] = hi_slope
    return last - first


@loop
def _sort(events: Ints, n: int) -> None:
    """By position, and at one position by slope: the order in which the next row keeps them."""
    for i in range(1, n):
        p, s, source = events[i, 0], events[i, 1], events[i, 2]
        j = i - 1
        while j >= 0 and (events[j, 0] > p or (events[j, 0] == p and events[j, 1] > s)):
            events[j + 1, 0] = events[j, 0]
            events[j + 1, 1] = events[j, 1]
            events[j + 1, 2] = events[j, 2]
            j -= 1
        events[j + 1, 0] = p
        events[j + 1, 1] = s
        events[j + 1, 2] = source


@loop
def _holds(events: Ints, n: int) -> int:
    """For how many rows no two neighbouring events meet or part."""
    least = 1 << 62
    for i in range(n - 1):
        apart = events[i + 1, 0] - events[i, 0]
        if events[i, 1] == 1 and events[i + 1, 1] == 0:
            least = min(least, apart)
        elif apart == 0 and events[i, 1] != events[i + 1, 1]:
            least = min(least, 1)
    return least


@loop
def _walk(events: Ints, n: int, table: int, cur: Ints) -> int:
    """The intervals of the result at this row, from left to right; how many there are."""
    inside = 0 if table & 1 else 4  # a bit for each source, and one for the keys
    on, count, i = False, 0, 0
    while i < n:
        position, slope = events[i, 0], events[i, 1]
        while i < n and events[i, 0] == position:
            inside ^= 1 << events[i, 2]
            i += 1
        now = inside >= 4 and (table >> (2 * (inside & 1) + ((inside >> 1) & 1))) & 1 == 1
        if now and not on:
            cur[count, 0] = position
            cur[count, 2] = slope
        elif on and not now:
            cur[count, 1] = position
            cur[count, 3] = slope
            count += 1
        on = now
    return count


@loop
def _take(
    rows: Ints, ptr: Ints, ends: Ints, strip: int, limit: int, state: Ints, run: Ints, out: Any
) -> int:
    """Append whole strips of a normal form that end at `limit` or above; the row after them.

    Where the strip under way does not go on with the first of them, they stay as they are.
    """
    size, out_rows, out_ptr, out_ends = out
    row, stop = rows[strip], rows[strip + 1]
    own = ends[ptr[strip] : ptr[strip + 1]]
    push(row, stop, own, len(own), state, run, size, out_rows, out_ptr, out_ends)
    if state[0] != row or state[1] != stop - row:
        return int(stop)
    last = strip
    while last + 2 < len(rows) and rows[last + 2] <= limit:
        last += 1
    if last > strip:
        flush(state, run, size, out_rows, out_ptr, out_ends)
        _copy(rows, ptr, ends, strip + 1, last, size, out_rows, out_ptr, out_ends)
        own = ends[ptr[last] : ptr[last + 1]]
        _begin(rows[last], rows[last + 1] - rows[last], own, len(own), 0, state, run)
    return int(rows[last + 1])


@allocating_loop
def combine(
    a_rows: Ints,
    a_ptr: Ints,
    a_ends: Ints,
    b_rows: Ints,
    b_ptr: Ints,
    b_ends: Ints,
    kv_len: int,
    table: int,
    size: Ints,
    out_rows: Ints,
    out_ptr: Ints,
    out_ends: Ints,
) -> None:
    """Any operator of two masks, one sweep over both. Bit 2 * a + b of `table` is its value."""
    widest = 1
    for s in range(len(a_ptr) - 1):
        widest = max(widest, a_ptr[s + 1] - a_ptr[s])
    other = 1
    for s in range(len(b_ptr) - 1):
        other = max(other, b_ptr[s + 1] - b_ptr[s])
    out = size, out_rows, out_ptr, out_ends
    state, run = np.zeros(3, np.int64), np.zeros((widest + other + 2, 4), np.int64)
    cur = np.zeros((widest + other + 2, 4), np.int64)
    events = np.zeros((2 * (widest + other) + 2, 3), np.int64)
    a, b, row, end = 0, 0, 0, a_rows[len(a_rows) - 1]
    while row < end:
        while a_rows[a + 1] <= row:
            a += 1
        while b_rows[b + 1] <= row:
            b += 1
        stop = min(a_rows[a + 1], b_rows[b + 1])
        first = b_ptr[b] == b_ptr[b + 1] and table & 0b0101 == 0b0100  # the first mask itself
        second = a_ptr[a] == a_ptr[a + 1] and table & 0b0011 == 0b0010
        if first and a_rows[a] == row and a_rows[a + 1] < b_rows[b + 1]:
            row = _take(a_rows, a_ptr, a_ends, a, b_rows[b + 1], state, run, out)
            continue
        if second and b_rows[b] == row and b_rows[b + 1] < a_rows[a + 1]:
            row = _take(b_rows, b_ptr, b_ends, b, a_rows[a + 1], state, run, out)
            continue
        if first:
            count = _lower(a_ends, a_ptr[a], a_ptr[a + 1], row - a_rows[a], cur)
        elif second:
            count = _lower(b_ends, b_ptr[b], b_ptr[b + 1], row - b_rows[b], cur)
        else:
            n = 0
            if table & 1:  # true of nothing, so it ends where the keys do
                n = _edges(events, kv_len)
            n = _gather(a_ends, a_ptr[a], a_ptr[a + 1], row - a_rows[a], 0, n, events)
            n = _gather(b_ends, b_ptr[b], b_ptr[b + 1], row - b_rows[b], 1, n, events)
            _sort(events, n)
            stop = min(stop, row + _holds(events, n))
            count = _walk(events, n, table, cur)
        push(row, stop, cur, count, state, run, size, out_rows, out_ptr, out_ends)
        row = stop
    _finish(end, state, run, size, out_rows, out_ptr, out_ends)
