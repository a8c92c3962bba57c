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
    "find_list",
    "find_step",
    "find_tile",
    "keep_mask",
    "keep_tile",
    "list_number",
    "load_bias",
    "load_row",
    "load_row_mask",
    "load_tile",
    "store_tile",
    "uncapped_slope",
    "weigh",
]

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def find_tile(
    order: tl.tensor,
    head_mask: tl.tensor,
    lanes: tl.constexpr,
    group: tl.constexpr,
    per_row: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """Which tile this program has: its lane (batch * lanes + head), row, and number in the row.

    Programs start in order of their number: longest rows first, in sections of `c.together` lanes
    whose keys and values fit the L2 cache at once.

    Args:
        order: rows of each mask, longest first.
        head_mask: which mask each query head uses.
        lanes: lanes per batch entry.
        group: query heads per lane.
        per_row: tiles per row of blocks.
        c: the kernel's constants.
    """
    program = tl.program_id(0)
    size: tl.constexpr = c.together * c.rows * per_row
    within = program % size
    lane = (program // size) * c.together + within % c.together
    position = within // c.together
    first = tl.load(head_mask + (lane % lanes) * group) * c.rows
    if c.has_segments:
        first += (lane // lanes) * (c.masks * c.rows)
    row = tl.load(order + first + position // per_row)
    return lane, row, position % per_row


@triton.jit
def list_number(
    head_mask: tl.tensor, batch: tl.tensor, head: tl.tensor, row: tl.tensor, c: tl.constexpr
) -> Any:
    """Where the lists of a row of a query head are in the row offsets."""
    number = tl.load(head_mask + head) * c.rows + row
    if c.has_segments:
        number += batch * (c.masks * c.rows + 1)
    return number


@triton.jit
def find_list(
    ptr: tl.tensor, number: tl.tensor, idx: tl.tensor, partial_id: tl.tensor, words: tl.tensor
) -> Any:
    """A list of blocks: its first entry, the one behind its last, and what entries have."""
    return tl.load(ptr + number), tl.load(ptr + number + 1), idx, partial_id, words


@triton.jit
def find_step(blocks: tl.tuple, step: tl.tensor, block: tl.constexpr, tile: tl.constexpr) -> Any:
    """What a step of the loop over a list works on.

    Args:
        blocks: from `find_list`.
        step: counts the tiles of all entries of all lists.
        block: positions of a block.
        tile: positions of a step.

    Returns:
        The entry, the first position within its block, and the first position of all.
    """
    per_block: tl.constexpr = block // tile
    entry = step // per_block
    inside = (step % per_block) * tile
    return entry, inside, tl.load(blocks[2] + entry).to(tl.int32) * block + inside


@triton.jit
def load_row(
    array: tl.tensor,
    at: tl.tensor,
    length: tl.constexpr,
    other: tl.constexpr,
    ragged: tl.constexpr,
) -> Any:
    """Numbers of an array [length]; with `ragged`, those from `length` on are `other`."""
    if ragged:
        values = tl.load(array + at, mask=at < length, other=other)
    else:
        values = tl.load(array + at)
    return values


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
    c: tl.constexpr,
) -> Any:
    """What `keep_mask` asks of the rows of a tile, loaded once.

    Args:
        bounds: int32 [masks, 2 * c.intervals, length], or anything if `c.intervals` is 0.
        head_mask: which mask each query head uses.
        head: the query head.
        rows_in_block: row numbers within the block.
        positions: row numbers.
        length: of the side of the rows; rows behind it keep nothing.
        c: the kernel's constants.

    Returns:
        The most columns that a word has, and both ends of every interval of every row, as
        `_load_end` has them; without bounds `rows_in_block`.
    """
    if c.intervals == 0:
        row_mask = (rows_in_block,)
    else:
        mask = tl.load(head_mask + head)
        # It is 32 for every mask, but no constant: of a clamp between constants LLVM makes two
        # instructions, of this one ptxas makes one.
        most = tl.where(mask < 0, 0, 32)
        at = bounds + mask.to(tl.int64) * (2 * c.intervals * length) + positions
        inside = positions < length
        low, high = _load_end(at, inside, c.row_lanes), _load_end(at + length, inside, c.row_lanes)
        if c.intervals == 1:
            row_mask = (most, low, high)  # type: ignore[assignment]
        else:
            low2 = _load_end(at + 2 * length, inside, c.row_lanes)
            high2 = _load_end(at + 3 * length, inside, c.row_lanes)
            row_mask = (most, low, high, low2, high2)  # type: ignore[assignment]
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
def keep_tile(
    blocks: tl.tuple,
    entry: tl.tensor,
    inside: tl.tensor,
    first: tl.tensor,
    row_mask: tl.tuple,
    segments: tl.tensor,
    segment_ids: tl.tensor,
    length: tl.constexpr,
    padding: tl.constexpr,
    ragged: tl.constexpr,
    tile_columns: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """The mask of a part of a partial block, and of segments if there are any.

    Args:
        blocks: and all up to `row_mask`, as `keep_mask` has them.
        segments: ids of the rows.
        segment_ids: of all columns.
        length: of the columns.
        padding: the id of columns from `length` on.
        ragged: there may be such columns.
        tile_columns: a power of two.
        c: the kernel's constants.
    """
    keep = keep_mask(blocks, entry, inside, first, row_mask, tile_columns, c)
    if c.has_segments:
        columns = first + tl.arange(0, tile_columns)
        ids = load_row(segment_ids, columns, length, padding, ragged)
        keep = keep & (segments[:, None] == ids[None, :])
    return keep


@triton.jit
def keep_mask(
    blocks: tl.tuple,
    entry: tl.tensor,
    inside: tl.tensor,
    first: tl.tensor,
    row_mask: tl.tuple,
    tile_columns: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """The mask [rows, tile_columns] of a part of a partial block, as booleans.

    Args:
        blocks: from `find_list`.
        entry: of the list.
        inside: the first column within the block, a multiple of `tile_columns`.
        first: the first column.
        row_mask: from `load_row_mask`.
        tile_columns: a power of two.
        c: the kernel's constants.
    """
    if c.intervals == 0:
        size: tl.constexpr = c.block_rows * c.row_words
        words = blocks[4] + tl.load(blocks[3] + entry).to(tl.int64) * size
        keep = _keep_bits(words, row_mask[0], inside, c.row_words, tile_columns)
    else:
        # A column is kept if it has an odd number of ends at or before it.
        lanes: tl.constexpr = c.row_lanes
        held: tl.constexpr = min(32 * lanes, tile_columns)
        start = (first + held * tl.arange(0, tile_columns // held)) // lanes
        word = _from_end(row_mask[1], start, row_mask[0])
        word ^= _from_end(row_mask[2], start, row_mask[0])
        if c.intervals == 2:
            word ^= _from_end(row_mask[3], start, row_mask[0])
            word ^= _from_end(row_mask[4], start, row_mask[0])
        pair, one = tl.arange(0, held // (2 * lanes)), tl.arange(0, 2)
        number = 2 * pair[None, None, :, None, None] + one[None, None, None, None, :]
        bits = word[:, :, None, :, None] >> number.to(tl.uint32)
        keep = tl.reshape((bits & 1) != 0, (word.shape[0], tile_columns))
    return keep


@triton.jit
def _from_end(end: tl.tensor, start: tl.tensor, most: tl.tensor) -> Any:
    """One bit for each column from an end on, uint32 [rows, words, lanes].

    Args:
        end: from `_load_end`.
        start: how many columns before each word each lane holds.
        most: 32.
    """
    before = tl.maximum(tl.minimum(end[:, None, :] - start[None, :, None], most), 0)
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
        word = tl.load(words + (rows * row_words + first // 32))
        bits = word[:, None] >> bit[None, :].to(tl.uint32)
    else:
        number = first // 32 + tl.arange(0, tile_columns // 32)
        word = tl.load(words + (rows[:, None] * row_words + number[None, :]))
        bits = word[:, :, None] >> tl.arange(0, 32)[None, None, :].to(tl.uint32)
        bits = tl.reshape(bits, (rows.shape[0], tile_columns))
    return (bits & 1) != 0


@triton.jit
def load_bias(
    bias: tl.tensor, q_at: tl.tensor, kv_at: tl.tensor, ragged: tl.constexpr, c: tl.constexpr
) -> Any:
    """A bias of one lane in units of log 2, for queries and keys that broadcast to a tile.

    Args:
        bias: [q_len, kv_len], or [kv_len] if `c.bias_row_stride` is 0.
        q_at: [tile_q, 1] or [1, tile_q].
        kv_at: the other way.
        ragged: positions may lie outside of the lengths; they read 0.
        c: the kernel's constants.
    """
    # A stride of 0 still reads a whole tile: with a row vector ptxas serialises the products.
    at = bias + (q_at.to(tl.int64) * c.bias_row_stride + kv_at)
    if ragged:
        values = tl.load(at, mask=(q_at < c.q_len) & (kv_at < c.kv_len), other=0.0)
    else:
        values = tl.load(at)
    return values.to(tl.float32) * LOG2E


@triton.jit
def weigh(
    scores: tl.tensor,
    factor: tl.tensor,
    lse2: tl.tensor,
    bias: tl.tensor,
    q_at: tl.tensor,
    kv_at: tl.tensor,
    masked: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """The weights that the forward kernel gave scores, before any mask.

    A score that the mask forbids may be far above the log-sum-exp: select behind this.

    Args:
        scores: q . k, not scaled.
        factor: scale * log2(e).
        lse2: log-sum-exps in units of log 2, of a shape that broadcasts to the tile.
        bias: and both positions, as `load_bias` has them.
        masked: the block is a partial one.
        c: the kernel's constants.

    Returns:
        The weights, and the scores, scaled and capped, in units of log 2 and without a bias.
    """
    if c.soft_cap is not None:
        scores = capped(scores, factor, c.soft_cap)
    else:
        scores *= factor
    if c.has_bias:
        weights = tl.exp2(scores - lse2 + load_bias(bias, q_at, kv_at, masked and c.ragged, c))
    else:
        weights = tl.exp2(scores - lse2)
    return weights, scores


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
