"""The loops that turn runs of blocks into splash tables whose lines are columns.

See `table_loops`, whose tables are written line by line. Here a line is a column, and the kernel's
walk goes down it: so a row of the table is kept for all columns at once, from below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.band_loops import EMPTY, FULL, NARROW, band_at, fill, repeat
from maskc.jit import allocating_loop, loop
from maskc.table_loops import DATA, STATE, clear, first_value, own_value

__all__ = ["column_turns", "fill_columns", "fill_grid_columns"]

Ints = npt.NDArray[Any]


# --- every block has a cell ---------------------------------------------------------------------


@allocating_loop
def _grid_edges(kind: int, bands: Ints, ptr: Ints, runs: Ints, masks: Ints, out: Ints) -> None:
    """What comes after the end of each column; the walk goes by columns.

    Args:
        kind: `DATA` or `MASK`.
        bands: bands of columns, mask after mask.
        ptr: where each column's runs begin.
        runs: (start, stop, number) of each.
        masks: the mask of each table row.
        out: [table rows, columns], to fill.
    """
    rows, columns = out.shape
    for row in range(rows):  # first the value that a column begins with itself, -1 if none
        first = 0
        while first < row and masks[first] != masks[row]:
            first += 1
        if first < row:
            np.positive(out[first], out[row])
            continue
        top = masks[row] * columns
        b = band_at(bands, top)
        while b < len(bands) and bands[b, 0] < top + columns:
            _firsts(kind, bands, ptr, runs, b, top, out[row])
            b += 1
    below, after = np.full(columns, -1, np.int64), np.empty(columns, np.int64)
    for row in range(rows - 1, -1, -1):
        _follow(out[row], below)
    carry = 0
    for last in range(2):  # the first round finds what the last column is followed by
        for column in range(columns - 1, -1, -1):
            own = below[column]
            if last:
                below[column] = carry
            if own >= 0:
                carry = own
    for row in range(rows - 1, -1, -1):
        after[:] = below
        _follow(out[row], below)
        np.positive(after, out[row])


@loop
def _follow(own: Ints, below: Ints) -> None:
    """What follows above some cells: their own value, where they have one."""
    for j in range(len(own)):
        below[j] = own[j] if own[j] >= 0 else below[j]


@loop
def _firsts(kind: int, bands: Ints, ptr: Ints, runs: Ints, b: int, top: int, out: Ints) -> None:
    """The value of each column's first block that has one, -1 if none."""
    line, row, period, count, step, _ = bands[b]
    for k in range(count):
        for i in range(period):
            value = -1
            for r in range(ptr[row + i], ptr[row + i + 1]):
                if value < 0:
                    value = own_value(kind, runs[r, 0] + k * step, runs[r, 2])
            out[line - top + k * period + i] = value


@loop
def _alike(a: Ints, b: Ints) -> bool:
    """Whether two arrays of one length are equal."""
    i = 0
    while i < len(a) and a[i] == b[i]:
        i += 1
    return i == len(a)


@allocating_loop
def fill_grid_columns(
    kind: int,
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    column_bands: Ints,
    column_ptr: Ints,
    column_runs: Ints,
    masks: Ints,
    like: Ints,
    out: Ints,
) -> None:
    """Write a table whose lines are columns, with a cell for every block.

    Table rows that are like others are not written.

    Row by row from below, since a column's next value is that of the nearest block below.

    Args:
        kind: `DATA`, `MASK` or `STATE`.
        bands: bands of *rows*, mask after mask.
        ptr: where each row's runs begin.
        runs: (start, stop, number) of each.
        column_bands: bands of columns, mask after mask.
        column_ptr: where each column's runs begin.
        column_runs: (start, stop, number) of each.
        masks: the mask of each table row.
        like: to fill: the table row that each one is to be like; itself if it is written here.
        out: [table rows, rows, columns].
    """
    height = out.shape[1]
    carry = np.empty(out.shape[2], out.dtype)
    edges = np.zeros((len(masks), out.shape[2]), np.int64)
    if kind != STATE:
        _grid_edges(kind, column_bands, column_ptr, column_runs, masks, edges)
    for k in range(len(masks)):
        same = 0  # the first table row of the same mask and with the same to follow
        while same < k and (masks[same] != masks[k] or not _alike(edges[same], edges[k])):
            same += 1
        like[k] = same
        if same < k:
            continue
        carry[:] = edges[k]
        top = masks[k] * height
        b = band_at(bands, top + height - 1)
        while b >= 0 and bands[b, 0] >= top:
            _fill_grid(kind, bands, ptr, runs, b, top, carry, out[k])
            b -= 1


