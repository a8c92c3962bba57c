"""Block lists -> the blocks that one device visits, in the order in which its kernel does.

What an exporter of lists begins with: some rows of the lists, cut to the device's columns, full
and partial blocks merged. It costs the blocks that are walked, and nothing is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc_cache.plan import BlockLists

__all__ = ["Walk", "next_flagged", "walk"]

Ints = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Walk:
    """The non-empty blocks of a slab. A line is a row of blocks for fwd, a column for dkv.

    Attributes:
        counts: int [lines], the blocks of each line.
        full: [n_full], the columns of the full blocks: blocks of the other side.
        partial: [n_partial], those of the partial blocks.
        line: int [n_partial], the line of each partial block.
        place: int [n_partial], its position among all blocks of the walk.
        number: [n_partial], which partial block it is.
    """

    counts: Ints
    full: Ints
    partial: Ints
    line: Ints
    place: Ints
    number: Ints


def walk(lists: BlockLists, lines: Ints, window: range | None = None) -> Walk:
    """Walk some rows of block lists, in a given order.

    Args:
        lists: block lists, of any direction.
        lines: int [lines], numbers of their rows (`mask * rows + row`).
        window: only the columns in it, counted from its start; all of them if None.
    """
    full_ends, at = _gather(lists.full_ptr, lists.full_idx, lines, window)
    full = lists.full_idx[at]
    partial_ends, at = _gather(lists.partial_ptr, lists.partial_idx, lines, window)
    partial, number = lists.partial_idx[at], lists.partial_id[at]
    # merge the two by looking up where each partial block falls among the full ones of its line
    line = np.repeat(np.arange(len(lines)), _steps(partial_ends))
    place = np.arange(len(partial)) + _bisect(full, full_ends[line], full_ends[line + 1], partial)
    if window is not None:
        full, partial = (idx - idx.dtype.type(window.start) for idx in (full, partial))
    return Walk(_steps(full_ends + partial_ends), full, partial, line, place, number)


def _steps(ends: Ints) -> Ints:
    """np.diff, a third of whose time on short arrays goes to reading its arguments."""
    steps: Ints = ends[1:] - ends[:-1]
    return steps


def _gather(ptr: Ints, idx: Ints, lines: Ints, window: range | None) -> tuple[Ints, slice | Ints]:
    """Where the entries of `lines` are in a list: offsets [lines + 1], and what to index with.

    With a window, only entries inside it.
    """
    first, last = ptr[lines].astype(np.intp), ptr[lines + 1].astype(np.intp)
    if window is not None:
        edges = (np.array(edge) for edge in (window.start, window.stop))
        first, last = (_bisect(idx, first, last, edge) for edge in edges)
    counts = last - first
    ends = np.zeros(len(lines) + 1, np.intp)
    counts.cumsum(out=ends[1:])
    if (first[1:] == last[:-1]).all():
        return ends, slice(int(first[0]), int(last[-1]))
    return ends, np.repeat(first - ends[:-1], counts) + np.arange(ends[-1])


def _bisect(idx: Ints, first: Ints, last: Ints, value: Ints) -> Ints:
    """In each ascending `idx[first:last]`, the position of the first entry >= `value`."""
    longest = int((last - first).max(initial=0))
    for _ in range(longest.bit_length()):
        middle = (first + last) >> 1
        below = (idx.take(middle, mode="clip") < value) & (first < last)
        first, last = np.where(below, middle + 1, first), np.where(below, last, middle)
    return first


def next_flagged(flagged: Ints, value: Ints, size: int) -> Ints:
    """Of `size` positions, each one's value of the first flagged position at or after it.

    Positions after the last flagged one wrap to the first; with none flagged all are 0.
    """
    if not value.any():
        return np.zeros(size, value.dtype)
    spans = np.diff(flagged, prepend=-1, append=size - 1)
    return np.repeat(np.append(value, value[0]), spans)
