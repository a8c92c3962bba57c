"""The loops that turn runs of blocks into splash tables whose lines are rows.

As in `run_loops`, what a run covers is written as one slice, and lines that repeat others are
copies of them.

In each table a block holds a value of its own (its column, the number of its bits, its state) or,
where it has none, the value of the next one in the kernel's walk; the last one is followed by the
first. So rows are written from the last to the first, and `carry` is the value that comes next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.band_loops import FULL, band_at, fill, repeat_before
from maskc.jit import allocating_loop, loop

__all__ = ["DATA", "MASK", "STATE", "clear", "fill_rows", "first_value", "own_value"]

Ints = npt.NDArray[Any]

DATA, MASK, STATE = 0, 1, 2
"""Which splash table is written: data_next, mask_next or block_mask."""


@loop
def own_value(kind: int, start: int, number: int) -> int:
    """The value of the first block of a run in a table that passes values on, -1 if it has none."""
    return start if kind == DATA else number


@loop
def first_value(kind: int, bands: Ints, ptr: Ints, runs: Ints, top: int, bottom: int) -> int:
    """The value that a walk of the lines from `top` to `bottom` meets first, -1 if none."""
    b = band_at(bands, top)
    while kind != STATE and b < len(bands) and bands[b, 0] < bottom:
        row = bands[b, 1]
        for r in range(ptr[row], ptr[row + bands[b, 2]]):
            value = own_value(kind, runs[r, 0], runs[r, 2])
            if value >= 0:
                return int(value)
        b += 1
    return -1


@loop
def clear(cells: Ints, states: Ints) -> None:
    """Padding is 0."""
    for i in range(len(cells)):
        cells[i] = cells[i] if states[i] else 0


@loop
def _covered(runs: Ints, first: Any, last: Any) -> int:
    """Blocks of some runs."""
    covered = 0
    for r in range(first, last):
        covered += runs[r, 1] - runs[r, 0]
    return int(covered)


@loop
def _fill_line(
    kind: int,
    runs: Ints,
    first: Any,
    last: Any,
    moving: Any,
    step: int,
    own: int,
    shrunk: bool,
    keep: bool,
    iota: Ints,
    carry: Any,
    cells: Ints,
) -> Any:
    """Write the cells of a line with some runs, moved from `moving` on; what comes before."""
    right = own
    if shrunk:
        right = _covered(runs, first, last)
        fill(cells, right, len(cells), carry if keep else 0)
    for r in range(last - 1, first - 1, -1):
        further = step if r >= moving else 0
        start, stop, number = runs[r, 0] + further, runs[r, 1] + further, runs[r, 2]
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


@loop
def _stand(cells: Ints, start: int, width: int, lines: int, still: int) -> None:
    """The first cells of some lines are those of the line below them."""
    last = start + lines * width
    for at in range(start, last, width):
        for i in range(still):
            cells[at + i] = cells[last + i]


@loop
def _fill_lines(
    kind: int,
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    lines: tuple[int, int, int],
    own: int,
    shrunk: bool,
    keep: bool,
    iota: Ints,
    carry: Any,
    states: Ints,
    out: Ints,
) -> Any:
    """Write one table row of `fill_rows`, whose mask has lines `top` on; what comes before."""
    top, height, width = lines
    b = band_at(bands, top + height - 1)
    while b >= 0 and bands[b, 0] >= top:
        line, row, period, count, step, still = bands[b]
        line -= top
        # what is padded with a value that stands still is no copy of what moves
        whole = shrunk and own == width and not (keep and still)
        copies = max(count - 2, 0) if whole else 0  # of the last but one, before it
        for k in range(count - 1, copies - 1, -1):
            for i in range(period - 1, -1, -1):
                at, first, last = (line + k * period + i) * width, ptr[row + i], ptr[row + i + 1]
                cells = out[at : at + width]
                carry = _fill_line(
                    kind, runs, first, last, first + still, k * step, own, shrunk, keep, iota,
                    carry, cells,
                )  # fmt: skip
        if copies:
            start, cells = line * width, period * width
            stop, less = start + (copies + 1) * cells, step if kind == DATA else 0
            repeat_before(out, stop, cells, copies + 1, less)
            if less and not keep:
                clear(out[start : stop - cells], states[start : stop - cells])
            if still:
                _stand(out, start, width, copies, _covered(runs, ptr[row], ptr[row] + still))
            else:
                carry -= copies * less
        b -= 1
    return carry


@allocating_loop
def fill_rows(
    kind: int,
    bands: Ints,
    ptr: Ints,
    runs: Ints,
    masks: Ints,
    lines: tuple[int, int, int],
    own: int,
    shrunk: bool,
    keep: bool,
    iota: Ints,
    states: Ints,
    like: Ints,
    out: Ints,
) -> None:
    """Write a table whose lines are rows, but for table rows that are like others.

    Args:
        kind: `DATA`, `MASK` or `STATE`.
        bands: bands of lines, mask after mask.
        ptr: where each row's runs begin.
        runs: (start, stop, number) of each.
        masks: the mask of each table row; the walk goes through all lines of one, then the next.
        lines: lines of each mask, the line of the tables that is their first, and cells per line.
        own: cells of each line that belong to this walk; the rest pads it to other shards' width.
        shrunk: only blocks have cells, else empty ones too.
        keep: padding holds what comes next, else 0.
        iota: 0, 1, 2 ... in the table's dtype.
        states: the table `STATE`, in the shape of `out`.
        like: to fill: the table row that each one is to be like; itself if it is written here.
        out: [table rows, cells].
    """
    height, first, width = lines
    left, right = first * width, (first + height) * width
    after = np.empty(len(masks) + 1, np.int64)  # what comes after each table row
    value = -1
    for mask in masks:
        if value < 0:
            value = first_value(kind, bands, ptr, runs, mask * height, (mask + 1) * height)
    after[len(masks)] = max(value, 0)
    for k in range(len(masks) - 1, -1, -1):
        carry = after[k + 1]
        same = k + 1  # a table row of the same mask and with the same to follow
        while same < len(masks) and (masks[same] != masks[k] or after[same + 1] != carry):
            same += 1
        like[k] = like[same] if same < len(masks) else k
        if same < len(masks):
            after[k] = after[same]
            continue
        own_lines = masks[k] * height, height, width
        after[k] = _fill_lines(
            kind, bands, ptr, runs, own_lines, own, shrunk, keep, iota, carry,
            states[k, left:right], out[k, left:right],
        )  # fmt: skip
