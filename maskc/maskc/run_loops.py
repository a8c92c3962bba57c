"""The loops that turn runs of blocks into lists and into runs of columns.

Plain functions over arrays, in the subset of Python that numba compiles (see `jit`). Rows of blocks
are walked run by run, and what a run covers is written as one slice: memory speed when compiled,
numpy's speed when not. Slices are copied with `np.positive`, which numba compiles to vector
instructions, as it does not the assignment of a slice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import allocating_loop, loop

__all__ = ["FULL", "count", "fill", "list_blocks", "turn"]

Ints = npt.NDArray[Any]

EMPTY, FULL = -2, -1  # numbers of blocks that are not partial
_NARROW = 16  # cells from which a slice repays what it costs to make one


@loop
def fill(cells: Ints, left: int, right: int, value: Any) -> None:
    """Write one value to some cells."""
    if right - left < _NARROW:
        for i in range(left, right):
            cells[i] = value
    else:
        cells[left:right] = value


# --- lists --------------------------------------------------------------------------------------


@loop
def count(ptr: Ints, runs: Ints, full_ptr: Ints, partial_ptr: Ints) -> None:
    """Offsets of each row's full and partial blocks."""
    full, partial = 0, 0
    full_ptr[0] = 0
    partial_ptr[0] = 0
    for row in range(len(ptr) - 1):
        for r in range(ptr[row], ptr[row + 1]):
            if runs[r, 2] == FULL:
                full += runs[r, 1] - runs[r, 0]
            else:
                partial += runs[r, 1] - runs[r, 0]
        full_ptr[row + 1] = full
        partial_ptr[row + 1] = partial


@loop
def list_blocks(
    runs: Ints, iota: Ints, full_idx: Ints, partial_idx: Ints, partial_id: Ints
) -> None:
    """Write the columns of all blocks, and the numbers of the partial ones."""
    full, partial = 0, 0
    for r in range(len(runs)):
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


# --- columns ------------------------------------------------------------------------------------


@loop
def _changes(runs: Ints, a: int, a_end: int, b: int, b_end: int, out: Ints) -> int:
    """Where two rows differ: (start, stop, number above, number below), ascending."""
    n, at = 0, 0
    while a < a_end or b < b_end:
        if a < a_end and runs[a, 1] <= at:
            a += 1
            continue
        if b < b_end and runs[b, 1] <= at:
            b += 1
            continue
        above, below, stop = EMPTY, EMPTY, 1 << 30
        if a < a_end:
            inside = runs[a, 0] <= at
            above = runs[a, 2] if inside else EMPTY
            stop = min(stop, runs[a, 1] if inside else runs[a, 0])
        if b < b_end:
            inside = runs[b, 0] <= at
            below = runs[b, 2] if inside else EMPTY
            stop = min(stop, runs[b, 1] if inside else runs[b, 0])
        if above != below:
            out[n, 0] = at
            out[n, 1] = stop
            out[n, 2] = above
            out[n, 3] = below
            n += 1
        at = stop
    return n


@loop
def _widest(ptr: Ints) -> int:
    """Most runs of one row."""
    widest = 0
    for row in range(len(ptr) - 1):
        widest = max(widest, ptr[row + 1] - ptr[row])
    return int(widest)


@allocating_loop
def turn(
    ptr: Ints,
    runs: Ints,
    rows: int,
    first: int,
    last: int,
    place: Ints,
    out: Ints,
    write: bool,  # numba has no keyword-only arguments
) -> None:
    """Runs of rows `first` to `last` of every mask as runs of their columns; rows count from first.

    A column's run begins and ends where two neighbouring rows differ in it, so this costs the
    changes from row to row, and not the blocks.

    Args:
        ptr: where each row's runs begin, mask after mask.
        runs: (start, stop, number) of each.
        rows: rows of each mask.
        first: first row.
        last: one past the last row.
        place: [masks, columns], the runs of each column so far. With `write`, where the next one
            is written; without, 0 at first.
        out: the runs to write.
        write: whether to write them, or only to count.
    """
    changes = np.empty((4 * _widest(ptr) + 2, 4), np.int64)
    for mask in range(len(place)):
        above, above_end = 0, 0
        for row in range(mask * rows + first, mask * rows + last):
            n = _changes(runs, above, above_end, ptr[row], ptr[row + 1], changes)
            above, above_end = ptr[row], ptr[row + 1]
            line = row - mask * rows - first
            for k in range(n):
                closes, opens = changes[k, 2] != EMPTY, changes[k, 3] != EMPTY
                for column in range(changes[k, 0], changes[k, 1]):
                    at = place[mask, column]
                    if write and closes:
                        out[at - 1, 1] = line
                    if opens:
                        if write:
                            out[at, 0] = line
                            out[at, 1] = last - first
                            out[at, 2] = changes[k, 3]
                        place[mask, column] = at + 1
