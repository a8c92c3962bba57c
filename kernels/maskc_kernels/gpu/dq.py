"""The dq kernel: gradients of one tile of queries, over the blocks of its row."""

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
    uncapped_slope,
)

__all__ = ["dq_kernel"]


@triton.jit
def _gather(
    acc: tl.tensor,
    q_tile: tl.tensor,
    dout_tile: tl.tensor,
    lse2: tl.tensor,
    delta_row: tl.tensor,
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
    """Add the products of score gradients and keys, over the blocks of one list."""
    per_block: tl.constexpr = block_kv // tile_kv
    ragged: tl.constexpr = masked and kv_len % block_kv != 0
    for step in tl.range(tl.load(ptr + listed) * per_block, tl.load(ptr + listed + 1) * per_block):
        entry = step // per_block
        inside = (step % per_block) * tile_kv
        first = tl.load(idx + entry).to(tl.int32) * block_kv + inside
        columns = first + tl.arange(0, tile_kv)
        k_tile = load_tile(k, first, tile_kv, kv_len, head_dim, width, ragged)
        v_tile = load_tile(v, first, tile_kv, kv_len, v_head_dim, v_width, ragged)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=precision)
        if soft_cap is not None:
            scores = capped(scores, factor, soft_cap)
        else:
            scores *= factor
        if has_bias:
            added = load_bias(
                bias, positions[:, None], columns[None, :], q_len, kv_len, bias_row_stride,
                masked and (kv_len % block_kv != 0 or q_len % block_q != 0),
            )  # fmt: skip
            weights = tl.exp2(scores - lse2[:, None] + added)
        else:
            weights = tl.exp2(scores - lse2[:, None])
        dweights = tl.dot(dout_tile, tl.trans(v_tile), input_precision=precision)
        dscores = weights * (dweights - delta_row[:, None])
        if soft_cap is not None:
            dscores *= uncapped_slope(scores, soft_cap)
        if masked:
            # A score that the mask forbids may be far above the log-sum-exp: select last.
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
            dscores = tl.where(keep, dscores, 0.0)
        acc = tl.dot(dscores.to(k_tile.dtype), k_tile, acc, input_precision=precision)
    return acc


@triton.jit
def dq_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    sm_scale: tl.tensor,
    dout: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
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
    dq: tl.tensor,
    dscale: tl.tensor,
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
    has_segments: tl.constexpr,
    has_full: tl.constexpr,
    has_partial: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """One tile of queries of one head.

    Args:
        q: and all that `forward_kernel` has too, as there.
        dout: [batch, heads, q_len, v_head_dim], gradient of the output.
        lse: float32 [batch, heads, q_len]; +inf for a query that attends nothing.
        delta: float32 [batch, heads, q_len], as `RowGradients` has it.
        dq: [batch, heads, q_len, head_dim], written.
        dscale: float32 [batch, heads, q_len], written: each query's part of the gradient of
            sm_scale.
    """
    lane, row, part = find_tile(
        order, head_mask, heads, 1, together, masks, rows, block_q // tile_q, has_segments
    )
    batch, head = lane // heads, lane % heads
    wide_lane = lane.to(tl.int64)
    kv_lane = (batch * kv_heads + head // (heads // kv_heads)).to(tl.int64)
    rows_in_block = part * tile_q + tl.arange(0, tile_q)
    start = row * block_q + part * tile_q
    positions = row * block_q + rows_in_block
    ragged: tl.constexpr = q_len % block_q != 0
    q_tile = load_tile(
        q + wide_lane * (q_len * head_dim), start, tile_q, q_len, head_dim, width, ragged
    )
    dout_tile = load_tile(
        dout + wide_lane * (q_len * v_head_dim), start, tile_q, q_len, v_head_dim, v_width, ragged
    )
    inside = positions < q_len
    lse2 = tl.load(lse + wide_lane * q_len + positions, mask=inside, other=float("inf")) * LOG2E
    delta_row = tl.load(delta + wide_lane * q_len + positions, mask=inside, other=0.0)
    scale = tl.load(sm_scale)
    factor = scale * LOG2E
    acc = tl.zeros([tile_q, width], tl.float32)
    listed = list_number(head_mask, batch, head, row, masks, rows, has_segments)
    q_segments = rows_in_block
    kv_ids = kv_segment_ids
    if has_segments:
        q_segments = tl.load(q_segment_ids + batch * q_len + positions, mask=inside, other=-1)
        kv_ids = kv_segment_ids + batch * kv_len
    row_mask = load_row_mask(
        bounds, head_mask, head, rows_in_block, positions, q_len, intervals, row_lanes
    )
    bias_lane = bias
    if has_bias:
        bias_lane += batch.to(tl.int64) * bias_batch_stride + head.to(tl.int64) * bias_head_stride
    k_lane, v_lane = k + kv_lane * (kv_len * head_dim), v + kv_lane * (kv_len * v_head_dim)
    if has_full:
        acc = _gather(
            acc, q_tile, dout_tile, lse2, delta_row, factor, row_mask, positions, q_segments,
            k_lane, v_lane, bias_lane, kv_ids, words, full_ptr, full_idx, partial_id, listed, q_len,
            kv_len, head_dim, v_head_dim, width, v_width, block_q, block_kv, tile_kv, block_rows,
            row_words, intervals, row_lanes, soft_cap, bias_row_stride, has_bias, has_segments,
            False, precision,
        )  # fmt: skip
    if has_partial:
        acc = _gather(
            acc, q_tile, dout_tile, lse2, delta_row, factor, row_mask, positions, q_segments,
            k_lane, v_lane, bias_lane, kv_ids, words, partial_ptr, partial_idx, partial_id, listed,
            q_len, kv_len, head_dim, v_head_dim, width, v_width, block_q, block_kv, tile_kv,
            block_rows, row_words, intervals, row_lanes, soft_cap, bias_row_stride, has_bias,
            has_segments, True, precision,
        )  # fmt: skip
    share = tl.sum(acc * q_tile.to(tl.float32), 1)
    tl.store(dscale + wide_lane * q_len + positions, share, mask=inside)
    store_tile(dq + wide_lane * (q_len * head_dim), acc * scale, positions, q_len, head_dim, width)
