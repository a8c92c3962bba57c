"""The loops that name partial blocks by what they hold, and draw them.

Plain functions over int64 arrays, in the subset of Python that numba compiles (see `jit`).
Intervals are as in `strip_loops`. A block's name is its own normal form, as one run of numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import allocating_loop, loop
from maskc.strip_loops import flush, goes_on, push

__all__ = ["NO_BANK", "RECENT", "cut", "paint", "rehash"]

Ints = npt.NDArray[Any]

NO_BANK = -1
"""What `cut` returns where a name has no room."""

RECENT, SHORT = 4, 4096
"""How many blocks `cut` remembers by their pieces, and how many numbers these may be: masks that
repeat have few kinds at a time."""


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
def _pieces(
    rows: Ints,
    ptr: Ints,
    ends: Ints,
    strip: int,
    top: int,
    bottom: int,
    left: int,
    right: int,
    out: Ints,
) -> int:
    """A block as it is written in the strips: of each piece (row, n, n intervals) into `out`.

    Rows and intervals are relative to the block's corner; `strip` holds row `top`.

    Returns:
        How many numbers were written.
    """
    row, s, at = top, strip, 0
    while row < bottom:
        while rows[s + 1] <= row:
            s += 1
        stop = min(rows[s + 1], bottom)
        down, head = row - rows[s], at
        at += 2
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
            out[at] = max(lo, left) - left
            out[at + 1] = min(hi, right) - left
            out[at + 2] = lo_slope if lo >= left else 0
            out[at + 3] = hi_slope if hi < right else 0
            at += 4
        out[head] = row - top
        out[head + 1] = (at - head - 2) // 4
        row = stop
    return at


@loop
def _is_normal(pieces: Ints, length: int, height: int) -> bool:
    """Whether the pieces of a block of `height` rows are its normal form as they stand.

    As `strip_loops.is_normal`: no piece takes a row of the next, and one of a single row is level.
    """
    at = 0
    while at < length:
        row, n = pieces[at], pieces[at + 1]
        first, following = at + 2, at + 2 + 4 * n
        last = following >= length
        tall = (height if last else pieces[following]) - row
        if tall == 1:
            for i in range(first, following, 4):
                if pieces[i + 2] != 0 or pieces[i + 3] != 0:
                    return False
        if not last and pieces[following + 1] == n:
            step, taken = 4 * n + 2, True
            for i in range(first, following, 4):
                lo, hi = pieces[i + step] - pieces[i], pieces[i + step + 1] - pieces[i + 1]
                if not goes_on(tall, lo, hi, pieces[i + 2], pieces[i + 3]):
                    taken = False
                    break
            if taken:
                return False
        at = following
    return True


@loop
def _normalise(pieces: Ints, length: int, height: int, scratch: Any) -> None:
    """The normal form of a block of `height` rows from its pieces, into `scratch`.

    `scratch` is (cur, state, run, size, out_rows, out_ptr, out_ends).
    """
    cur, state, run, size, out_rows, out_ptr, out_ends = scratch
    state[1] = 0
    size[0] = 0
    size[1] = 0
    at = 0
    while at < length:
        n = pieces[at + 1]
        for i in range(n):
            for k in range(4):
                cur[i, k] = pieces[at + 2 + 4 * i + k]
        following = at + 2 + 4 * n
        stop = int(pieces[following]) if following < length else height
        push(pieces[at], stop, cur, n, state, run, size, out_rows, out_ptr, out_ends)
        at = following
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
def _same(a: Ints, b: Ints, length: int) -> bool:
    """Whether two descriptions of one length are equal."""
    i = 0
    while i < length and a[i] == b[i]:
        i += 1
    return i == length


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
        known = pool[first : pool_ptr[number + 1]]
        if len(known) == length and _same(known, word, length):
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

    Blocks that were met lately are known by their pieces, before these are brought to that form.

    Args:
        rows: first row of each strip, and the end.
        ptr: where each strip's intervals begin.
        ends: the intervals.
        strip: the strip of row `top`.
        top: the block's first row.
        bottom: one past its last row inside the mask.
        column: the block's column.
        sizes: (block_q, block_kv).
        interned: (table, pool, pool_ptr, count), as for `_intern`.
        scratch: that of `_normalise`; room for a description, and for pieces; and what was met
            lately: the length and the number of `RECENT` blocks, and which is the oldest; their
            pieces.
    """
    table, pool, pool_ptr, count = interned
    forms, word, here, (known, pieces) = scratch
    block_q, block_kv = sizes
    left = column * block_kv
    length = _pieces(rows, ptr, ends, strip, top, bottom, left, left + block_kv, here)
    if bottom - top < block_q:
        here[length] = bottom - top
        here[length + 1] = 0
        length += 2
    for k in range(RECENT):
        if known[k, 0] == length and _same(pieces[k], here, length):
            return int(known[k, 1])
    described, name = length, here
    if not _is_normal(here, length, block_q):
        _normalise(here, length, block_q, forms)
        described, name = _describe(forms[3], forms[4], forms[5], forms[6], word), word
    n = count[0]
    if pool_ptr[n] + described > len(pool) or n + 2 > len(pool_ptr) or 2 * n + 2 > len(table):
        return NO_BANK
    number = _intern(name, described, table, pool, pool_ptr, count)
    if length <= SHORT:
        oldest = known[RECENT, 0]
        known[RECENT, 0] = (oldest + 1) % RECENT
        known[oldest, 0] = length
        known[oldest, 1] = number
        np.positive(here[:length], pieces[oldest, :length])
    return number


