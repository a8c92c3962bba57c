"""The loops that tell which block columns some rows of strips fill, in all of them or in part.

Plain functions over int64 arrays, in the subset of Python that numba compiles (see `jit`).
Intervals are as in `strip_loops`.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from maskc.jit import loop

__all__ = ["ALIKE", "FULL", "MIXED", "classify", "column_of", "logarithm"]

Ints = npt.NDArray[Any]

MIXED, ALIKE, FULL = 0, 1, 2
"""What rows have of some block columns; see `classify`."""


@loop
def column_of(position: Any, block: int, shift: int) -> Any:
    """The block column of a position; `shift` is the block's binary logarithm, or -1.

    Divisions would take most of the time, and nearly all block sizes are powers of two.
    """
    return position >> shift if shift >= 0 else position // block


@loop
def logarithm(block: int) -> int:
    """The binary logarithm of a power of two, -1 for any other number."""
    shift = 0
    while 1 << shift < block:
        shift += 1
    return shift if 1 << shift == block else -1


@loop
def _sort(cuts: Ints, n: int) -> None:
    """By insertion: they are few, and nearly in order."""
    for i in range(1, n):
        at, j = cuts[i], i - 1
        while j >= 0 and cuts[j] > at:
            cuts[j + 1] = cuts[j]
            j -= 1
        cuts[j + 1] = at


@loop
def _mark(at: int, cuts: Ints, n: int, marks: Ints, full: int, mixed: int) -> int:
    """Note that from a block column on `full` more rows and `mixed` more intervals are there."""
    if marks[at, 0] == 0:
        marks[at, 0] = 1
        cuts[n] = at
        n += 1
    marks[at, 1] += full
    marks[at, 2] += mixed
    return n


@loop
def _marked(
    rows: Ints, ptr: Ints, ends: Ints, strip: int, top: int, bottom: int, block: int, room: Any
) -> int:
    """Mark where each interval of rows `top` to `bottom` begins or ends to fill block columns."""
    marks, cuts, _ = room
    n, s, row, shift = 0, strip, top, logarithm(block)
    while row < bottom:
        stop = min(rows[s + 1], bottom)
        down, height = row - rows[s], stop - row
        for i in range(ptr[s], ptr[s + 1]):
            lo_slope, hi_slope = ends[i, 2], ends[i, 3]
            lo, hi = ends[i, 0] + down * lo_slope, ends[i, 1] + down * hi_slope
            begin = column_of(lo, block, shift)
            end = column_of(hi + (height - 1) * hi_slope - 1, block, shift) + 1
            full_begin = column_of(lo + (height - 1) * lo_slope - 1, block, shift) + 1
            full_end = column_of(hi, block, shift)
            if full_begin >= full_end:
                n = _mark(begin, cuts, n, marks, 0, 1)
                n = _mark(end, cuts, n, marks, 0, -1)
                continue
            n = _mark(full_begin, cuts, n, marks, height, 0)
            n = _mark(full_end, cuts, n, marks, -height, 0)
            if begin < full_begin:
                n = _mark(begin, cuts, n, marks, 0, 1)
                n = _mark(full_begin, cuts, n, marks, 0, -1)
            if full_end < end:
                n = _mark(full_end, cuts, n, marks, 0, 1)
                n = _mark(end, cuts, n, marks, 0, -1)
        row = stop
        s += 1
    return n


@loop
def classify(
    rows: Ints, ptr: Ints, ends: Ints, strip: int, top: int, bottom: int, block: int, room: Any
) -> int:
    """What rows `top` to `bottom` have of each block column, as ranges of columns.

    An interval fills some block columns in all rows of its strip and others, at either end, in
    part. Between the columns where that changes, those that no interval fills in part are alike.

    Args:
        rows: first row of each strip, and the end.
        ptr: where each strip's intervals begin.
        ends: the intervals.
        strip: the strip of row `top`.
        top: the first row.
        bottom: one past the last row.
        block: keys per block.
        room: (marks, cuts, ranges), of [columns + 1, 3], [columns + 1] and [columns + 1, 3]; marks
            are zeros, and will be again. Ranges are (start, stop, what), ascending: `FULL`, every
            row has the columns whole; `ALIKE`, some rows have them whole, and others nothing of
            them; `MIXED`, else. They leave out what no row has.

    Returns:
        How many ranges there are.
    """
    marks, cuts, ranges = room
    n = _marked(rows, ptr, ends, strip, top, bottom, block, room)
    _sort(cuts, n)
    full, mixed, found = 0, 0, 0
    for i in range(n):
        at = cuts[i]
        full += marks[at, 1]
        mixed += marks[at, 2]
        marks[at, 0] = 0
        marks[at, 1] = 0
        marks[at, 2] = 0
        if mixed or full:
            ranges[found, 0] = at
            ranges[found, 1] = cuts[i + 1]
            ranges[found, 2] = MIXED if mixed else FULL if full == bottom - top else ALIKE
            found += 1
    return found
