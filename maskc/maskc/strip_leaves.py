"""Leaves -> strip form, for those whose rows are few intervals.

The time follows the strips and the arrays that a leaf holds, never the lengths: a hundred thousand
documents are a hundred thousand strips, whatever number of tokens they have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arrays import FrozenArray, PackedMask
from maskc.errors import MaskArgumentError
from maskc.expr import (
    Blocks,
    Causal,
    Chunked,
    ChunkedCausal,
    Diagonals,
    Documents,
    Empty,
    Full,
    Intervals,
    Keys,
    Local,
    Mask,
    Prefix,
    Queries,
    Rectangle,
    Segments,
    Strided,
)
from maskc.strips import PER_ROW, Strips, moved, normal, product, settled

__all__ = ["STRIP_LEAVES", "band_of", "strips_of"]

Shape = tuple[int, int]
_Ints = npt.NDArray[Any]


def strips_of(leaf: Mask, shape: Shape) -> Strips | None:
    """The strip form of a leaf, or None if it has none that is worth having.

    Args:
        leaf: a leaf whose arrays fit the lengths.
        shape: `(q_len, kv_len)`.

    Raises:
        MaskArgumentError: documents or tiles end past the lengths or short of them.
    """
    read = STRIP_LEAVES.get(type(leaf))
    return None if read is None else read(leaf, shape)


# --- bands and rectangles -----------------------------------------------------------------------


def band_of(mask: Causal | Local, shape: Shape) -> tuple[int | None, int | None]:
    """The least and the greatest `kv - q` of a band; None is unbounded."""
    shift = mask.offset + (shape[1] - shape[0] if mask.align == "bottom_right" else 0)
    if isinstance(mask, Causal):
        return None, shift
    low = None if mask.left is None else shift - mask.left
    return low, None if mask.right is None else shift + mask.right


def _band(leaf: Causal | Local, shape: Shape) -> Strips:
    """`low <= kv - q <= high`, in pieces of rows between which an end starts or stops moving.

    The row at which an end starts to move, or stops, goes with the rows above it: that is how
    strips are read from the top. So the pieces are the normal form, if all have two rows or more.
    """
    q_len, kv_len = shape
    low, high = band_of(leaf, shape)
    first, last = -q_len if low is None else low, kv_len if high is None else high
    if last < first:
        return _empty(Empty(), shape)
    turns = {0, q_len}
    for turn in (1 - first, -last, kv_len - last, kv_len - first):
        if 0 < turn < q_len:
            turns.add(turn)
    rows = sorted(turns)
    ends: list[int] = []
    ptr, thin = [0], False
    for row, stop in itertools.pairwise(rows):
        lo, hi = max(0, row + first), min(kv_len, row + last + 1)
        thin = thin or stop - row == 1
        if lo < hi:
            ends += (lo, hi, row + first >= 0, row + last + 1 < kv_len)
        ptr.append(len(ends) // 4)
    return _made(kv_len, rows, ptr, ends, settled=not thin)


def _full(_: Full, shape: Shape) -> Strips:
    return _box(slice(0, shape[0]), slice(0, shape[1]), shape)


def _empty(_: Empty, shape: Shape) -> Strips:
    return _box(slice(0, 0), slice(0, 0), shape)


def _rectangle(leaf: Rectangle, shape: Shape) -> Strips:
    q, kv = slice(leaf.q_start, leaf.q_stop), slice(leaf.kv_start, leaf.kv_stop)
    return _box(q, kv, shape)


def _prefix(leaf: Prefix, shape: Shape) -> Strips:
    return _box(slice(0, None), slice(0, leaf.length), shape)


def _box(q: slice, kv: slice, shape: Shape) -> Strips:
    """A rectangle: neighboring strips differ in their intervals, so this is the normal form."""
    q0, q1, _ = q.indices(shape[0])
    k0, k1, _ = kv.indices(shape[1])
    if q0 >= q1 or k0 >= k1:
        q0, q1 = 0, 0
    above, below = [0] if q0 > 0 else [], [q1] if 0 < q1 < shape[0] else []
    rows, ptr = [*above, q0, *below, shape[0]], [*([0] if above else []), 0, 1]
    if q0 == q1:
        return _made(shape[1], [0, shape[0]], [0, 0], [])
    return _made(shape[1], rows, ptr + [1] * len(below), [k0, k1, 0, 0])


def _made(
    kv_len: int, rows: list[int], ptr: list[int], ends: list[int], *, settled: bool = True
) -> Strips:
    """A few strips, by default ones that are in normal form; of `ends` four are an interval."""
    n, words = len(rows), np.array([*rows, *ptr, *ends], np.int64)
    arrays = words[:n], words[n : 2 * n], words[2 * n :].reshape(-1, 4)
    return Strips(kv_len, *arrays) if settled else normal(kv_len, *arrays)


# --- segments, documents, chunks ----------------------------------------------------------------


def _chunked(leaf: Chunked, shape: Shape) -> Strips:
    rows, starts, stops = _chunks(leaf, shape[0])
    spans = np.zeros((len(starts), 4), np.int64)
    spans[:, 0], spans[:, 1] = starts, np.minimum(stops, shape[1])
    return _boxes(rows, spans, shape[1])


def _chunked_causal(leaf: ChunkedCausal, shape: Shape) -> Strips:
    """In each chunk from its first key to the query's own."""
    rows, starts, _ = _chunks(leaf, shape[0])
    ends = np.zeros((len(starts), 4), np.int64)
    ends[:, 0], ends[:, 1], ends[:, 3] = starts, starts + 1, 1
    within = normal if shape[0] <= shape[1] else settled
    return within(shape[1], rows, np.arange(len(rows)), ends)