@loop
def _repeat(words: int, out: Ints) -> None:
    """Copy the first row of words to all rows of `out`, which is flat."""
    done = words
    while done < len(out):
        some = min(done, len(out) - done)
        np.positive(out[:some], out[done : done + some])
        done += some


@loop
def _rule(lines: Ints, words: int, x: int, moves: int, tile: int, out: Ints) -> None:
    """Fill rows with what is before an end at x; one that moves goes through the lines in turn.

    `lines` and `out` are flat; `tile` rows are alike.
    """
    if moves and tile == 1:
        np.positive(lines[x * words : x * words + len(out)], out)
    elif moves:
        for i in range(len(out) // (words * tile)):
            rows = out[i * words * tile : (i + 1) * words * tile]
            np.positive(lines[(x + i) * words : (x + i + 1) * words], rows[:words])
            _repeat(words, rows)
    else:
        np.positive(lines[x * words : (x + 1) * words], out[:words])
        _repeat(words, out)


@allocating_loop
def paint(
    pool: Ints, pool_ptr: Ints, first: int, last: int, tile: int, lines: Ints, out: Ints
) -> None:
    """Descriptions `first` to `last` -> bits, least significant first.

    A row is the exclusive or of a line for each end of its intervals, and rows are as long as they
    lie in memory: few and long vector operations.

    Args:
        pool: the descriptions.
        pool_ptr: where each begins.
        first: the first to paint.
        last: one past the last.
        tile: rows of bits for a row of a description.
        lines: uint64 [lines, words]; the bits before the place x of a description are line x.
        out: uint64 [count, block_q, words].
    """
    block_q, words = out.shape[1], out.shape[2]
    ruled, flat, spare = (
        lines.reshape(-1),
        out.reshape(-1),
        np.empty((2, block_q * words), np.uint64),
    )
    for number in range(first, last):
        at, end = pool_ptr[number], pool_ptr[number + 1]
        while at < end:
            top, n = pool[at] * tile, pool[at + 1]
            following = at + 2 + 4 * n
            bottom = pool[following] * tile if following < end else block_q
            base = number * block_q
            rows = flat[(base + top) * words : (base + bottom) * words]
            next_one, before = spare[0, : len(rows)], spare[1, : len(rows)]
            if n == 0:
                _rule(ruled, words, 0, 0, tile, rows)
            for i in range(at + 2, following, 4):
                lo, hi, lo_moves, hi_moves = pool[i], pool[i + 1], pool[i + 2], pool[i + 3]
                part = rows if i == at + 2 else next_one
                if lo_moves == 0 and hi_moves == 0:
                    np.bitwise_xor(lines[hi], lines[lo], part[:words])
                    _repeat(words, part)
                else:
                    _rule(ruled, words, hi, hi_moves, tile, part)
                    if lo or lo_moves:
                        _rule(ruled, words, lo, lo_moves, tile, before)
                        np.bitwise_xor(part, before, part)
                if i > at + 2:
                    np.bitwise_xor(rows, next_one, rows)
            at = following
