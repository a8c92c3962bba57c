"""The loops that name partial blocks by what they hold, and draw them.

Plain functions over int64 arrays, in the subset of Python that numba compiles (see `jit`).
Intervals are as in `strip_loops`. A block's name is its own normal form, as one run of numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import loop
from maskc.strip_loops import flush, push

__all__ = ["NO_BANK", "cut", "paint", "rehash"]

Ints = npt.NDArray[Any]

NO_BANK = -1
"""What `cut` returns where a name has no room."""


@loop
def _before(ptr: Ints, ends: Ints, strip: int, down: int, left: int) -> int:
    """An interval of a strip with at most a few between it and the first that reaches `left`.

    Those before it cannot reach `left` within the strip, for they would have to pass it.
    """
    first, last = ptr[strip], ptr[strip + 1]
    while last - first > 8:
        middle = (first + last) >> 1
        if ends[middle, 1] + down * ends[middle, 3] <= left:
            first = middle
        else:
            last = middle
    return int(first)


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
        for i in range(_before(ptr, ends, s, down, left), ptr[s + 1]):
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
        push(row - top, stop - top, cur, n, state, run, size, out_rows, out_ptr, out_ends)
        row = stop
    if bottom - top < height:
        push(bottom - top, height, cur, 0, state, run, size, out_rows, out_ptr, out_ends)
    flush(state, run, size, out_rows, out_ptr, out_ends)


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
def _slot(word: Ints, first: int, length: int, table: Ints) -> int:
    """Where the search for a description begins in an open-addressing table."""
    hashed = np.int64(length)
    for i in range(first, first + length):  # below 2**42, so that the product stays below 2**62
        hashed = ((hashed ^ word[i]) * 1000003) & ((1 << 42) - 1)
    return int((hashed ^ (hashed >> 17)) & (len(table) - 1))


@loop
def _intern(word: Ints, length: int, table: Ints, pool: Ints, pool_ptr: Ints, count: Ints) -> int:
    """The number of a description: its place if it is known, else the next one.

    `table` holds numbers, -1 where free; descriptions are compared whole, so a collision costs
    time and nothing else.
    """
    slot = _slot(word, 0, length, table)
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
        slot = (slot + 1) & (len(table) - 1)
    number = int(count[0])
    table[slot] = number
    first = pool_ptr[number]
    for i in range(length):
        pool[first + i] = word[i]
    pool_ptr[number + 1] = first + length
    count[0] = number + 1
    return number


@loop
def rehash(pool: Ints, pool_ptr: Ints, count: int, table: Ints) -> None:
    """Enter all descriptions into a new, larger table."""
    for number in range(count):
        first = pool_ptr[number]
        slot = _slot(pool, first, pool_ptr[number + 1] - first, table)
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = number


@loop
def cut(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    strip: int,
    top: int,
    bottom: int,
    column: int,
    sizes: tuple[int, int],
    interned: Any,
    scratch: Any,
) -> int:
    """The number of one partial block, by the normal form of its content; negative if no room.

    `interned` is (table, pool, pool_ptr, count), `scratch` that of `_crop` and room for a word.
    """
    table, pool, pool_ptr, count = interned
    crop, word = scratch
    block_q, block_kv = sizes
    left = column * block_kv
    _crop(rows, ptr, ends, strip, top, bottom, left, left + block_kv, block_q, crop)
    length = _describe(crop[3], crop[4], crop[5], crop[6], word)
    n = count[0]
    if pool_ptr[n] + length > len(pool) or n + 2 > len(pool_ptr) or 2 * n + 2 > len(table):
        return NO_BANK
    return _intern(word, length, table, pool, pool_ptr, count)


@loop
def _ones(count: Any) -> Any:
    """A word whose lowest `count` bits are set; none below 0, all beyond 64."""
    if count <= 0:
        return np.uint64(0)
    if count >= 64:
        return ~np.uint64(0)
    return (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@loop
def paint(
    pool: Ints, pool_ptr: Ints, first: int, last: int, block_q: int, out: npt.NDArray[np.uint64]
) -> None:
    """Descriptions `first` to `last` -> bits [count, block_q, words], least significant first.

    Word by word rather than from end to end: numba makes vector instructions of it.
    """
    words = out.shape[2]
    for number in range(first, last):
        at, end = pool_ptr[number], pool_ptr[number + 1]
        while at < end:
            top, n = pool[at], pool[at + 1]
            following = at + 2 + 4 * n
            bottom = pool[following] if following < end else block_q
            if n == 0:
                out[number, top:bottom] = 0
            for i in range(n):
                base = at + 2 + 4 * i
                for row in range(top, bottom):
                    lo = pool[base] + (row - top) * pool[base + 2]
                    hi = pool[base + 1] + (row - top) * pool[base + 3]
                    for w in range(words):
                        bits = _ones(hi - 64 * w) & ~_ones(lo - 64 * w)
                        if i == 0:
                            out[number, row, w] = bits
                        else:
                            out[number, row, w] |= bits
            at = following