def _chunks(leaf: Chunked | ChunkedCausal, q_len: int) -> tuple[_Ints, _Ints, _Ints]:
    """First rows of the chunks and the length; first and past-the-last token of each."""
    first = leaf.offset % leaf.chunk
    rows = np.arange(first - leaf.chunk if first else 0, q_len + leaf.chunk, leaf.chunk)
    rows[0], stops = 0, rows[1:].copy()
    starts = rows[:-1].copy()
    rows[-1] = q_len
    return rows, starts, stops


def _documents(leaf: Documents, shape: Shape) -> Strips:
    keys = leaf.cu_seqlens if leaf.kv_cu_seqlens is None else leaf.kv_cu_seqlens
    named = (("cu_seqlens", leaf.cu_seqlens), ("kv_cu_seqlens", keys))
    for (name, cu), length in zip(named, shape, strict=True):
        if cu.array[-1] > length:
            raise MaskArgumentError(
                f"Documents.{name}: the documents end at {cu.array[-1]}, past the length {length}"
            )
    cu, kv = leaf.cu_seqlens.array, keys.array
    n = len(cu) - int(cu[-1] == shape[0])  # after the last document, padding
    rows, spans = np.empty(n + 1, np.int64), np.zeros((n, 4), np.int64)
    rows[:n], rows[n] = cu[:n], shape[0]
    spans[: len(cu) - 1, 0], spans[: len(cu) - 1, 1] = kv[:-1], kv[1:]
    return _boxes(rows, spans, shape[1])


