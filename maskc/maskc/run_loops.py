"""The loops that turn runs of blocks into lists and into runs of columns.

Plain functions over arrays, in the subset of Python that numba compiles (see `jit`). Lines of
blocks are walked band by band (see `band_loops`) and run by run, and what a run covers is written
as one slice: memory speed when compiled, numpy's speed when not. Slices are copied with
`np.positive`, which numba compiles to vector instructions, as it does not the assignment of a
slice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.band_loops import EMPTY, FULL, fill, repeat
from maskc.jit import allocating_loop, loop

__all__ = ["list_blocks", "turn"]

Ints = npt.NDArray[Any]

_FAR = 1 << 30  # beyond any column
_WORTH = 8  # columns that a band must save


# --- lists --------------------------------------------------------------------------------------


@loop
def list_blocks(
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    iota: Ints,
    full_ptr: Ints,
    full_idx: Ints,
    partial_ptr: Ints,
    partial_idx: Ints,
    partial_id: Ints,
) -> None:
    """Write the columns of all blocks, and the numbers of the partial ones, as compressed rows."""
    full, partial = 0, 0
    full_ptr[0] = 0
    partial_ptr[0] = 0
    for b in range(len(bands)):
        line, row, count, step = bands[b, 0], bands[b, 1], bands[b, 3], bands[b, 4]
        first_full, first_partial, period = full, partial, bands[b, 2]
        for i in range(period):
            for r in range(ptr[row + i], ptr[row + i + 1]):
                start, stop, number = runs[r, 0], runs[r, 1], runs[r, 2]
                width = stop - start
                if number == FULL:
                    np.positive(iota[start:stop], full_idx[full : full + width])
                    full += width
                elif width == 1:
                    partial_idx[partial] = start
                    partial_id[partial] = number
                    partial += 1
                else:
                    np.positive(iota[start:stop], partial_idx[partial : partial + width])
                    fill(partial_id, partial, partial + width, number)
                    partial += width
            full_ptr[line + i + 1] = full
            partial_ptr[line + i + 1] = partial
        if count > 1:
            more, more_partial = full - first_full, partial - first_partial
            repeat(full_ptr, line + 1, period, count, more)
            repeat(full_idx, first_full, more, count, step)
            repeat(partial_ptr, line + 1, period, count, more_partial)
            repeat(partial_idx, first_partial, more_partial, count, step)
            repeat(partial_id, first_partial, more_partial, count, 0)
            for r in range(ptr[row], ptr[row] + bands[b, 5]):
                width = runs[r, 1] - runs[r, 0]
                if runs[r, 2] == FULL:
                    _stand(full_idx, first_full, more, count, width)
                    first_full += width
                else:
                    _stand(partial_idx, first_partial, more_partial, count, width)
                    first_partial += width
            full += (count - 1) * more
            partial += (count - 1) * more_partial


@loop
def _stand(cells: Ints, start: int, period: int, count: int, width: int) -> None:
    """Some cells of a period are the same in all of them."""
    for k in range(1, count):
        for at in range(start, start + width):
            cells[k * period + at] = cells[at]


# --- columns ------------------------------------------------------------------------------------


@loop
def _run(runs: Ints, r: int, end: int, moving: int, further: int) -> tuple[int, int, int]:
    """A run of a row, whose last is before `end` and which moves from `moving` on; far off if none.

    Returns:
        (start, stop, number).
    """
    if r >= end:
        return _FAR, _FAR, EMPTY
    if r < moving:
        further = 0
    return int(runs[r, 0]) + further, int(runs[r, 1]) + further, int(runs[r, 2])


@loop
def _changes(
    runs: Ints,
    a: int,
    a_end: int,
    a_moving: int,
    a_further: int,
    b: int,
    b_end: int,
    b_moving: int,
    b_further: int,
    line: int,
    left: int,
    log: Ints,
    n: int,
) -> int:
    """Write where two rows differ into the log, ascending; how many rows it has then.

    Args:
        runs: (start, stop, number) of each.
        a: the first run of the row above.
        a_end: one past its last run.
        a_moving: the first of its runs that are moved.
        a_further: how far they are to the right.
        b: as `a` of the row below, as are the next three.
        b_end: one past its last run.
        b_moving: the first of its runs that are moved.
        b_further: how far they are to the right.
        line: the line of the row below.
        left: the first column of the mask.
        log: as in `_log_changes`.
        n: how many rows it has.
    """
    at = 0
    a_start, a_stop, a_number = _run(runs, a, a_end, a_moving, a_further)
    b_start, b_stop, b_number = _run(runs, b, b_end, b_moving, b_further)
    while a < a_end or b < b_end:
        above, below = a_number if a_start <= at else EMPTY, b_number if b_start <= at else EMPTY
        a_turn = a_stop if a_start <= at else a_start
        b_turn = b_stop if b_start <= at else b_start
        stop = min(a_turn, b_turn)
        if above != below:
            log[n, 0] = line
            log[n, 1] = left + at
            log[n, 2] = left + stop
            log[n, 3] = above != EMPTY
            log[n, 4] = below
            n += 1
        at = stop
        if a_stop <= at:
            a += 1
            a_start, a_stop, a_number = _run(runs, a, a_end, a_moving, a_further)
        if b_stop <= at:
            b += 1
            b_start, b_stop, b_number = _run(runs, b, b_end, b_moving, b_further)
    return n


@loop
def _widest(ptr: Ints) -> int:
    """Most runs of one row."""
    widest = 0
    for row in range(len(ptr) - 1):
        widest = max(widest, ptr[row + 1] - ptr[row])
    return int(widest)


@loop
def _reach(bands: Ints, ptr: Ints, runs: Ints, b: int, reach: Ints) -> None:
    """The first column of the lines that a band repeats, of what moves of them, and the end."""
    left, moving, right, still = 1 << 30, 1 << 30, 0, bands[b, 5]
    for row in range(bands[b, 1], bands[b, 1] + bands[b, 2]):
        if ptr[row] < ptr[row + 1]:
            left = min(left, runs[ptr[row], 0])
            moving = min(moving, runs[ptr[row] + still, 0])
            right = max(right, runs[ptr[row + 1] - 1, 1])
    reach[b, 0] = left
    reach[b, 1] = moving
    reach[b, 2] = right


@loop
def _find_repeats(
    bands: Ints, ptr: Ints, runs: Ints, height: int, columns: int, reach: Ints, repeats: Ints
) -> None:
    """Which columns repeat others, because a band of rows that moves is all that they meet.

    What moves of a band has columns a to b, and after k periods of p lines a + k s to b + k s.
    Between b - s and a + count s, a column has in every line what the column s to its left has p
    lines above, as far as nothing else has anything there.

    Args:
        bands: bands of rows.
        ptr: where each row's runs begin.
        runs: (start, stop, number) of each.
        height: lines of each mask.
        columns: columns of each.
        reach: [bands, 3], room.
        repeats: to fill: (first column, columns that it and the next have, times, the first period
            of rows that has nothing before or after these columns, and one past the last). 0 times
            where a band has none.
    """
    for b in range(len(bands)):
        _reach(bands, ptr, runs, b, reach)
    right = 0
    for b in range(len(bands)):
        if bands[b, 0] % height == 0:
            right = 0  # of all lines above
        step, count, still = bands[b, 4], bands[b, 3], bands[b, 5]
        repeats[b, 0] = max(right, reach[b, 2] - step)
        if still:
            repeats[b, 0] = max(repeats[b, 0], runs[ptr[bands[b, 1]] + still - 1, 1])
        right = max(right, reach[b, 2] + (count - 1) * step)
    left = columns
    for b in range(len(bands) - 1, -1, -1):
        if b + 1 == len(bands) or bands[b + 1, 0] % height == 0:
            left = columns  # of all lines below
        step, count, first = bands[b, 4], bands[b, 3], repeats[b, 0]
        stop = min(left, reach[b, 1] + count * step)
        left = min(left, reach[b, 0])
        repeats[b, 2] = 0
        if step and first + step + _WORTH <= stop:
            times = (stop - first) // step
            repeats[b, 1] = step
            repeats[b, 2] = times
            repeats[b, 3] = -(-(first + step - reach[b, 1]) // step)
            repeats[b, 4] = (first + times * step - reach[b, 2]) // step + 1
            if repeats[b, 3] >= repeats[b, 4]:
                repeats[b, 2] = 0


@allocating_loop
def _grown(log: Ints) -> Ints:
    """Twice the room."""
    more = np.empty((2 * len(log), 5), np.int32)
    more[: len(log)] = log
    return more


@allocating_loop
def _log_changes(
    bands: Ints, ptr: Ints, runs: Ints, height: int, columns: int, repeats: Ints
) -> tuple[Ints, int]:
    """Where lines differ from those above, but for columns that repeat others.

    A column's run begins and ends where two neighbouring rows differ in it, so this costs the
    changes from row to row, and not the blocks.

    Returns:
        `(log, n)`: the first n rows of the log are (line, first column, one past the last, whether
        runs end there, the number of those that begin there or `EMPTY`).
    """
    most = 4 * _widest(ptr) + 2  # changes of a line
    log, n = np.empty((4 * (len(runs) + len(ptr)) + most, 5), np.int32), 0
    above, above_end, above_moving, above_at = 0, 0, 0, 0
    for b in range(len(bands)):
        line, row, period, count = (
            int(bands[b, 0]),
            int(bands[b, 1]),
            int(bands[b, 2]),
            int(bands[b, 3]),
        )
        step, still = int(bands[b, 4]), int(bands[b, 5])
        left = line // height * columns
        line %= height
        if line == 0:
            above, above_end = 0, 0
        if period == 1 and step == 0:
            count = 1  # the others are just the same
        k = 0
        while k < count:
            skips = repeats[b, 2] > 0 and k == repeats[b, 3]
            for i in range(period):
                while n + most > len(log):
                    log = _grown(log)
                below, below_end, below_at = int(ptr[row + i]), int(ptr[row + i + 1]), k * step
                moving = below + still
                if skips:  # only what stands still
                    below_end, below_at = moving, 0
                n = _changes(
                    runs, above, above_end, above_moving, above_at,
                    below, below_end, moving, below_at, line + k * period + i, left, log, n,
                )  # fmt: skip
                above, above_end, above_moving, above_at = below, below_end, moving, below_at
                if skips:
                    break
            k = repeats[b, 4] if skips else k + 1
    return log, n


@loop
def _column_bands(
    bands: Ints, repeats: Ints, masks: int, height: int, columns: int, out: Ints
) -> int:
    """Write the bands of columns that follow from `_find_repeats`; how many they are."""
    b, n, stored = 0, 0, 0
    for mask in range(masks):
        column, right = mask * columns, (mask + 1) * columns
        while b < len(bands) and bands[b, 0] < (mask + 1) * height:
            begin, step, times = mask * columns + repeats[b, 0], repeats[b, 1], repeats[b, 2]
            if times and column < begin:
                stored = _band(out, n, column, stored, begin - column, 1, 0)
                n += 1
            if times:
                stored = _band(out, n, begin, stored, step, times, bands[b, 2])
                n += 1
                column = begin + times * step
            b += 1
        if column < right:
            stored = _band(out, n, column, stored, right - column, 1, 0)
            n += 1
    return n


@loop
def _band(bands: Ints, at: int, line: int, row: int, period: int, count: int, step: int) -> int:
    """Write a band; the row after its own."""
    bands[at, 0] = line
    bands[at, 1] = row
    bands[at, 2] = period
    bands[at, 3] = count
    bands[at, 4] = step
    bands[at, 5] = 0
    return row + period


@allocating_loop
def turn(
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    masks: int,
    height: int,
    columns: int,
    out_bands: Ints,
    out_ptr: Ints,
    out_runs: Ints,
) -> tuple[int, int, int]:
    """Bands of rows as bands of columns.

    Args:
        bands: bands of rows.
        ptr: where each row's runs begin.
        runs: (start, stop, number) of each.
        masks: how many masks there are.
        height: lines of each.
        columns: columns of each.
        out_bands: room for bands of columns, two for each band of rows and one for each mask.
        out_ptr: room for where each stored column's runs begin.
        out_runs: room for them; nothing is written to it if they are more.

    Returns:
        How many bands, stored columns and runs there are.
    """
    repeats, reach = np.empty((len(bands), 5), np.int64), np.empty((len(bands), 3), np.int64)
    _find_repeats(bands, ptr, runs, height, columns, reach, repeats)
    found = _column_bands(bands, repeats, masks, height, columns, out_bands)
    place = np.zeros(masks * columns, np.int64)  # the runs so far, then where the next is written
    for b in range(found):
        line, _, period, count, _, _ = out_bands[b]
        place[line + period : line + period * count] = -1  # these repeat others
    log, changes = _log_changes(bands, ptr, runs, height, columns, repeats)
    for i in range(changes):
        if log[i, 4] != EMPTY:
            for column in range(log[i, 1], log[i, 2]):
                place[column] += place[column] >= 0
    n, at = 0, 0
    out_ptr[0] = 0
    for column in range(len(place)):
        if place[column] >= 0:
            n += place[column]
            place[column] = out_ptr[at]
            at += 1
            out_ptr[at] = n
    if n <= len(out_runs):
        _write_columns(log[:changes], height, place, out_runs)
    return found, at, int(n)


@loop
def _write_columns(log: Ints, height: int, place: Ints, out: Ints) -> None:
    """Close and open the runs of columns where lines change; a last run ends with the lines."""
    for i in range(len(log)):
        line, start, stop, closes, number = log[i]
        for column in range(start, stop):
            at = place[column]
            if at < 0:
                continue
            if closes:
                out[at - 1, 1] = line
            if number != EMPTY:
                out[at, 0] = line
                out[at, 1] = height
                out[at, 2] = number
                place[column] = at + 1
