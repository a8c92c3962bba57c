"""The dbias kernel: the gradient of an additive bias, for one tile of keys of one of its lanes.

The program that owns a tile adds up all queries heads and batch entries that share the bias, one
after the other, so the results are the same in every run. Everything is transposed, [kv, q], as in
the dkv kernel, whose lists it reads.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from maskc_kernels.gpu.tiles import (
    LOG2E,
    capped,
    keep_mask,
    list_number,
    load_bias,
    load_row_mask,
    load_tile,
)

__all__ = ["dbias_kernel"]


@triton.jit
def _clear(
    dbias: tl.tensor,
    positions: tl.tensor,
    q_len: tl.constexpr,
    kv_len: tl.constexpr,
    tile_q: tl.constexpr,
) -> None:
    """Zeros for all queries: blocks that are not listed are never written again."""
    kv_at = positions[:, None]
    for first in tl.range(0, q_len, tile_q):
        q_at = (first + tl.arange(0, tile_q))[None, :]
        at = dbias + q_at.to(tl.int64) * kv_len + kv_at
        zeros = tl.zeros([positions.shape[0], tile_q], tl.float32)
        tl.store(at, zeros, mask=(q_at < q_len) & (kv_at < kv_len))


@triton.jit
def _gather(
    acc: tl.tensor,
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
    dbias: tl.tensor,
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
    has_segments: tl.constexpr,
    masked: tl.constexpr,
    precision: tl.constexpr,
) -> Any:
    """Add what the blocks of one list give, to `acc` or, if every query has its bias, in memory."""
    per_block: tl.constexpr = block_q // tile_q
    ragged: tl.constexpr = masked and q_len % block_q != 0
    edge: tl.constexpr = masked and (q_len % block_q != 0 or kv_len % block_kv != 0)
    for step in tl.range(tl.load(ptr + listed) * per_block, tl.load(ptr + listed + 1) * per_block):
        entry = step // per_block
        inside = (step % per_block) * tile_q
        first = tl.load(idx + entry).to(tl.int32) * block_q + inside
        columns = first + tl.arange(0, tile_q)
        q_at, kv_at = columns[None, :], positions[:, None]
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
        scores += load_bias(bias, q_at, kv_at, q_len, kv_len, bias_row_stride, edge)
        weights = tl.exp2(scores - lse2[None, :])
        if masked:
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
        dweights = tl.dot(v_tile, tl.trans(dout_tile), input_precision=precision)
        dscores = weights * (dweights - delta_row[None, :])
        if bias_row_stride == 0:
            acc += tl.sum(dscores, 1)
        else:
            at = dbias + q_at.to(tl.int64) * kv_len + kv_at
            within = (q_at < q_len) & (kv_at < kv_len)
            tl.store(at, tl.load(at, mask=within, other=0.0) + dscores, mask=within)
    return acc


@triton.jit
def dbias_kernel(
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
    dbias: tl.tensor,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    bias_heads: tl.constexpr,
    sharing_batches: tl.constexpr,
    sharing_heads: tl.constexpr,
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
    soft_cap: tl.constexpr,
    bias_batch_stride: tl.constexpr,
    bias_head_stride: tl.constexpr,
    bias_row_stride: tl.constexpr,
    has_segments: tl.constexpr,
    has_full: tl.constexpr,
    has_partial: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """One tile of keys of one lane of the bias.

    Args:
        q: and all up to `words`, as `dkv_kernel` has them; `order` is not read.
        dbias: float32 in the shape of the bias, written.
        bias_heads: heads of the bias, 1 or `heads`.
        sharing_batches: batch entries per batch entry of the bias.
        sharing_heads: heads per head of the bias.
    """
    per_row: tl.constexpr = block_kv // tile_kv
    program = tl.program_id(0)
    lane, place = program // (rows * per_row), program % (rows * per_row)
    row, part = place // per_row, place % per_row
    rows_in_block = part * tile_kv + tl.arange(0, tile_kv)
    start = row * block_kv + part * tile_kv
    positions = row * block_kv + rows_in_block
    ragged: tl.constexpr = kv_len % block_kv != 0
    factor = tl.load(sm_scale) * LOG2E
    lane_size: tl.constexpr = kv_len if bias_row_stride == 0 else q_len * kv_len
    dbias_lane = dbias + lane.to(tl.int64) * lane_size
    if bias_row_stride != 0:
        _clear(dbias_lane, positions, q_len, kv_len, tile_q)
    acc = tl.zeros([tile_kv], tl.float32)
    for member in range(sharing_batches * sharing_heads):
        batch = lane // bias_heads + member // sharing_heads
        head = lane % bias_heads + member % sharing_heads
        kv_lane = (batch * kv_heads + head // (heads // kv_heads)).to(tl.int64)
        k_tile = load_tile(
            k + kv_lane * (kv_len * head_dim), start, tile_kv, kv_len, head_dim, width, ragged
        )
        v_tile = load_tile(
            v + kv_lane * (kv_len * v_head_dim), start, tile_kv, kv_len, v_head_dim, v_width, ragged
        )
        kv_segments = rows_in_block
        q_ids = q_segment_ids
        if has_segments:
            kv_segments = tl.load(
                kv_segment_ids + batch * kv_len + positions, mask=positions < kv_len, other=-2
            )
            q_ids = q_segment_ids + batch * q_len
        listed = list_number(head_mask, batch, head, row, masks, rows, has_segments)
        q_lane = (batch * heads + head).to(tl.int64) * q_len
        row_mask = load_row_mask(
            bounds, head_mask, head, rows_in_block, positions, kv_len, intervals, row_lanes
        )
        bias_lane = bias + (
            batch.to(tl.int64) * bias_batch_stride + head.to(tl.int64) * bias_head_stride
        )
        if bias_row_stride != 0:
            tl.debug_barrier()  # what other threads have written is read
        if has_full:
            acc = _gather(
                acc, k_tile, v_tile, factor, row_mask, positions, kv_segments,
                q + q_lane * head_dim, dout + q_lane * v_head_dim, lse + q_lane, delta + q_lane,
                bias_lane, dbias_lane, q_ids, words, full_ptr, full_idx, partial_id, listed, q_len,
                kv_len, head_dim, v_head_dim, width, v_width, block_q, block_kv, tile_q, block_rows,
                row_words, intervals, row_lanes, soft_cap, bias_row_stride, has_segments, False,
                precision,
            )  # fmt: skip
        if has_partial:
            acc = _gather(
                acc, k_tile, v_tile, factor, row_mask, positions, kv_segments,
                q + q_lane * head_dim, dout + q_lane * v_head_dim, lse + q_lane, delta + q_lane,
                bias_lane, dbias_lane, q_ids, words, partial_ptr, partial_idx, partial_id, listed,
                q_len, kv_len, head_dim, v_head_dim, width, v_width, block_q, block_kv, tile_q,
                block_rows, row_words, intervals, row_lanes, soft_cap, bias_row_stride,
                has_segments, True, precision,
            )  # fmt: skip
    if bias_row_stride == 0:
        tl.store(dbias_lane + positions, acc, mask=positions < kv_len)
