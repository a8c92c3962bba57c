"""What all three kernels share: which tile a program has, loads, mask bits, the soft cap.

Device functions; Triton inlines them. Constants are keyword arguments of the launch; lower-case
names keep the kernels readable next to the rest of the project.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = [
    "LOG2E",
    "capped",
    "find_tile",
    "keep_mask",
    "list_number",
    "load_bias",
    "load_row_mask",
    "load_tile",
    "store_tile",
    "uncapped_slope",
]

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def find_tile(
    order: tl.tensor,
    head_mask: tl.tensor,
    lanes: tl.constexpr,
    group: tl.constexpr,
    together: tl.constexpr,
    masks: tl.constexpr,
    rows: tl.constexpr,
    per_row: tl.constexpr,
    per_batch: tl.constexpr,
) -> Any:
    """Which tile this program has: its lane (batch * lanes + head), row, and number in the row.

    Programs start in order of their number: longest rows first, in sections of `together` lanes
    whose keys and values fit the L2 cache at once.

    Args:
        order: rows of each mask, longest first.
        head_mask: which mask each query head uses.
        lanes: lanes per batch entry.
        group: query heads per lane.
        together: lanes of one section; divides `lanes`.
        masks: unique masks.
        rows: rows of blocks per mask.
        per_row: tiles per row of blocks.
        per_batch: every batch entry has lists of its own.
    """
    program = tl.program_id(0)
    size: tl.constexpr = together * rows * per_row
    within = program % size
    lane = (program // size) * together + within % together
    position = within // together
    first = tl.load(head_mask + (lane % lanes) * group) * rows
    if per_batch:
        first += (lane // lanes) * (masks * rows)
    row = tl.load(order + first + position // per_row)
    return lane, row, position % per_row


@triton.jit
def list_number(
    head_mask: tl.tensor,
    batch: tl.tensor,
    head: tl.tensor,
    row: tl.tensor,
    masks: tl.constexpr,
    rows: tl.constexpr,
    per_batch: tl.constexpr,
) -> Any:
    """Where the lists of a row of a query head are in the row offsets."""
    number = tl.load(head_mask + head) * rows + row
    if per_batch:
        number += batch * (masks * rows + 1)
    return number


@triton.jit
def load_tile(
    array: tl.tensor,
    first: tl.tensor,
    rows: tl.constexpr,
    length: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    ragged: tl.constexpr,
) -> Any:
    """Rows of an array [length, dim], `dim` padded with zeros to `width`.

    Args:
        array: where it starts.
        first: the first row.
        rows: how many.
        length: of the array.
        dim: of the array.
        width: of the tile.
        ragged: rows from `length` on are read as zeros.
    """
    row, column = tl.arange(0, rows)[:, None], tl.arange(0, width)[None, :]
    # In this order what no loop changes is worked out before it.
    at = array + (first * dim + (row * dim + column))
    if ragged and dim != width:
        tile = tl.load(at, mask=(first + row < length) & (column < dim), other=0.0)
    elif ragged:
        tile = tl.load(at, mask=first + row < length, other=0.0)
    elif dim != width:
        tile = tl.load(at, mask=column < dim, other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def store_tile(
    array: tl.tensor,
    values: tl.tensor,
    positions: tl.tensor,
    length: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """The inverse of `load_tile`; what is outside the array is dropped."""
    columns = tl.arange(0, width)
    at = array + positions[:, None] * dim + columns[None, :]
    inside = (positions < length)[:, None] & (columns < dim)[None, :]
    tl.store(at, values.to(array.dtype.element_ty), mask=inside)


@triton.jit
def load_row_mask(
    bounds: tl.tensor,
    head_mask: tl.tensor,
    head: tl.tensor,
    rows_in_block: tl.tensor,
    positions: tl.tensor,
    length: tl.constexpr,
    intervals: tl.constexpr,
    lanes: tl.constexpr,
) -> Any:
    """What `keep_mask` asks of the rows of a tile, loaded once.

    Args:
        bounds: int32 [masks, 2 * intervals, length], or anything if `intervals` is 0.
        head_mask: which mask each query head uses.
        head: the query head.
        rows_in_block: row numbers within the block.
        positions: row numbers.
        length: of the side of the rows; rows behind it keep nothing.
        intervals: of each row, 1 or 2; 0 for masks as words.
        lanes: threads that hold a row of scores between them.

    Returns:
        Both ends of every interval of every row, as `_load_end` has them; without bounds
        `rows_in_block`.
    """
    if intervals == 0:
        row_mask = (rows_in_block,)
    else:
        at = bounds + tl.load(head_mask + head).to(tl.int64) * (2 * intervals * length) + positions
        inside = positions < length
        low, high = _load_end(at, inside, lanes), _load_end(at + length, inside, lanes)
        if intervals == 1:
            row_mask = (low, high)  # type: ignore[assignment]
        else:
            low2 = _load_end(at + 2 * length, inside, lanes)
            high2 = _load_end(at + 3 * length, inside, lanes)
            row_mask = (low, high, low2, high2)  # type: ignore[assignment]
    return row_mask


@triton.jit
def _load_end(at: tl.tensor, inside: tl.tensor, lanes: tl.constexpr) -> Any:
    """How many of the columns before an end each lane holds, int32 [rows, lanes].

    Columns go to lanes in turn, two by two.
    """
    behind = tl.load(at, mask=inside, other=0)[:, None] - 2 * tl.arange(0, lanes)[None, :]
    # Before the first column counts go below 0, so a shift of all columns only shifts counts.
    turns = behind >> (lanes.bit_length())
    return 2 * turns + tl.minimum(behind - turns * (2 * lanes), 2)


@triton.jit
def keep_mask(
    words: tl.tensor,
    partial_id: tl.tensor,
    entry: tl.tensor,
    inside: tl.tensor,
    first: tl.tensor,
    row_mask: tl.tuple,
    block_rows: tl.constexpr,
    row_words: tl.constexpr,
    intervals: tl.constexpr,
    lanes: tl.constexpr,
    tile_columns: tl.constexpr,
) -> Any:
    """The mask [rows, tile_columns] of a part of a partial block, as booleans.

    Args:
        words: of all unique blocks, [unique, block_rows, row_words]; not read with bounds.
        partial_id: which of them each entry of the lists has; not read with bounds.
        entry: of the lists.
        inside: the first column within the block, a multiple of `tile_columns`.
        first: the first column.
        row_mask: from `load_row_mask`.
        block_rows: rows of a block.
        row_words: words per row.
        intervals: of each row, 1 or 2; 0 for masks as words.
        lanes: as `load_row_mask` had it.
        tile_columns: a power of two.
    """
    if intervals == 0:
        block = words + tl.load(partial_id + entry).to(tl.int64) * (block_rows * row_words)
        keep = _keep_bits(block, row_mask[0], inside, row_words, tile_columns)
    else:
        # A column is kept if it has an odd number of ends at or before it.
        held: tl.constexpr = min(32 * lanes, tile_columns)
        word = _from_end(row_mask[0], first, held, lanes, tile_columns)
        word ^= _from_end(row_mask[1], first, held, lanes, tile_columns)
        if intervals == 2:
            word ^= _from_end(row_mask[2], first, held, lanes, tile_columns)
            word ^= _from_end(row_mask[3], first, held, lanes, tile_columns)
        pair, one = tl.arange(0, held // (2 * lanes)), tl.arange(0, 2)
        number = 2 * pair[None, None, :, None, None] + one[None, None, None, None, :]
        bits = word[:, :, None, :, None] >> number.to(tl.uint32)
        keep = tl.reshape((bits & 1) != 0, (word.shape[0], tile_columns))
    return keep


@triton.jit
def _from_end(
    end: tl.tensor,
    first: tl.tensor,
    held: tl.constexpr,
    lanes: tl.constexpr,
    tile_columns: tl.constexpr,
) -> Any:
    """One bit for each column from an end on, uint32 [rows, words, lanes]."""
    start = first + held * tl.arange(0, tile_columns // held)
    before = end[:, None, :] - start[None, :, None] // lanes
    before = tl.minimum(tl.maximum(before, 0), 32)
    # A shift by 32 has no value in 32 bits.
    return (tl.full([1, 1, 1], 0xFFFFFFFFFFFFFFFF, tl.uint64) << before.to(tl.uint64)).to(tl.uint32)


@triton.jit
def _keep_bits(
    words: tl.tensor,
    rows: tl.tensor,
    first: tl.tensor,
    row_words: tl.constexpr,
    tile_columns: tl.constexpr,
) -> Any:
    """Mask bits [rows, tile_columns] of one block, as booleans.

    Args:
        words: the block's words, `row_words` for each row.
        rows: row numbers within the block.
        first: the first column within the block, a multiple of `tile_columns`.
        row_words: words per row.
        tile_columns: a power of two.
    """
    if tile_columns <= 32:
        bit = first % 32 + tl.arange(0, tile_columns)
        word = tl.load(words + rows * row_words + first // 32)
        bits = word[:, None] >> bit[None, :].to(tl.uint32)
    else:
        number = first // 32 + tl.arange(0, tile_columns // 32)
        word = tl.load(words + rows[:, None] * row_words + number[None, :])
        bits = word[:, :, None] >> tl.arange(0, 32)[None, None, :].to(tl.uint32)
        bits = tl.reshape(bits, (rows.shape[0], tile_columns))
    return (bits & 1) != 0


@triton.jit
def load_bias(
    bias: tl.tensor,
    q_at: tl.tensor,
    kv_at: tl.tensor,
    q_len: tl.constexpr,
    kv_len: tl.constexpr,
    row_stride: tl.constexpr,
    ragged: tl.constexpr,
) -> Any:
    """A bias of one lane in units of log 2, for queries and keys that broadcast to a tile.

    Args:
        bias: [q_len, kv_len], or [kv_len] if `row_stride` is 0.
        q_at: [tile_q, 1] or [1, tile_q].
        kv_at: the other way.
        q_len: queries.
        kv_len: keys.
        row_stride: elements from one query to the next; 0 if all have the same.
        ragged: positions may lie outside of the lengths; they read 0.
    """
    # A stride of 0 still reads a whole tile: with a row vector ptxas serialises the products.
    at = bias + (q_at.to(tl.int64) * row_stride + kv_at)
    if ragged:
        values = tl.load(at, mask=(q_at < q_len) & (kv_at < kv_len), other=0.0)
    else:
        values = tl.load(at)
    return values.to(tl.float32) * LOG2E


@triton.jit
def capped(scores: tl.tensor, factor: tl.tensor, soft_cap: tl.constexpr) -> Any:
    """`soft_cap * tanh(score * scale / soft_cap)` in units of log 2, finite for any score.

    Args:
        scores: q . k, not scaled.
        factor: scale * log2(e).
        soft_cap: the bound.
    """
    doubled = tl.exp2(scores * (factor * (2 / soft_cap)))
    return (1 - 2 / (doubled + 1)) * (soft_cap * LOG2E)


@triton.jit
def uncapped_slope(scores: tl.tensor, soft_cap: tl.constexpr) -> Any:
    """The derivative of the soft cap where its value is `scores` (in units of log 2)."""
    share = scores * (1 / (soft_cap * LOG2E))
    return 1 - share * share
