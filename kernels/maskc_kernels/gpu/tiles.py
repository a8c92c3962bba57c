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
    "keep_bits",
    "list_number",
    "load_bias",
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
    positions: tl.tensor,
    length: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    ragged: tl.constexpr,
) -> Any:
    """Rows `positions` of an array [length, dim], `dim` padded with zeros to `width`.

    With `ragged`, positions from `length` on are read as zeros.
    """
    columns = tl.arange(0, width)
    at = array + positions[:, None] * dim + columns[None, :]
    if ragged and dim != width:
        inside = (positions < length)[:, None] & (columns < dim)[None, :]
        tile = tl.load(at, mask=inside, other=0.0)
    elif ragged:
        tile = tl.load(at, mask=(positions < length)[:, None], other=0.0)
    elif dim != width:
        tile = tl.load(at, mask=(columns < dim)[None, :], other=0.0)
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
def keep_bits(
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
