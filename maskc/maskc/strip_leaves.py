"""Canonical leaves -> strip form, for those whose rows are few intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.expr import Blocks, Chunked, Empty, Full, Intervals, Local, Mask, Rectangle, Segments
from maskc.strips import PER_ROW, Strips, normal

__all__ = ["strips_of"]

Shape = tuple[int, int]
_Ints = npt.NDArray[Any]


def strips_of(leaf: Mask, shape: Shape) -> Strips | None:
    """The strip form of a canonical leaf, or None if it has none that is worth having."""
    q_len, kv_len = shape
    match leaf:
        case Full():
            return _band(None, None, shape)
        case Empty():
            return normal(kv_len, [0, q_len], [0, 0], [])
        case Local(left=left, right=right):
            return _band(None if left is None else -left, right, shape)
        case Rectangle():
            q_stop = q_len if leaf.q_stop is None else leaf.q_stop
            kv_stop = kv_len if leaf.kv_stop is None else leaf.kv_stop
            rows = [0, leaf.q_start, q_stop, q_len]
            return normal(kv_len, rows, [0, 0, 1, 1], [(leaf.kv_start, kv_stop, 0, 0)])
        case Chunked(chunk=chunk, offset=offset):
            return _chunks(chunk, offset, shape)
        case Intervals(starts=starts, stops=stops):
            return _intervals(starts.array, stops.array, kv_len)
        case Segments(q_ids=q_ids, kv_ids=kv_ids):
            return _segments(q_ids.array, kv_ids.array, shape)
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            return _tiles(pattern.rows(0, pattern.shape[0]), tile_q, tile_kv, shape)
        case _:
            return None


def _band(low: int | None, high: int | None, shape: Shape) -> Strips | None:
    """`low <= kv - q <= high`, in pieces of rows between which an end starts or stops moving."""
    q_len, kv_len = shape
    first = -q_len if low is None else low
    last = kv_len if high is None else high
    turns = (0, -first, -last, kv_len - 1 - last, kv_len - first, q_len)
    rows = sorted({min(max(turn, 0), q_len) for turn in turns})
    ptr, ends = [0], []
    for row in rows[:-1]:
        lo, hi = max(0, row + first), min(kv_len, row + last + 1)
        if lo < hi:
            ends.append((lo, hi, int(row + first >= 0), int(row + last + 1 < kv_len)))
        ptr.append(len(ends))
    return normal(kv_len, rows, ptr, ends)


def _chunks(chunk: int, offset: int, shape: Shape) -> Strips | None:
    q_len, kv_len = shape
    cuts = np.arange(offset % chunk - chunk, q_len, chunk)
    starts = np.maximum(cuts, 0)
    ends = np.zeros((len(cuts), 4), np.int64)
    ends[:, 0], ends[:, 1] = starts, np.minimum(cuts + chunk, kv_len)
    ends = ends[starts < kv_len]
    ptr = np.minimum(np.arange(len(starts) + 1), len(ends))
    return normal(kv_len, np.append(starts, q_len), ptr, ends)


def _intervals(starts: _Ints, stops: _Ints, kv_len: int) -> Strips | None:
    """A strip per row, for `normal` to join."""
    some = starts < stops
    ends = np.zeros((int(some.sum()), 4), np.int64)
    ends[:, 0], ends[:, 1] = starts[some], stops[some]
    ptr = np.append(0, np.cumsum(some))
    return normal(kv_len, np.arange(len(starts) + 1), ptr, ends)


def _runs(values: _Ints) -> tuple[_Ints, _Ints]:
    """Starts and stops of the runs of equal values."""
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.append(0, cuts), np.append(cuts, len(values))


def _segments(q_ids: _Ints, kv_ids: _Ints, shape: Shape) -> Strips | None:
    """Each run of queries of one id attends the runs of keys of that id."""
    q_starts, _ = _runs(q_ids)
    kv_starts, kv_stops = _runs(kv_ids)
    order = np.argsort(kv_ids[kv_starts], kind="stable")
    ids = kv_ids[kv_starts][order]
    own = q_ids[q_starts]
    first, last = np.searchsorted(ids, own), np.searchsorted(ids, own, side="right")
    counts = np.where(own < 0, 0, last - first)
    ptr = np.append(0, np.cumsum(counts))
    if ptr[-1] > PER_ROW * shape[0]:
        return None
    within = np.arange(ptr[-1]) - np.repeat(ptr[:-1], counts)
    chosen = order[np.repeat(first, counts) + within]
    ends = np.zeros((len(chosen), 4), np.int64)
    ends[:, 0], ends[:, 1] = kv_starts[chosen], kv_stops[chosen]
    return normal(shape[1], np.append(q_starts, shape[0]), ptr, ends)


def _tiles(
    pattern: npt.NDArray[np.bool_], tile_q: int, tile_kv: int, shape: Shape
) -> Strips | None:
    """Each row of tiles is the runs of its True tiles."""
    edges = np.diff(np.pad(pattern, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    if len(starts) > PER_ROW * shape[0]:
        return None
    ends = np.zeros((len(starts), 4), np.int64)
    ends[:, 0], ends[:, 1] = starts * tile_kv, np.minimum(stops * tile_kv, shape[1])
    ptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(pattern))))
    return normal(shape[1], np.append(np.arange(len(pattern)) * tile_q, shape[0]), ptr, ends)
