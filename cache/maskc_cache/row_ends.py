"""The intervals of every row, read back from block lists: where rows change from False to True.

Works on any plan, a piece at a time, in time that grows with its lists and bits. The
compiler uses it for masks that it has no shorter way for; `verify` holds row bounds against it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc_cache.plan import BlockLists, Direction, Plan

__all__ = ["most_intervals", "read_bounds"]

_Array = npt.NDArray[Any]

_PIECE = (
    1 << 18
)  # bytes of bits, or ends, that are looked at together; 60 MB of work where bits are noise


def most_intervals(plan: Plan, direction: Direction) -> int:
    """The most intervals of any row: of a query for fwd and dq, of a key for dkv."""
    ranks = (_ranks(row) for row, _ in _pieces(plan, direction))
    return max((int(rank.max()) // 2 + 1 for rank in ranks if len(rank)), default=0)


def read_bounds(plan: Plan, direction: Direction, most: int) -> npt.NDArray[np.int32]:
    """The bounds of every row, as `RowBounds` has them.

    Args:
        plan: what to read.
        direction: "fwd" or "dq" for the queries, "dkv" for the keys.
        most: what `most_intervals` says of it.
    """
    length = plan.kv_len if direction == "dkv" else plan.q_len
    bounds = np.zeros((plan.masks, 2 * max(most, 1), length), np.int32)
    for row, end in _pieces(plan, direction):
        bounds[row // length, _ranks(row), row % length] = end
    return bounds


def _ranks(row: _Array) -> _Array:
    """How many equal ones stand before each of some ascending numbers."""
    place = np.arange(len(row))
    first = np.append(True, row[1:] != row[:-1])[: len(row)]
    ranks: _Array = place - np.maximum.accumulate(place * first)
    return ranks


class _Shape(NamedTuple):
    """A direction's grid and its blocks, rows first.

    Attributes:
        length: rows per mask.
        rows: rows of blocks per mask.
        columns: columns of blocks.
        height: rows of a block.
        width: columns of a block.
        by_kv: whether rows are keys, which lie along the bytes of the stored bits.
    """

    length: int
    rows: int
    columns: int
    height: int
    width: int
    by_kv: bool


def _pieces(plan: Plan, direction: Direction) -> Iterator[tuple[_Array, _Array]]:
    """Row (mask * length + row) and position of all ends, in pieces: whole rows, sorted."""
    lists, by_kv = plan.lists(direction), direction == "dkv"
    height, width = lists.blocks[::-1] if by_kv else lists.blocks
    length = plan.kv_len if by_kv else plan.q_len
    shape = _Shape(length, *plan.grid(direction), height, width, by_kv)
    runs = _full_runs(lists, shape)
    ptr = lists.partial_ptr
    cost = np.bincount(runs[0], minlength=len(ptr) - 1) * height * 32
    cost += np.diff(ptr).astype(np.int64) * (lists.partial_blocks[:1].nbytes + 1)
    cuts = np.flatnonzero(np.diff(np.cumsum(cost) // _PIECE)) + 1
    for first, stop in itertools.pairwise([0, *cuts.tolist(), len(ptr) - 1]):
        slices = 1 + int(cost[first:stop].sum()) // _PIECE
        step = -(-height // slices // 8) * 8  # bytes of the bits are not cut
        for top in range(0, height, step):
            bottom = min(top + step, height)
            yield _ends(lists, shape, runs, (first, stop), (top, bottom))


def _full_runs(lists: BlockLists, shape: _Shape) -> tuple[_Array, _Array, _Array]:
    """Row of blocks, start and stop (as positions) of every run of full blocks."""
    ptr, stride = lists.full_ptr, shape.columns + 1  # so that a row's last is not the next's first
    cells = np.repeat(np.arange(len(ptr) - 1) * stride, np.diff(ptr)) + lists.full_idx
    breaks = np.diff(cells) != 1
    row, start = np.divmod(cells[np.append(True, breaks)[: len(cells)]], stride)
    stop = cells[np.append(breaks, True)[-len(cells) :]] % stride + 1 if len(cells) else start
    return row, start * shape.width, stop * shape.width


def _ends(
    lists: BlockLists,
    shape: _Shape,
    runs: tuple[_Array, _Array, _Array],
    blocks: tuple[int, int],
    inside: tuple[int, int],
) -> tuple[_Array, _Array]:
    """The ends in some rows of blocks, of some rows of each."""
    (first, stop), (top, bottom) = blocks, inside
    height, span = bottom - top, shape.columns * shape.width + 8
    one, last = np.searchsorted(runs[0], blocks)
    down = np.arange(height if one < last else 0)  # heights are only numbers if there are no runs
    row = ((runs[0][one:last] - first) * height)[:, None] + down
    keys = [(row * span + side[one:last, None]).reshape(-1) for side in runs[1:]]

    one, last = lists.partial_ptr[first], lists.partial_ptr[stop]
    counts = np.diff(lists.partial_ptr[first : stop + 1])
    row = np.repeat(np.arange(stop - first), counts) * height
    entry, down, across = _edges(
        lists.partial_blocks, lists.partial_id[one:last], inside, by_kv=shape.by_kv
    )
    start = lists.partial_idx[one:last].astype(np.int64) * shape.width
    keys.append((row[entry] + down) * span + start[entry] + across)

    # where a run or a block ends at the start of the next, nothing ends
    key = np.sort(np.concatenate(keys))
    twice = key[1:] == key[:-1]
    key = key[~(np.append(twice, False) | np.append(False, twice))[: len(key)]]
    row, end = np.divmod(key, span)
    block, row = first + row // height, top + row % height
    return block // shape.rows * shape.length + block % shape.rows * shape.height + row, end


def _edges(
    bits: npt.NDArray[np.uint8], ids: _Array, inside: tuple[int, int], *, by_kv: bool
) -> tuple[_Array, _Array, _Array]:
    """Entry, row from `inside` on, and position of every end of the rows of partial blocks."""
    top, bottom = inside
    if by_kv:
        drawn = np.pad(bits[ids, :, top // 8 : -(-bottom // 8)], ((0, 0), (1, 1), (0, 0)))
        change = drawn[:, 1:] ^ drawn[:, :-1]
    else:
        drawn = np.pad(bits[ids, top:bottom], ((0, 0), (0, 0), (0, 1)))
        change = drawn ^ (drawn << np.uint8(1))
        change[:, :, 1:] ^= drawn[:, :, :-1] >> 7
    at = np.flatnonzero(change != 0)  # a nonzero over bytes, or over three axes, is far slower
    changed = np.unpackbits(change.reshape(-1)[at], bitorder="little")
    which, bit = np.divmod(np.flatnonzero(changed != 0), 8)
    entry, q, byte = np.unravel_index(at[which], change.shape)
    kv = 8 * byte + bit
    return (entry, kv, q) if by_kv else (entry, q, kv)
