"""The loops under `strips`: boolean sweeps, the normal form, and blocks of a strip mask.

Plain functions over int64 arrays, in the subset of Python that numba compiles (see `jit`).

An interval is a row (lo, hi, lo_slope, hi_slope) of an [n, 4] array: [lo, hi) at the first row of
its strip, each end moving by its slope, 0 or 1, from row to row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import loop

__all__ = ["classify", "combine", "count_blocks", "find_blocks", "is_normal", "normalise", "paint"]

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
def _flush(
    state: Ints, run: Ints, size: Ints, out_rows: Ints, out_ptr: Ints, out_ends: Ints
) -> None:
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
        if height > 1 and (lo != height * run[i, 2] or hi != height * run[i, 3]):
            return False
        if height == 1 and (lo < 0 or lo > 1 or hi < 0 or hi > 1):
            return False
    if height == 1:
        for i in range(n):
            run[i, 2] = ends[i, 0] - run[i, 0]
            run[i, 3] = ends[i, 1] - run[i, 1]
    return True


@loop
def _push(
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
        _flush(state, run, size, out_rows, out_ptr, out_ends)
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
        _flush(state, run, size, out_rows, out_ptr, out_ends)
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
        _flush(state, run, size, out_rows, out_ptr, out_ends)
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
            if height > 1 and (lo != height * ends[i, 2] or hi != height * ends[i, 3]):
                taken = False
                break
            if height == 1 and (lo < 0 or lo > 1 or hi < 0 or hi > 1):
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
    """`_begin` and `_flush` of strips that are in normal form as they stand."""
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


@loop
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
                _push(
                    rows[s], rows[s + 1], ends[ptr[s] : ptr[s + 1]], ptr[s + 1] - ptr[s],
                    state, run, size, out_rows, out_ptr, out_ends,
                )  # fmt: skip
                if s > first and state[0] == rows[s] and state[1] == rows[s + 1] - rows[s]:
                    state[1] = 0  # it began with this strip, which may be settled again
                    break
            s += 1
    _finish(rows[strips], state, run, size, out_rows, out_ptr, out_ends)


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
    inside, on, count, i = 0, False, 0, 0  # a bit for each source
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
    state, run = np.zeros(3, np.int64), np.zeros((widest + other + 2, 4), np.int64)
    cur = np.zeros((widest + other + 2, 4), np.int64)
    events = np.zeros((2 * (widest + other) + 2, 3), np.int64)
    a, b, row, end = 0, 0, 0, a_rows[len(a_rows) - 1]
    while row < end:
        while a_rows[a + 1] <= row:
            a += 1
        while b_rows[b + 1] <= row:
            b += 1
        n = _gather(a_ends, a_ptr[a], a_ptr[a + 1], row - a_rows[a], 0, 0, events)
        n = _gather(b_ends, b_ptr[b], b_ptr[b + 1], row - b_rows[b], 1, n, events)
        for edge in (0, kv_len):  # the keys end here, for an operator that is true of nothing
            events[n, 0] = edge
            events[n, 1] = 0
            events[n, 2] = 2
            n += 1
        _sort(events, n)
        stop = min(row + _holds(events, n), a_rows[a + 1], b_rows[b + 1])
        count = _walk(events, n, table, cur)
        _push(row, stop, cur, count, state, run, size, out_rows, out_ptr, out_ends)
        row = stop
    _finish(end, state, run, size, out_rows, out_ptr, out_ends)


# --- blocks -------------------------------------------------------------------------------------


@loop
def _crop(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    strip: int,
    top: int,
    bottom: int,
    left: int,
    right: int,
    height: int,
    scratch: Any,
) -> None:
    """The normal form of one block, relative to its corner, into `scratch`.

    Rows from `bottom` to the block's `height` lie beyond the mask and are empty. `scratch` is
    (cur, state, run, size, out_rows, out_ptr, out_ends); `strip` holds row `top`.
    """
    cur, state, run, size, out_rows, out_ptr, out_ends = scratch
    state[1] = 0
    size[0] = 0
    size[1] = 0
    row, s = top, strip
    while row < bottom:
        while rows[s + 1] <= row:
            s += 1
        stop = min(rows[s + 1], bottom)
        n, down = 0, row - rows[s]
        for i in range(ptr[s], ptr[s + 1]):
            lo_slope, hi_slope = ends[i, 2], ends[i, 3]
            lo, hi = ends[i, 0] + down * lo_slope, ends[i, 1] + down * hi_slope
            if hi <= left:
                if hi_slope == 1:
                    stop = min(stop, row + left - hi + 1)
                continue
            if lo >= right:
                break
            if lo_slope == 1:
                stop = min(stop, row + (left if lo < left else right) - lo)
            if hi_slope == 1 and hi < right:
                stop = min(stop, row + right - hi)
            cur[n, 0] = max(lo, left) - left
            cur[n, 1] = min(hi, right) - left
            cur[n, 2] = lo_slope if lo >= left else 0
            cur[n, 3] = hi_slope if hi < right else 0
            n += 1
        _push(row - top, stop - top, cur, n, state, run, size, out_rows, out_ptr, out_ends)
        row = stop
    if bottom - top < height:
        _push(bottom - top, height, cur, 0, state, run, size, out_rows, out_ptr, out_ends)
    _flush(state, run, size, out_rows, out_ptr, out_ends)


@loop
def _intersect(a: Ints, n: int, b: Ints, m: int, out: Ints) -> int:
    """Sorted disjoint ranges that two lists have in common."""
    i, j, k = 0, 0, 0
    while i < n and j < m:
        lo, hi = max(a[i, 0], b[j, 0]), min(a[i, 1], b[j, 1])
        if lo < hi:
            out[k, 0] = lo
            out[k, 1] = hi
            k += 1
        if a[i, 1] < b[j, 1]:
            i += 1
        else:
            j += 1
    return k


@loop
def _unite(a: Ints, n: int, b: Ints, m: int, out: Ints) -> int:
    """Sorted ranges of either list, merged where they meet."""
    i, j, k = 0, 0, 0
    while i < n or j < m:
        if j >= m or (i < n and a[i, 0] <= b[j, 0]):
            lo, hi = a[i, 0], a[i, 1]
            i += 1
        else:
            lo, hi = b[j, 0], b[j, 1]
            j += 1
        if k and lo <= out[k - 1, 1]:
            out[k - 1, 1] = max(out[k - 1, 1], hi)
        else:
            out[k, 0] = lo
            out[k, 1] = hi
            k += 1
    return k


@loop
def _ranges(
    ends: Ints, first: int, last: int, down: int, height: int, block: int, touched: Ints, full: Ints
) -> tuple[int, int]:
    """Block columns that `height` rows of one strip touch, and those that every row fills."""
    t, f = 0, 0
    for i in range(first, last):
        lo, hi = ends[i, 0] + down * ends[i, 2], ends[i, 1] + down * ends[i, 3]
        lo_end, hi_end = lo + (height - 1) * ends[i, 2], hi + (height - 1) * ends[i, 3]
        start, stop = lo // block, (hi_end - 1) // block + 1
        if t and start <= touched[t - 1, 1]:
            touched[t - 1, 1] = max(touched[t - 1, 1], stop)
        else:
            touched[t, 0] = start
            touched[t, 1] = stop
            t += 1
        start, stop = -(-lo_end // block), hi // block
        if start < stop:
            full[f, 0] = start
            full[f, 1] = stop
            f += 1
    return t, f


@loop
def classify(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    strip: int,
    top: int,
    bottom: int,
    block: int,
    lists: Any,
) -> tuple[int, int]:
    """Ranges of touched and of full block columns of rows `top` to `bottom`.

    `lists` is (touched, full, touched_here, full_here, spare), [columns + 1, 2] each; the result
    is in the first two.
    """
    touched, full, touched_here, full_here, spare = lists
    t, f, s, row = 0, 0, strip, top
    while row < bottom:
        stop = min(rows[s + 1], bottom)
        args_down, height = row - rows[s], stop - row
        if row == top:
            t, f = _ranges(ends, ptr[s], ptr[s + 1], args_down, height, block, touched, full)
        else:
            th, fh = _ranges(
                ends, ptr[s], ptr[s + 1], args_down, height, block, touched_here, full_here
            )
            n = _unite(touched, t, touched_here, th, spare)
            touched[:n] = spare[:n]
            t = n
            n = _intersect(full, f, full_here, fh, spare)
            full[:n] = spare[:n]
            f = n
        row = stop
        s += 1
    return t, f


@loop
def _describe(size: Ints, out_rows: Ints, out_ptr: Ints, out_ends: Ints, word: Ints) -> int:
    """A cropped normal form as one run of numbers, equal for equal blocks."""
    at = 0
    for s in range(size[0]):
        stop = out_ptr[s + 1] if s + 1 < size[0] else size[1]
        word[at] = out_rows[s]
        word[at + 1] = stop - out_ptr[s]
        at += 2
        for i in range(out_ptr[s], stop):
            for k in range(4):
                word[at] = out_ends[i, k]
                at += 1
    return at


@loop
def _intern(word: Ints, length: int, table: Ints, pool: Ints, pool_ptr: Ints, count: Ints) -> int:
    """The number of a description: its place if it is known, else the next one.

    `table` is an open-addressing hash table of numbers, -1 where free; descriptions are compared
    whole, so a collision costs time and nothing else.
    """
    hashed = np.int64(length)
    for i in range(length):  # kept below 2**42, so that the product stays below 2**62
        hashed = ((hashed ^ word[i]) * 1000003) & ((1 << 42) - 1)
    mask = len(table) - 1
    slot = (hashed ^ (hashed >> 17)) & mask
    while table[slot] >= 0:
        number = table[slot]
        first = pool_ptr[number]
        if pool_ptr[number + 1] - first == length:
            same = True
            for i in range(length):
                if pool[first + i] != word[i]:
                    same = False
                    break
            if same:
                return int(number)
        slot = (slot + 1) & mask
    number = int(count[0])
    table[slot] = number
    first = pool_ptr[number]
    for i in range(length):
        pool[first + i] = word[i]
    pool_ptr[number + 1] = first + length
    count[0] = number + 1
    return number


@loop
def count_blocks(
    rows: Ints, ptr: Ints, ends: Ints, grid: Ints, lists: Any, full: Ints, partial: Ints
) -> None:
    """How many full and partial blocks each row of blocks has.

    Args:
        rows: first row of each strip, and the end.
        ptr: where each strip's intervals begin.
        ends: the intervals.
        grid: (block_q, block_kv, rows of blocks).
        lists: of `classify`.
        full: [rows of blocks] to fill.
        partial: [rows of blocks] to fill.
    """
    block_q, block_kv, nq = grid[0], grid[1], grid[2]
    end, s = rows[len(rows) - 1], 0
    for i in range(nq):
        top, bottom = i * block_q, min((i + 1) * block_q, end)
        while rows[s + 1] <= top:
            s += 1
        t, f = classify(rows, ptr, ends, s, top, bottom, block_kv, lists)
        if bottom - top < block_q:
            f = 0
        width, filled = 0, 0
        for k in range(t):
            width += lists[0][k, 1] - lists[0][k, 0]
        for k in range(f):
            filled += lists[1][k, 1] - lists[1][k, 0]
        full[i] = filled
        partial[i] = width - filled


@loop
def find_blocks(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    grid: Ints,
    start: Ints,
    out: Any,
    interned: Any,
    lists: Any,
    scratch: Any,
    word: Ints,
) -> None:
    """Full and partial blocks of every row of blocks from `start` on, while the pool has room.

    Args:
        rows: first row of each strip, and the end.
        ptr: where each strip's intervals begin.
        ends: the intervals.
        grid: (block_q, block_kv, rows of blocks).
        start: (next row of blocks, its strip, full blocks, partial blocks so far); updated.
        out: (full_idx, partial_idx, partial_id, first) to fill; `first` is where each distinct
            block was first seen, [n, 2].
        interned: (table, pool, pool_ptr, count) of `_intern`.
        lists: of `classify`.
        scratch: of `_crop`.
        word: room for one description.
    """
    full_idx, partial_idx, partial_id, first = out
    table, pool, pool_ptr, count = interned
    touched, full = lists[0], lists[1]
    block_q, block_kv, nq = grid[0], grid[1], grid[2]
    end = rows[len(rows) - 1]
    while start[0] < nq:
        i, s = start[0], start[1]
        top, bottom = i * block_q, min((i + 1) * block_q, end)
        while rows[s + 1] <= top:
            s += 1
        t, f = classify(rows, ptr, ends, s, top, bottom, block_kv, lists)
        if bottom - top < block_q:
            f = 0
        at, here, k = start[2], start[3], 0
        for r in range(t):
            j = touched[r, 0]
            while j < touched[r, 1]:
                while k < f and full[k, 1] <= j:
                    k += 1
                if k < f and full[k, 0] <= j:
                    width = full[k, 1] - j
                    full_idx[at : at + width] = np.arange(j, full[k, 1])
                    at += width
                    j = full[k, 1]
                    continue
                left = j * block_kv
                _crop(rows, ptr, ends, s, top, bottom, left, left + block_kv, block_q, scratch)
                length = _describe(scratch[3], scratch[4], scratch[5], scratch[6], word)
                if pool_ptr[count[0]] + length > len(pool):
                    return  # this row is found again: the same blocks get the same numbers
                before = count[0]
                number = _intern(word, length, table, pool, pool_ptr, count)
                if number == before:
                    first[number, 0] = i
                    first[number, 1] = j
                partial_idx[here] = j
                partial_id[here] = number
                here += 1
                j += 1
        start[0] = i + 1
        start[1] = s
        start[2] = at
        start[3] = here


@loop
def paint(pool: Ints, pool_ptr: Ints, count: int, block_q: int, out: npt.NDArray[np.uint8]) -> None:
    """Descriptions -> bits [count, block_q, bytes], zero before; least significant bit first."""
    for number in range(count):
        at, end = pool_ptr[number], pool_ptr[number + 1]
        while at < end:
            top, n = pool[at], pool[at + 1]
            following = at + 2 + 4 * n
            bottom = pool[following] if following < end else block_q
            for row in range(top, bottom):
                for i in range(n):
                    base = at + 2 + 4 * i
                    lo = pool[base] + (row - top) * pool[base + 2]
                    hi = pool[base + 1] + (row - top) * pool[base + 3]
                    _fill(out[number, row], lo, hi)
            at = following


@loop
def _fill(line: npt.NDArray[np.uint8], lo: Any, hi: Any) -> None:
    """Set the bits lo to hi - 1."""
    first, last = lo >> 3, (hi - 1) >> 3
    head, tail = (255 << (lo & 7)) & 255, 255 >> (7 - ((hi - 1) & 7))
    if first == last:
        line[first] |= head & tail
        return
    line[first] |= head
    line[first + 1 : last] = 255
    line[last] |= tail