@loop
def _fill_grid(
    kind: int, bands: Ints, ptr: Ints, runs: Ints, b: int, top: int, carry: Ints, out: Ints
) -> None:
    """Write the lines of a band, the first line of `out` being `top`."""
    line, row, period, count, step, still = bands[b]
    for at in range(period * count - 1, -1, -1):
        i = line - top + at
        own, moved = row + at % period, at // period * step
        if kind == STATE:
            carry[:] = 0
        for r in range(ptr[own], ptr[own + 1]):
            further = moved if r >= ptr[own] + still else 0
            start, stop, number = runs[r, 0] + further, runs[r, 1] + further, runs[r, 2]
            if kind == DATA:
                fill(carry, start, stop, i)
            elif kind == STATE:
                fill(carry, start, stop, 2 if number == FULL else 1)
            elif number >= 0:
                fill(carry, start, stop, number)
        np.positive(carry, out[i])


# --- only blocks have cells ---------------------------------------------------------------------
#
# Of a band that repeats its columns, the first period and the last are walked as other columns are.
# All but the last are followed by the same, moved, and so they are copies of the first.


@loop
def _column_edges(kind: int, bands: Ints, ptr: Ints, runs: Ints, out: Ints) -> None:
    """What comes after the end of each column that is not a copy.

    Args:
        kind: `DATA` or `MASK`.
        bands: bands of the columns of one mask.
        ptr: where each column's runs begin.
        runs: (start, stop, number) of each.
        out: [columns], to fill.
    """
    carry = max(first_value(kind, bands, ptr, runs, 0, len(out)), 0)
    for b in range(len(bands) - 1, -1, -1):
        line, row, period, count, step, _ = bands[b]
        for k in range(count - 1, -1, -max(count - 1, 1)):
            for i in range(period - 1, -1, -1):
                out[line + k * period + i] = carry
                value = -1
                for r in range(ptr[row + i], ptr[row + i + 1]):
                    if value < 0:
                        value = own_value(kind, runs[r, 0] + k * step, runs[r, 2])
                if value >= 0:
                    carry = value
            if k and kind == DATA:
                carry -= (count - 2) * step  # what comes after the first period


@loop
def column_turns(bands: Ints, ptr: Ints, runs: Ints, own: int, latest: Ints, turns: Ints) -> None:
    """At which rows of a shrunk table its columns turn from one run to another.

    Blocks sit at the lower ends of their columns. As met from below, the turns of row p are
    linked: from `latest[p + 1]` each names the one before it, the first of all names -1.

    Args:
        bands: bands of the columns of one mask.
        ptr: where the runs of each *column* begin.
        runs: (start, stop, number) of each.
        own: rows of the table that are this shard's; those below pad it to other shards' height.
        latest: [own + 1], to fill.
        turns: [2 * (runs + columns), 4], to fill: (column, row of the last block of the run that it
            turns to, number of that run or `EMPTY` for the padding above all, turn before).
    """
    for p in range(own + 1):
        latest[p] = -1
    n = 0
    for b in range(len(bands)):
        line, row, period, count, step, _ = bands[b]
        for k in range(0, count, max(count - 1, 1)):
            for i in range(period):
                column, p = line + k * period + i, own
                for r in range(ptr[row + i + 1] - 1, ptr[row + i] - 1, -1):
                    last = runs[r, 1] - 1 + k * step
                    n = _turn(turns, n, column, last, runs[r, 2], latest, p)
                    p -= runs[r, 1] - runs[r, 0]
                if p:
                    n = _turn(turns, n, column, 0, EMPTY, latest, p)


@loop
def _turn(turns: Ints, n: int, column: Any, last: Any, number: Any, latest: Ints, p: Any) -> int:
    """Append a turn; how many there are then."""
    turns[n, 0] = column
    turns[n, 1] = last
    turns[n, 2] = number
    turns[n, 3] = latest[p]
    latest[p] = n
    return n + 1


@loop
def _enter(
    kind: int,
    turns: Ints,
    at: Any,
    bottom: bool,
    zeros: bool,
    edge: Ints,
    cells: Ints,
    steps: Ints,
    padded: Ints,
) -> None:
    """Some columns come to the lower ends of runs, or of the padding above them."""
    while at >= 0:
        j, last, number, at = turns[at]
        if number == EMPTY:
            if zeros:
                cells[j] = 0
                padded[j] = True
            elif kind == DATA:
                cells[j] += steps[j]
            steps[j] = 0
            continue
        if bottom:
            cells[j] = edge[j]
        if kind == DATA:
            cells[j] = last
            steps[j] = 1
        elif kind == STATE:
            cells[j] = 2 if number == FULL else 1
        elif number >= 0:
            cells[j] = number


