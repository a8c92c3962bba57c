"""The loops that turn runs of blocks into splash tables.

As in `run_loops`, what a run covers is written as one slice.

In each table a block holds a value of its own (its column, the number of its bits, its state) or,
where it has none, the value of the next one in the kernel's walk; the last one is followed by the
first. So rows are written from the last to the first, and `carry` is the value that comes next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import allocating_loop, loop
from maskc.run_loops import FULL, fill

__all__ = [
    "DATA",
    "MASK",
    "STATE",
    "column_edges",
    "column_turns",
    "extent",
    "fill_columns",
    "fill_grid_columns",
    "fill_rows",
]

Ints = npt.NDArray[Any]

DATA, MASK, STATE = 0, 1, 2
"""Which splash table is written: data_next, mask_next or block_mask."""


@loop
def _own(kind: int, start: int, number: int) -> int:
    """The value of the first block of a run in a table that passes values on, -1 if it has none."""
    return start if kind == DATA else number


@loop
def _first(kind: int, ptr: Ints, runs: Ints, masks: Ints, lines: tuple[int, int, int]) -> int:
    """The value that the walk of these lines meets first, 0 if none."""
    if kind == STATE:
        return 0
    height, first, stop = lines
    for mask in masks:
        for line in range(mask * height + first, mask * height + stop):
            for r in range(ptr[line], ptr[line + 1]):
                value = _own(kind, runs[r, 0], runs[r, 2])
                if value >= 0:
                    return int(value)
    return 0


@loop
def _covered(ptr: Ints, runs: Ints, line: int) -> int:
    """Blocks of one line."""
    covered = 0
    for r in range(ptr[line], ptr[line + 1]):
        covered += runs[r, 1] - runs[r, 0]
    return int(covered)


@loop
def extent(ptr: Ints, runs: Ints) -> tuple[int, int]:
    """Blocks of the longest line, and where the last block of any line is; at least 1 and 0."""
    most, last = 1, 0
    for line in range(len(ptr) - 1):
        most = max(most, _covered(ptr, runs, line))
        if ptr[line] < ptr[line + 1]:
            last = max(last, runs[ptr[line + 1] - 1, 1] - 1)
    return most, last


@loop
def _fill_lines(
    kind: int,
    ptr: Ints,
    runs: Ints,
    base: int,
    lines: tuple[int, int, int],
    own: int,
    shrunk: bool,
    keep: bool,
    iota: Ints,
    carry: Any,
    out: Ints,
) -> Any:
    """Write one table row of `fill_rows`, whose mask begins at line `base`; what comes before."""
    for row in range(lines[2] - 1, lines[1] - 1, -1):
        line, right, cells = base + row, own, out[row]
        if shrunk:
            right = _covered(ptr, runs, line)
            fill(cells, right, len(cells), carry if keep else 0)
        for r in range(ptr[line + 1] - 1, ptr[line] - 1, -1):
            start, stop, number = runs[r, 0], runs[r, 1], runs[r, 2]
            if shrunk:
                left = right - (stop - start)
            else:
                fill(cells, stop, right, carry)
                left, right = start, stop
            if kind == DATA:
                np.positive(iota[start:stop], cells[left:right])
                carry = start
            elif kind == MASK:
                carry = number if number >= 0 else carry
                fill(cells, left, right, carry)
            else:
                fill(cells, left, right, 2 if number == FULL else 1)
            right = left
        if not shrunk:
            fill(cells, 0, right, carry)
        elif kind != STATE and not keep:  # JAX extends narrow shards with their last entries
            fill(cells, own, len(cells), cells[own - 1])
    return carry


@allocating_loop
def fill_rows(
    kind: int,
    ptr: Ints,
    runs: Ints,
    masks: Ints,
    lines: tuple[int, int, int],
    own: int,
    shrunk: bool,
    keep: bool,
    iota: Ints,
    out: Ints,
) -> None:
    """Write a table whose lines are rows.

    Args:
        kind: `DATA`, `MASK` or `STATE`.
        ptr: where each line's runs begin, mask after mask.
        runs: (start, stop, number) of each.
        masks: the mask of each table row; the walk goes through all lines of one, then the next.
        lines: lines of each mask, the first that is walked, and one past the last.
        own: cells of each line that belong to this walk; the rest pads it to other shards' width.
        shrunk: only blocks have cells, else empty ones too.
        keep: padding holds what comes next, else 0.
        iota: 0, 1, 2 ... in the table's dtype.
        out: [table rows, lines of each mask, width].
    """
    height, first, stop = lines
    after = np.empty(len(masks) + 1, np.int64)  # what comes after each table row
    after[len(masks)] = _first(kind, ptr, runs, masks, lines)
    for k in range(len(masks) - 1, -1, -1):
        carry = after[k + 1]
        same = k + 1  # a table row that is written, of the same mask and with the same to follow
        while same < len(masks) and (masks[same] != masks[k] or after[same + 1] != carry):
            same += 1
        if same < len(masks):
            np.positive(out[same, first:stop], out[k, first:stop])
            after[k] = after[same]
            continue
        base = masks[k] * height
        after[k] = _fill_lines(kind, ptr, runs, base, lines, own, shrunk, keep, iota, carry, out[k])


@loop
def column_edges(kind: int, ptr: Ints, runs: Ints, masks: Ints, out: Ints) -> None:
    """What comes after the end of each column, [table rows, columns]; the walk goes by columns.

    Args:
        kind: `DATA` or `MASK`.
        ptr: where each column's runs begin, mask after mask.
        runs: (start, stop, number) of each.
        masks: the mask of each table row.
        out: to fill.
    """
    rows, columns = out.shape
    carry = 0
    for _ in range(2):  # the first round finds what the last column wraps to
        for column in range(columns - 1, -1, -1):
            for row in range(rows - 1, -1, -1):
                out[row, column] = carry
                line = masks[row] * columns + column
                for r in range(ptr[line], ptr[line + 1]):
                    value = _own(kind, runs[r, 0], runs[r, 2])
                    if value >= 0:
                        carry = value
                        break


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
    ptr: Ints,
    runs: Ints,
    masks: Ints,
    lines: tuple[int, int],
    edges: Ints,
    out: Ints,
) -> None:
    """Write a table whose lines are columns, with a cell for every block.

    Row by row from below, since a column's next value is that of the nearest block below.

    Args:
        kind: `DATA`, `MASK` or `STATE`.
        ptr: where the runs of each *row* begin, mask after mask.
        runs: (start, stop, number) of each.
        masks: the mask of each table row.
        lines: rows of each mask, and the first that is the table's.
        edges: [table rows, columns], what comes after the end of each column.
        out: [table rows, rows, columns].
    """
    height, first = lines
    carry = np.empty(out.shape[2], out.dtype)
    for k in range(len(masks)):
        same = 0  # a table row that is written, of the same mask and with the same to follow
        while same < k and (masks[same] != masks[k] or not _alike(edges[same], edges[k])):
            same += 1
        if same < k:
            np.positive(out[same], out[k])
            continue
        carry[:] = edges[k]
        base = masks[k] * height + first
        for i in range(out.shape[1] - 1, -1, -1):
            if kind == STATE:
                carry[:] = 0
            for r in range(ptr[base + i], ptr[base + i + 1]):
                start, stop, number = runs[r, 0], runs[r, 1], runs[r, 2]
                if kind == DATA:
                    fill(carry, start, stop, i)
                elif kind == STATE:
                    fill(carry, start, stop, 2 if number == FULL else 1)
                elif number >= 0:
                    fill(carry, start, stop, number)
            np.positive(carry, out[k, i])


@allocating_loop
def column_turns(ptr: Ints, runs: Ints, base: int, columns: int, own: int) -> Any:
    """At which rows of a shrunk table its columns turn from one run to another.

    Blocks sit at the lower ends of their columns. The turns of row p, as met from below, are
    `column` and `run` from `begin[p]` to `begin[p + 1]`; a run of -1 is the padding above.

    Args:
        ptr: where the runs of each *column* begin.
        runs: (start, stop, number) of each.
        base: the line of `ptr` that is the table's first column.
        columns: columns of the table.
        own: rows of the table that are this shard's; those below pad it to other shards' height.

    Returns:
        `(begin, column, run)`.
    """
    begin = np.zeros(own + 2, np.int64)
    column = np.empty(ptr[base + columns] - ptr[base] + columns, np.int64)
    run = np.empty(len(column), np.int64)
    for write in range(2):
        for j in range(columns):
            p = own
            for r in range(ptr[base + j + 1] - 1, ptr[base + j] - 1, -1):
                if write:
                    begin[p] -= 1
                    column[begin[p]] = j
                    run[begin[p]] = r
                else:
                    begin[p] += 1
                p -= runs[r, 1] - runs[r, 0]
            if p and write:
                begin[p] -= 1
                column[begin[p]] = j
                run[begin[p]] = -1
            elif p:
                begin[p] += 1
        if not write:
            for p in range(1, own + 2):
                begin[p] += begin[p - 1]
    return begin, column, run


@loop
def _enter(kind: int, runs: Ints, r: int, column: int, cells: Ints, steps: Ints) -> None:
    """A column comes to the lower end of a run."""
    if kind == DATA:
        cells[column] = runs[r, 1] - 1
        steps[column] = 1
    elif kind == STATE:
        cells[column] = 2 if runs[r, 2] == FULL else 1
    elif runs[r, 2] >= 0:
        cells[column] = runs[r, 2]


@loop
def _subtract(steps: Ints, cells: Ints) -> None:
    """A loop of its own, which numba then compiles to vector instructions."""
    np.subtract(cells, steps, cells)


@allocating_loop
def fill_columns(
    kind: int,
    runs: Ints,
    turns: tuple[Ints, Ints, Ints],
    edge: Ints,
    own: int,
    keep: bool,
    out: Ints,
) -> None:
    """Write a table whose lines are columns, with cells for blocks only, at their lower ends.

    Args:
        kind: `DATA`, `MASK` or `STATE`.
        runs: (start, stop, number) of each.
        turns: of `column_turns`.
        edge: what comes after the end of each column.
        own: rows of the table that are this shard's.
        keep: padding holds what comes next, else 0.
        out: [rows, columns], of zeros.
    """
    columns = out.shape[1]
    begin, column, run = turns
    cells, steps = np.zeros(columns, out.dtype), np.zeros(columns, out.dtype)
    zeros = not keep or kind == STATE  # padding is 0
    padded, left, right = np.zeros(columns, np.bool_), 0, columns  # what is not is between these
    if keep:
        cells[:] = edge
    out[own:] = cells  # below the lowest block there is nothing but the edge
    for p in range(own - 1, -1, -1):
        for e in range(begin[p + 1], begin[p + 2]):
            j, r = column[e], run[e]
            if r < 0:
                if zeros:
                    cells[j] = 0
                    padded[j] = True
                elif kind == DATA:
                    cells[j] += steps[j]
                steps[j] = 0
                continue
            if p == own - 1:
                cells[j] = edge[j]
            _enter(kind, runs, r, j, cells, steps)
        while left < right and padded[left]:
            left += 1
        while left < right and padded[right - 1]:
            right -= 1
        np.positive(cells[left:right], out[p, left:right])
        if kind == DATA:
            _subtract(steps[left:right], cells[left:right])
    if kind != STATE and not keep:  # JAX extends narrow shards with their last entries
        out[own:] = out[own - 1]