def _offsets(counts: _Ints) -> _Ints:
    """Where each one's items begin, and their number."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _boxes(rows: _Ints, spans: _Ints, kv_len: int) -> Strips:
    """An interval of keys for each range of rows; it may be empty, and so may they."""
    tall, some = rows[1:] > rows[:-1], spans[:, 0] < spans[:, 1]
    both = tall & some
    if np.count_nonzero(both) == len(both):
        return normal(kv_len, rows, np.arange(len(rows)), spans)
    rows = np.concatenate((rows[:-1][tall], rows[-1:]))
    return normal(kv_len, rows, _offsets(some[tall]), spans[both])


def _runs(values: _Ints) -> tuple[_Ints, _Ints]:
    """Starts and stops of the runs of equal values."""
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.append(0, cuts), np.append(cuts, len(values))


def _segments(leaf: Segments, shape: Shape) -> Strips | None:
    """Each run of queries of one id attends the runs of keys of that id."""
    q_ids = leaf.q_ids.array
    kv_ids = q_ids if leaf.kv_ids is None else leaf.kv_ids.array
    q_starts, _ = q_runs = _runs(q_ids)
    kv_starts, kv_stops = q_runs if kv_ids is q_ids else _runs(kv_ids)
    order = np.argsort(kv_ids[kv_starts], kind="stable")
    ids = kv_ids[kv_starts][order]
    own = q_ids[q_starts]
    first, last = np.searchsorted(ids, own), np.searchsorted(ids, own, side="right")
    counts = np.where(own < 0, 0, last - first)
    ptr = _offsets(counts)
    if ptr[-1] > PER_ROW * shape[0]:
        return None
    within = np.arange(ptr[-1]) - np.repeat(ptr[:-1], counts)
    chosen = order[np.repeat(first, counts) + within]
    ends = np.zeros((len(chosen), 4), np.int64)
    ends[:, 0], ends[:, 1] = kv_starts[chosen], kv_stops[chosen]
    return normal(shape[1], np.append(q_starts, shape[0]), ptr, ends)


def _queries(leaf: Queries, shape: Shape) -> Strips:
    q_starts, inside = _members(leaf.positions, shape[0])
    ends = np.zeros((int(inside.sum()), 4), np.int64)
    ends[:, 1] = shape[1]
    return normal(shape[1], q_starts, _offsets(inside), ends)


def _keys(leaf: Keys, shape: Shape) -> Strips | None:
    starts, inside = _members(leaf.positions, shape[1])
    if inside.sum() > PER_ROW * shape[0]:
        return None
    ends = np.zeros((int(inside.sum()), 4), np.int64)
    ends[:, 0], ends[:, 1] = starts[:-1][inside], starts[1:][inside]
    return normal(shape[1], np.array([0, shape[0]]), np.array([0, len(ends)]), ends)


def _members(positions: FrozenArray, length: int) -> tuple[_Ints, _Ints]:
    """Runs of what is among `positions` and of what is not: starts and the length; which is."""
    kept = np.unique(positions.array[positions.array < length]).astype(np.int64)
    edges = np.concatenate([kept, kept + 1])
    edges, times = np.unique(edges, return_counts=True)
    edges = edges[times == 1]
    bounds = np.unique(np.concatenate([edges, [0, length]]))
    inside = np.searchsorted(edges, bounds[:-1], side="right") % 2 == 1
    return bounds, inside


# --- rows, tiles, diagonals ---------------------------------------------------------------------


def _intervals(leaf: Intervals, shape: Shape) -> Strips:
    """A strip per run of rows whose ends move alike, for `normal` to join."""
    starts, stops = (_inside(a.array, shape[1]) for a in (leaf.starts, leaf.stops))
    empty = starts >= stops
    hollow = bool(empty.any())
    if hollow:
        starts, stops = np.where(empty, 0, starts), np.where(empty, 0, stops)
    rows = _turns(starts, stops, empty if hollow else None)
    bounds = np.append(rows, shape[0])
    below = rows + (bounds[1:] - bounds[:-1] > 1)  # of a single row, itself: its ends stand still
    ends = np.empty((len(rows), 4), np.int64)
    for side, values in enumerate((starts, stops)):
        ends[:, side] = values[rows]
        ends[:, 2 + side] = values[below] - ends[:, side]
    if not hollow:
        return normal(shape[1], bounds, np.arange(len(bounds)), ends)
    some = ~empty[rows]
    return normal(shape[1], bounds, _offsets(some), ends[some])


def _inside(ends: _Ints, kv_len: int) -> _Ints:
    """Ends cut to the keys."""
    return ends if ends.min() >= 0 and ends.max() <= kv_len else np.clip(ends, 0, kv_len)


def _turns(starts: _Ints, stops: _Ints, empty: npt.NDArray[np.bool_] | None) -> _Ints:
    """First rows of runs of rows that one strip can hold, not always the longest.

    In a run each row leads to the one below by the same moves of its ends, 0 or 1 each; the last
    row of a run may lead anywhere. Whether a row is empty, if any is, does not change inside of
    one.
    """
    moves = starts[1:] - starts[:-1], stops[1:] - stops[:-1]
    turns = np.zeros(len(starts), np.bool_)  # the row moves otherwise than the one above
    turns[0] = True
    for move in moves:
        turns[1:-1] |= move[1:] != move[:-1]
    rows = np.flatnonzero(turns)
    inner = np.append(rows[1:], len(starts)) - rows - 1  # rows of each run but its first
    if len(starts) > 1:
        inner[(moves[0][rows] >> 1 == 0) & (moves[1][rows] >> 1 == 0)] = 0  # moves of 0 or 1
    more = [rows]
    if inner.any():  # rows that do not lead to each other, each a run
        before = np.cumsum(inner) - inner
        more.append(np.repeat(rows + 1 - before, inner) + np.arange(inner.sum()))
    if empty is not None:
        changes = np.flatnonzero(empty[1:] != empty[:-1])
        more += [changes, changes + 1]
    return np.unique(np.concatenate(more)) if len(more) > 1 else rows


def _blocks(leaf: Blocks, shape: Shape) -> Strips | None:
    """Each row of tiles is the runs of its True tiles."""
    pattern: PackedMask = leaf.pattern
    tile_q, tile_kv = leaf.tile
    tiles = pattern.rows(0, pattern.shape[0])
    edges = np.diff(np.pad(tiles, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    if len(starts) > PER_ROW * shape[0]:
        return None
    ends = np.zeros((len(starts), 4), np.int64)
    ends[:, 0], ends[:, 1] = starts * tile_kv, np.minimum(stops * tile_kv, shape[1])
    ptr = _offsets(np.bincount(rows, minlength=len(tiles)))
    return normal(shape[1], np.append(np.arange(len(tiles)) * tile_q, shape[0]), ptr, ends)


def _diagonals(leaf: Diagonals, shape: Shape) -> Strips | None:
    kept = leaf.distances.array.astype(np.int64)
    return _lines(np.unique(kept[(kept > -shape[1]) & (kept < shape[0])]), shape)


def _strided(leaf: Strided, shape: Shape) -> Strips | None:
    """The product of Full and the identity of `stride` tokens, moved down by the phase."""
    stride = leaf.stride
    steps = -(-shape[0] // stride) + 1, -(-shape[1] // stride)
    point = _band(Local(0, 0), (stride, stride))
    whole = product(_full(Full(), steps), point) if steps[1] <= PER_ROW else None
    return None if whole is None else moved(whole, (leaf.phase % stride - stride, 0), shape)


def _lines(distances: _Ints, shape: Shape) -> Strips | None:
    """Whole diagonals, by ascending `q - kv`: those side by side make one band."""
    cuts = np.flatnonzero(np.diff(distances) != 1) + 1
    groups = np.split(distances, cuts) if len(distances) else []
    if len(groups) > PER_ROW:
        return None
    q_len, kv_len = shape
    bands = [(-int(group[-1]), 1 - int(group[0])) for group in reversed(groups)]
    turns = {0, q_len}
    for low, stop in bands:
        turns.update((-low, 1 - stop, kv_len - stop, kv_len - low))
    rows = sorted(turn for turn in turns if 0 <= turn <= q_len)
    ends: list[int] = []
    ptr = [0]
    for row in rows[:-1]:
        for low, stop in bands:
            lo, hi = max(0, row + low), min(kv_len, row + stop)
            if lo < hi:
                ends += (lo, hi, row + low >= 0, row + stop < kv_len)
        ptr.append(len(ends) // 4)
    return _made(kv_len, rows, ptr, ends, settled=False)


STRIP_LEAVES: dict[type[Mask], Callable[[Any, Shape], Strips | None]] = {
    Full: _full,
    Empty: _empty,
    Causal: _band,
    Local: _band,
    Rectangle: _rectangle,
    Prefix: _prefix,
    Chunked: _chunked,
    ChunkedCausal: _chunked_causal,
    Documents: _documents,
    Segments: _segments,
    Queries: _queries,
    Keys: _keys,
    Intervals: _intervals,
    Blocks: _blocks,
    Diagonals: _diagonals,
    Strided: _strided,
}
"""The leaves that can have a strip form, and what reads it off them."""
