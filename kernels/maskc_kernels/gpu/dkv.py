"""The dkv kernel: gradients of one tile of keys and values, summed over their query heads.

Everything is transposed, [kv, q], so that no product needs its left side turned around: the mask
words run along q. A tile of keys belongs to one program, so nothing is added across programs and
the results are the same in every run.
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
    uncapped_slope,
)

__all__ = ["dkv_kernel"]


@triton.jit
def _gather(
    dk_acc: tl.tensor,
    dv_acc: tl.tensor,
    k_tile: tl.tensor,
    v_tile: tl.tensor,
    factor: tl.tensor,
    row_mask: tl.tuple,
    positions: tl.tensor,
    kv_segments: tl.tensor,
    q: tl.tensor,
    dout: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
    bias: tl.tensor,
    q_segment_ids: tl.tensor,
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
    tile_q: tl.constexpr,
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
    """Add what the blocks of one list and one query head give to dk and dv."""
    per_block: tl.constexpr = block_q // tile_q
    ragged: tl.constexpr = masked and q_len % block_q != 0
    for step in tl.range(tl.load(ptr + listed) * per_block, tl.load(ptr + listed + 1) * per_block):
        entry = step // per_block
        inside = (step % per_block) * tile_q
        first = tl.load(idx + entry).to(tl.int32) * block_q + inside
        columns = first + tl.arange(0, tile_q)
        q_tile = load_tile(q, first, tile_q, q_len, head_dim, width, ragged)
        dout_tile = load_tile(dout, first, tile_q, q_len, v_head_dim, v_width, ragged)
        if ragged:
            lse2 = tl.load(lse + columns, mask=columns < q_len, other=float("inf")) * LOG2E
            delta_row = tl.load(delta + columns, mask=columns < q_len, other=0.0)
        else:
            lse2 = tl.load(lse + columns) * LOG2E
            delta_row = tl.load(delta + columns)
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=precision)
        if soft_cap is not None:
            scores = capped(scores, factor, soft_cap)
        else:
            scores *= factor
        if has_bias:
            added = load_bias(
                bias, columns[None, :], positions[:, None], q_len, kv_len, bias_row_stride,
                masked and (kv_len % block_kv != 0 or q_len % block_q != 0),
            )  # fmt: skip
            weights = tl.exp2(scores - lse2[None, :] + added)
        else:
            weights = tl.exp2(scores - lse2[None, :])
        if masked:
            # A score that the mask forbids may be far above the log-sum-exp: select behind exp2.
            keep = keep_mask(
                words, partial_id, entry, inside, first, row_mask, block_rows, row_words, intervals,
                row_lanes, tile_q,
            )  # fmt: skip
            if has_segments:
                if ragged:
                    ids = tl.load(q_segment_ids + columns, mask=columns < q_len, other=-1)
                else:
                    ids = tl.load(q_segment_ids + columns)
                keep = keep & (kv_segments[:, None] == ids[None, :])
            weights = tl.where(keep, weights, 0.0)
        dv_acc = tl.dot(weights.to(dout_tile.dtype), dout_tile, dv_acc, input_precision=precision)
        dweights = tl.dot(v_tile, tl.trans(dout_tile), input_precision=precision)
        dscores = weights * (dweights - delta_row[None, :])
        if soft_cap is not None:
            dscores *= uncapped_slope(scores, soft_cap)
        dk_acc = tl.dot(dscores.to(q_tile.dtype), q_tile, dk_acc, input_precision=precision)
    return dk_acc, dv_acc


@triton.jit
def dkv_kernel(
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
    dk: tl.tensor,
    dv: tl.tensor,
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
    """One tile of keys of one kv head.

    Args:
        q: and all that `dq_kernel` has too, as there; but the lists' rows are blocks of keys.
        words: uint32 [unique, block_rows, row_words], words along q.
        dk: [batch, kv_heads, kv_len, head_dim], written.
        dv: [batch, kv_heads, kv_len, v_head_dim], written.
    """
    group: tl.constexpr = heads // kv_heads
    lane, row, part = find_tile(
        order, head_mask, kv_heads, group, together, masks, rows, block_kv // tile_kv, has_segments
    )
    batch, kv_head = lane // kv_heads, lane % kv_heads
    wide_lane = lane.to(tl.int64)
    rows_in_block = part * tile_kv + tl.arange(0, tile_kv)
    start = row * block_kv + part * tile_kv
    positions = row * block_kv + rows_in_block
    ragged: tl.constexpr = kv_len % block_kv != 0
    k_tile = load_tile(
        k + wide_lane * (kv_len * head_dim), start, tile_kv, kv_len, head_dim, width, ragged
    )
    v_tile = load_tile(
        v + wide_lane * (kv_len * v_head_dim), start, tile_kv, kv_len, v_head_dim, v_width, ragged
    )
    scale = tl.load(sm_scale)
    factor = scale * LOG2E
    kv_segments = rows_in_block
    q_ids = q_segment_ids
    if has_segments:
        kv_segments = tl.load(
            kv_segment_ids + batch * kv_len + positions, mask=positions < kv_len, other=-2
        )
        q_ids = q_segment_ids + batch * q_len
    dk_acc = tl.zeros([tile_kv, width], tl.float32)
    dv_acc = tl.zeros([tile_kv, v_width], tl.float32)
    for member in range(group):
        head = kv_head * group + member
        listed = list_number(head_mask, batch, head, row, masks, rows, has_segments)
        q_lane = (batch * heads + head).to(tl.int64) * q_len
        q_at, dout_at = q + q_lane * head_dim, dout + q_lane * v_head_dim
        row_mask = load_row_mask(
            bounds, head_mask, head, rows_in_block, positions, kv_len, intervals, row_lanes
        )
        bias_lane = bias
        if has_bias:
            at = batch.to(tl.int64) * bias_batch_stride + head.to(tl.int64) * bias_head_stride
            bias_lane += at
        if has_full:
            dk_acc, dv_acc = _gather(
                dk_acc, dv_acc, k_tile, v_tile, factor, row_mask, positions, kv_segments, q_at,
                dout_at, lse + q_lane, delta + q_lane, bias_lane, q_ids, words, full_ptr, full_idx,
                partial_id, listed, q_len, kv_len, head_dim, v_head_dim, width, v_width, block_q,
                block_kv, tile_q, block_rows, row_words, intervals, row_lanes, soft_cap,
                bias_row_stride, has_bias, has_segments, False, precision,
            )  # fmt: skip
        if has_partial:
            dk_acc, dv_acc = _gather(
                dk_acc, dv_acc, k_tile, v_tile, factor, row_mask, positions, kv_segments, q_at,
                dout_at, lse + q_lane, delta + q_lane, bias_lane, q_ids, words, partial_ptr,
                partial_idx, partial_id, listed, q_len, kv_len, head_dim, v_head_dim, width,
                v_width, block_q, block_kv, tile_q, block_rows, row_words, intervals, row_lanes,
                soft_cap, bias_row_stride, has_bias, has_segments, True, precision,
            )  # fmt: skip
    store_tile(
        dk + wide_lane * (kv_len * head_dim), dk_acc * scale, positions, kv_len, head_dim, width
    )
    store_tile(
        dv + wide_lane * (kv_len * v_head_dim), dv_acc, positions, kv_len, v_head_dim, v_width
    )
