"""The forward kernel: an online softmax over the blocks of one tile of queries.

Scores stay as the product left them; scale and log2(e) are one factor inside exp2's
multiply-add, so that a full block costs what dense attention costs.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from maskc_kernels.gpu.tiles import (
    LOG2E,
    capped,
    find_tile,
    keep_mask,
    list_number,
    load_bias,
    load_row_mask,
    load_tile,
    store_tile,
)

__all__ = ["forward_kernel"]


@triton.jit
def _absorb(
    acc: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    q_tile: tl.tensor,
    factor: tl.tensor,
    row_mask: tl.tuple,
    positions: tl.tensor,
    q_segments: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    bias: tl.tensor,
    kv_segment_ids: tl.tensor,
    words: tl.tensor,
    ptr: tl.tensor,
    idx: tl.tensor,
    partial_id: tl.tensor,
    listed: tl.tensor,
    q_len: tl.constexpr,
    kv_len: tl.constexpr,
    head_dim: tl.constexpr,
    v_head_dim: tl.constexpr,
    width: tl.constexpr,
    v_width: tl.constexpr,
    block_q: tl.constexpr,
    block_kv: tl.constexpr,
    tile_kv: tl.constexpr,
    block_rows: tl.constexpr,
    row_words: tl.constexpr,
    intervals: tl.constexpr,
    row_lanes: tl.constexpr,
    soft_cap: tl.constexpr,
    bias_row_stride: tl.constexpr,
    has_bias: tl.constexpr,
    has_segments: tl.constexpr,
    masked: tl.constexpr,
    precision: tl.constexpr,
) -> Any:
    """Take the blocks of one list into the softmax that is under way."""
    per_block: tl.constexpr = block_kv // tile_kv
    ragged: tl.constexpr = masked and kv_len % block_kv != 0
    for step in tl.range(tl.load(ptr + listed) * per_block, tl.load(ptr + listed + 1) * per_block):
        entry = step // per_block
        inside = (step % per_block) * tile_kv
        first = tl.load(idx + entry).to(tl.int32) * block_kv + inside
        columns = first + tl.arange(0, tile_kv)
        k_tile = load_tile(k, first, tile_kv, kv_len, head_dim, width, ragged)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=precision)
        if soft_cap is not None:
            scores = capped(scores, factor, soft_cap)
            step_factor = 1.0
        elif has_bias:
            scores *= factor
            step_factor = 1.0
        else:
            step_factor = factor
        if has_bias:
            scores += load_bias(
                bias, positions[:, None], columns[None, :], q_len, kv_len, bias_row_stride,
                masked and (kv_len % block_kv != 0 or q_len % block_q != 0),
            )  # fmt: skip
        if masked:
            keep = keep_mask(
                words, partial_id, entry, inside, first, row_mask, block_rows, row_words, intervals,
                row_lanes, tile_kv,
            )  # fmt: skip
            if has_segments:
                if ragged:
                    ids = tl.load(kv_segment_ids + columns, mask=columns < kv_len, other=-2)
                else:
                    ids = tl.load(kv_segment_ids + columns)
                keep = keep & (q_segments[:, None] == ids[None, :])
            scores = tl.where(keep, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * step_factor)
        if masked or has_bias:
            # A row with no score yet has top -inf, and -inf - -inf would be NaN.
            shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        else:
            shift = new_top
        weights = tl.exp2(scores * step_factor - shift[:, None])
        decay = tl.exp2(top - shift)
        total = total * decay + tl.sum(weights, 1)
        v_tile = load_tile(v, first, tile_kv, kv_len, v_head_dim, v_width, ragged)
        acc = tl.dot(
            weights.to(v_tile.dtype), v_tile, acc * decay[:, None], input_precision=precision
        )
        top = new_top
    return acc, top, total


@triton.jit
def forward_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    sm_scale: tl.tensor,
    sinks: tl.tensor,
    bias: tl.tensor,
    q_segment_ids: tl.tensor,
    kv_segment_ids: tl.tensor,
    head_mask: tl.tensor,
    order: tl.tensor,
    full_ptr: tl.tensor,
    full_idx: tl.tensor,
    partial_ptr: tl.tensor,
    partial_idx: tl.tensor,
    partial_id: tl.tensor,
    words: tl.tensor,
    bounds: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    q_len: tl.constexpr,
    kv_len: tl.constexpr,
    head_dim: tl.constexpr,
    v_head_dim: tl.constexpr,
    width: tl.constexpr,
    v_width: tl.constexpr,
    block_q: tl.constexpr,
    block_kv: tl.constexpr,
    tile_q: tl.constexpr,
    tile_kv: tl.constexpr,
    block_rows: tl.constexpr,
    row_words: tl.constexpr,
    intervals: tl.constexpr,
    row_lanes: tl.constexpr,
    masks: tl.constexpr,
    rows: tl.constexpr,
    together: tl.constexpr,
    soft_cap: tl.constexpr,
    bias_batch_stride: tl.constexpr,
    bias_head_stride: tl.constexpr,
    bias_row_stride: tl.constexpr,
    has_bias: tl.constexpr,
    has_sinks: tl.constexpr,
    has_segments: tl.constexpr,
    has_full: tl.constexpr,
    has_partial: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """One tile of queries of one head.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: float32 [], any sign.
        sinks: float32 [heads], or anything without `has_sinks`.
        bias: of the strides given, in elements; or anything without `has_bias`.
        q_segment_ids: int32 [batch, q_len], padding -1; or anything without `has_segments`.
        kv_segment_ids: int32 [batch, kv_len], padding -2; or anything.
        head_mask: int32 [heads].
        order: and all up to `words`, as `RowLists` has them.
        out: [batch, heads, q_len, v_head_dim], written.
        lse: float32 [batch, heads, q_len], written.
    """
    lane, row, part = find_tile(
        order, head_mask, heads, 1, together, masks, rows, block_q // tile_q, has_segments
    )
    batch, head = lane // heads, lane % heads
    kv_lane = (batch * kv_heads + head // (heads // kv_heads)).to(tl.int64)
    rows_in_block = part * tile_q + tl.arange(0, tile_q)
    start = row * block_q + part * tile_q
    positions = row * block_q + rows_in_block
    q_tile = load_tile(
        q + lane.to(tl.int64) * (q_len * head_dim),
        start,
        tile_q,
        q_len,
        head_dim,
        width,
        q_len % block_q != 0,
    )
    # The largest score is looked for before scaling, so the factor must be positive: a sign goes
    # to q, and 0 becomes the smallest number whose product with -inf is no NaN.
    scale = tl.load(sm_scale)
    q_tile = (q_tile.to(tl.float32) * tl.where(scale < 0, -1.0, 1.0)).to(q_tile.dtype)
    factor = tl.maximum(tl.abs(scale), 1e-37) * LOG2E

    acc = tl.zeros([tile_q, v_width], tl.float32)
    top = tl.full([tile_q], float("-inf"), tl.float32)
    total = tl.zeros([tile_q], tl.float32)
    listed = list_number(head_mask, batch, head, row, masks, rows, has_segments)
    q_segments = rows_in_block
    kv_ids = kv_segment_ids
    if has_segments:
        q_segments = tl.load(
            q_segment_ids + batch * q_len + positions, mask=positions < q_len, other=-1
        )
        kv_ids = kv_segment_ids + batch * kv_len
    row_mask = load_row_mask(
        bounds, head_mask, head, rows_in_block, positions, q_len, intervals, row_lanes
    )
    bias_lane = bias
    if has_bias:
        bias_lane += batch.to(tl.int64) * bias_batch_stride + head.to(tl.int64) * bias_head_stride
    k_lane, v_lane = k + kv_lane * (kv_len * head_dim), v + kv_lane * (kv_len * v_head_dim)
    # With a loop that may not run at all ptxas serialises the products (C7515); a branch helps.
    if has_full and tl.load(full_ptr + listed) < tl.load(full_ptr + listed + 1):
        acc, top, total = _absorb(
            acc, top, total, q_tile, factor, row_mask, positions, q_segments, k_lane, v_lane,
            bias_lane, kv_ids, words, full_ptr, full_idx, partial_id, listed, q_len, kv_len,
            head_dim, v_head_dim, width, v_width, block_q, block_kv, tile_kv, block_rows, row_words,
            intervals, row_lanes, soft_cap, bias_row_stride, has_bias, has_segments, False,
            precision,
        )  # fmt: skip
    if has_partial and tl.load(partial_ptr + listed) < tl.load(partial_ptr + listed + 1):
        acc, top, total = _absorb(
            acc, top, total, q_tile, factor, row_mask, positions, q_segments, k_lane, v_lane,
            bias_lane, kv_ids, words, partial_ptr, partial_idx, partial_id, listed, q_len, kv_len,
            head_dim, v_head_dim, width, v_width, block_q, block_kv, tile_kv, block_rows, row_words,
            intervals, row_lanes, soft_cap, bias_row_stride, has_bias, has_segments, True,
            precision,
        )  # fmt: skip
    empty = total == 0
    if has_sinks:
        # Behind the loops, where it is known whether a row attends anything beside its sink.
        sink = tl.load(sinks + head) * LOG2E
        new_top = tl.where(empty, 0.0, tl.maximum(top, sink))
        decay = tl.exp2(top - new_top)
        acc *= decay[:, None]
        total = tl.where(empty, 0.0, total * decay + tl.exp2(sink - new_top))
        top = new_top
    total = tl.where(empty, 1.0, total)
    store_tile(
        out + lane.to(tl.int64) * (q_len * v_head_dim),
        acc / total[:, None],
        positions,
        q_len,
        v_head_dim,
        v_width,
    )
    summed = tl.where(empty, float("-inf"), (top + tl.log2(total)) / LOG2E)
    tl.store(lse + lane.to(tl.int64) * q_len + positions, summed, mask=positions < q_len)
