"""The dq kernel: gradients of one tile of queries, over the blocks of its row."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from maskc_kernels.gpu.tiles import (
    LOG2E,
    find_list,
    find_step,
    find_tile,
    keep_tile,
    list_number,
    load_row,
    load_row_mask,
    load_tile,
    store_tile,
    uncapped_slope,
    weigh,
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
    positions: tl.tensor,
    row_mask: tl.tuple,
    segments: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    bias: tl.tensor,
    kv_segment_ids: tl.tensor,
    blocks: tl.tuple,
    masked: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """Add the products of score gradients and keys, over the blocks of one list."""
    per_block: tl.constexpr = c.block_kv // c.tile_kv
    ragged: tl.constexpr = masked and c.kv_ragged
    for step in tl.range(blocks[0] * per_block, blocks[1] * per_block):
        entry, inside, first = find_step(blocks, step, c.block_kv, c.tile_kv)
        k_tile = load_tile(k, first, c.tile_kv, c.kv_len, c.head_dim, c.width, ragged)
        v_tile = load_tile(v, first, c.tile_kv, c.kv_len, c.v_head_dim, c.v_width, ragged)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=c.precision)
        columns = first + tl.arange(0, c.tile_kv)
        weights, scores = weigh(
            scores, factor, lse2[:, None], bias, positions[:, None], columns[None, :], masked, c
        )
        dweights = tl.dot(dout_tile, tl.trans(v_tile), input_precision=c.precision)
        dscores = weights * (dweights - delta_row[:, None])
        if c.soft_cap is not None:
            dscores *= uncapped_slope(scores, c.soft_cap)
        if masked:
            keep = keep_tile(
                blocks, entry, inside, first, row_mask, segments, kv_segment_ids, c.kv_len, -2,
                ragged, c.tile_kv, c,
            )  # fmt: skip
            dscores = tl.where(keep, dscores, 0.0)
        acc = tl.dot(dscores.to(k_tile.dtype), k_tile, acc, input_precision=c.precision)
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
    c: tl.constexpr,
) -> None:
    """One tile of queries of one head.

    Args:
        q: and all that `forward_kernel` has too, as there.
        dout: [batch, heads, q_len, v_head_dim], gradient of the output.
        lse: float32 [batch, heads, q_len]; +inf for a query that attends nothing.
        delta: float32 [batch, heads, q_len], as `delta_kernel` makes it.
        dq: [batch, heads, q_len, head_dim], written.
        dscale: float32 [batch, heads, q_len], written: each query's part of the gradient of
            sm_scale.
    """
    lane, row, part = find_tile(order, head_mask, c.heads, 1, c.block_q // c.tile_q, c)
    batch, head = lane // c.heads, lane % c.heads
    wide_lane, kv_lane = lane.to(tl.int64), (batch * c.kv_heads + head // c.group).to(tl.int64)
    rows_in_block = part * c.tile_q + tl.arange(0, c.tile_q)
    start = row * c.block_q + part * c.tile_q
    positions = row * c.block_q + rows_in_block
    q_lane, dout_lane = (
        q + wide_lane * (c.q_len * c.head_dim),
        dout + wide_lane * (c.q_len * c.v_head_dim),
    )
    q_tile = load_tile(q_lane, start, c.tile_q, c.q_len, c.head_dim, c.width, c.q_ragged)
    dout_tile = load_tile(dout_lane, start, c.tile_q, c.q_len, c.v_head_dim, c.v_width, c.q_ragged)
    lse2 = load_row(lse + wide_lane * c.q_len, positions, c.q_len, float("inf"), True) * LOG2E
    delta_row = load_row(delta + wide_lane * c.q_len, positions, c.q_len, 0.0, True)
    scale = tl.load(sm_scale)
    factor = scale * LOG2E
    acc = tl.zeros([c.tile_q, c.width], tl.float32)
    number = list_number(head_mask, batch, head, row, c)
    segments, kv_ids = rows_in_block, kv_segment_ids
    if c.has_segments:
        segments = load_row(q_segment_ids + batch * c.q_len, positions, c.q_len, -1, True)
        kv_ids = kv_segment_ids + batch * c.kv_len
    row_mask = load_row_mask(bounds, head_mask, head, rows_in_block, positions, c.q_len, c)
    bias_lane = bias
    if c.has_bias:
        bias_lane += batch.to(tl.int64) * c.bias_batch_stride
        bias_lane += head.to(tl.int64) * c.bias_head_stride
    k_lane, v_lane = k + kv_lane * (c.kv_len * c.head_dim), v + kv_lane * (c.kv_len * c.v_head_dim)
    if c.has_full:
        full = find_list(full_ptr, number, full_idx, partial_id, words)
        acc = _gather(
            acc, q_tile, dout_tile, lse2, delta_row, factor, positions, row_mask, segments,
            k_lane, v_lane, bias_lane, kv_ids, full, False, c,
        )  # fmt: skip
    if c.has_partial:
        partial = find_list(partial_ptr, number, partial_idx, partial_id, words)
        acc = _gather(
            acc, q_tile, dout_tile, lse2, delta_row, factor, positions, row_mask, segments,
            k_lane, v_lane, bias_lane, kv_ids, partial, True, c,
        )  # fmt: skip
    share = tl.sum(acc * q_tile.to(tl.float32), 1)
    tl.store(dscale + wide_lane * c.q_len + positions, share, mask=positions < c.q_len)
    dq_lane = dq + wide_lane * (c.q_len * c.head_dim)
    store_tile(dq_lane, acc * scale, positions, c.q_len, c.head_dim, c.width)
