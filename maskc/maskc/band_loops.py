"""Bands of lines of blocks, and what every loop over them needs.

A band is a row (line, row, period, count, step, still) of an int64 [bands, 6] array: from line
`line` on, `period` lines are as the runs of the rows from `row` on say, and then `count` - 1 times
as many lines repeat them, each time `step` columns further to the right, but for the first `still`
runs of each, which stand still. Bands are ascending and without gaps, and none goes on from one
mask into the next. Where `still` is not 0, the period is 1, and a column lies between the runs that
stand still and those that move.

Plain functions over arrays, in the subset of Python that numba compiles (see `jit`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.jit import loop

__all__ = [
    "EMPTY",
    "FULL",
    "NARROW",
    "band_at",
    "expand",
    "fill",
    "measure",
    "repeat",
    "repeat_before",
]

Ints = npt.NDArray[Any]

EMPTY, FULL = -2, -1  # numbers of blocks that are not partial
NARROW = 16  # cells from which a slice repays what it costs to make one


@loop
def fill(cells: Ints, left: int, right: int, value: Any) -> None:
    """Write one value to some cells."""
    cells[left:right].fill(value)  # which numba does faster than a loop, however few they are


@loop
def repeat(cells: Ints, start: int, period: int, count: int, step: int) -> None:
    """Repeat the `period` cells from `start` on until they are there `count` times.

    Each time they are `step` more. What is there is copied whole, so this takes as long as
    writing the cells does.
    """
    done = 1
    while done < count:
        n = min(done, count - done)
        here, there = start + done * period, start + (done + n) * period
        more = cells.dtype.type(done * step)
        np.add(cells[start : start + n * period], more, cells[here:there])
        done += n


@loop
def repeat_before(cells: Ints, stop: int, period: int, count: int, step: int) -> None:
    """`repeat` upwards: the `period` cells before `stop`, and before them `step` less each time."""
    done = 1
    while done < count:
        n = min(done, count - done)
        here, there = stop - (done + n) * period, stop - done * period
        less = cells.dtype.type(done * step)
        np.subtract(cells[stop - n * period : stop], less, cells[here:there])
        done += n


@loop
def band_at(bands: Ints, line: int) -> int:
    """The band that has a line."""
    low, high = 0, len(bands)
    while high - low > 1:
        middle = (low + high) // 2
        if bands[middle, 0] <= line:
            low = middle
        else:
            high = middle
    return low


@loop
def measure(bands: Ints, ptr: Ints, runs: Ints) -> tuple[int, int, int, int]:
    """What arrays of these blocks need room for.

    Returns:
        Full blocks, partial blocks, blocks of the longest line (at least 1), and where the last
        block of any line is (at least 0).
    """
    full, partial, most, last = 0, 0, 1, 0
    for b in range(len(bands)):
        row, period, count = bands[b, 1], bands[b, 2], bands[b, 3]
        further = (count - 1) * bands[b, 4]
        for line in range(row, row + period):
            here, whole = 0, 0
            for r in range(ptr[line], ptr[line + 1]):
                width = runs[r, 1] - runs[r, 0]
                here += width
                if runs[r, 2] == FULL:
                    whole += width
            if here:
                most = max(most, here)
                last = max(last, runs[ptr[line + 1] - 1, 1] - 1 + further)
            full += count * whole
            partial += count * (here - whole)
    return int(full), int(partial), int(most), int(last)


@loop
def expand(bands: Ints, ptr: Ints, runs: Ints, out_ptr: Ints, out_runs: Ints) -> None:
    """The runs of every line, one by one."""
    n = 0
    out_ptr[0] = 0
    for b in range(len(bands)):
        row, period, step, still = bands[b, 1], bands[b, 2], bands[b, 4], bands[b, 5]
        line = bands[b, 0]
        for k in range(bands[b, 3]):
            for i in range(row, row + period):
                for r in range(ptr[i], ptr[i + 1]):
                    further = k * step if r >= ptr[i] + still else 0
                    out_runs[n, 0] = runs[r, 0] + further
                    out_runs[n, 1] = runs[r, 1] + further
                    out_runs[n, 2] = runs[r, 2]
                    n += 1
                line += 1
                out_ptr[line] = n