@loop
def _put(kind: int, cells: Ints, steps: Ints, left: int, right: int, out: Ints) -> None:
    """Write some cells of a row, and make them those of the row above."""
    if right - left >= NARROW:
        np.positive(cells[left:right], out[left:right])
        if kind == DATA:
            _subtract(steps[left:right], cells[left:right])
        return
    for j in range(left, right):
        out[j] = cells[j]
        cells[j] -= steps[j]


@loop
def _subtract(steps: Ints, cells: Ints) -> None:
    """A loop of its own, which numba then compiles to vector instructions."""
    np.subtract(cells, steps, cells)


@loop
def _pieces(bands: Ints, columns: int, pieces: Ints) -> int:
    """Write (start, stop) of the columns that are not copies; how many pieces they are."""
    n, stop = 0, 0
    for b in range(len(bands)):
        line, _, period, count, _, _ = bands[b]
        if count > 2:
            pieces[n, 0] = stop
            pieces[n, 1] = line + period
            n += 1
            stop = line + period * (count - 1)
    pieces[n, 0] = stop
    pieces[n, 1] = columns
    return n + 1


@allocating_loop
def fill_columns(
    kind: int,
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    latest: Ints,
    turns: Ints,
    own: int,
    keep: bool,
    blank: bool,
    states: Ints,
    out: Ints,
) -> None:
    """Write a table whose lines are columns, with cells for blocks only, at their lower ends.

    Args:
        kind: `DATA`, `MASK` or `STATE`.
        bands: bands of the columns of one mask.
        ptr: where each column's runs begin.
        runs: (start, stop, number) of each.
        latest: of `column_turns`.
        turns: of `column_turns`.
        own: rows of the table that are this shard's.
        keep: padding holds what comes next, else 0.
        blank: whether the table is of zeros already.
        states: the table `STATE`, in the shape of `out`.
        out: [rows, columns].
    """
    columns = out.shape[1]
    edge = np.zeros(columns, np.int64)
    if kind != STATE:
        _column_edges(kind, bands, ptr, runs, edge)
    cells, steps = np.zeros(columns, out.dtype), np.zeros(columns, out.dtype)
    zeros = not keep or kind == STATE  # padding is 0
    padded, left, right = np.zeros(columns, np.bool_), 0, columns  # what is not is between these
    pieces = np.empty((len(bands) + 1, 2), np.int64)
    pieces = pieces[: _pieces(bands, columns, pieces)]
    for i in range(len(pieces) - 1):
        padded[pieces[i, 1] : pieces[i + 1, 0]] = True  # until they are copied
    if keep:
        cells[:] = edge
    for p in range(own, len(out)):
        np.positive(cells, out[p])  # below the lowest block there is nothing but the edge
    for p in range(own - 1, -1, -1):
        _enter(kind, turns, latest[p + 1], p == own - 1, zeros, edge, cells, steps, padded)
        while left < right and padded[left]:
            left += 1
        while left < right and padded[right - 1]:
            right -= 1
        for i in range(len(pieces)):
            start, stop = pieces[i, 0], pieces[i, 1]
            first, last = min(max(start, left), stop), max(min(stop, right), start)
            last = max(first, last)
            _put(kind, cells, steps, first, last, out[p])
            if not blank:
                fill(out[p], start, first, 0)
                fill(out[p], last, stop, 0)
    for b in range(len(bands)):
        _copy(kind, bands, ptr, runs, b, own, zeros, blank, states, out)
    for p in range(own, len(out)):  # JAX extends narrow shards with their last entries
        if kind == STATE:
            fill(out[p], 0, columns, 0)
        elif not keep:
            np.positive(out[own - 1], out[p])


@loop
def _copy(
    kind: int,
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    b: int,
    own: int,
    zeros: bool,
    blank: bool,
    states: Ints,
    out: Ints,
) -> None:
    """Copy the first period of a band to all but the last."""
    line, row, period, count, step, _ = bands[b]
    if count < 3:
        return
    tallest = 0
    for i in range(row, row + period):
        blocks = 0
        for r in range(ptr[i], ptr[i + 1]):
            blocks += runs[r, 1] - runs[r, 0]
        tallest = max(tallest, blocks)
    left, right = line + period, line + period * (count - 1)
    top = own - tallest if zeros else 0
    for p in range(0 if blank else top):
        fill(out[p], left, right, 0)
    for p in range(top, own if zeros else len(out)):
        repeat(out[p], line, period, count - 1, step if kind == DATA else 0)
        if zeros and kind == DATA:
            clear(out[p, left:right], states[p, left:right])
