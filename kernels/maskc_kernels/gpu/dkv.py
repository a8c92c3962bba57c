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

__all__ = ["dkv_kernel"]


@triton.jit
def _gather(
    dk_acc: tl.tensor,
    dv_acc: tl.tensor,
    k_tile: tl.tensor,
    v_tile: tl.tensor,
    factor: tl.tensor,
    positions: tl.tensor,
    row_mask: tl.tuple,
    segments: tl.tensor,
    q: tl.tensor,
    dout: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
    bias: tl.tensor,
    q_segment_ids: tl.tensor,
    blocks: tl.tuple,
    masked: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """Add what the blocks of one list and one query head give to dk and dv."""
    per_block: tl.constexpr = c.block_q // c.tile_q
    ragged: tl.constexpr = masked and c.q_ragged
    for step in tl.range(blocks[0] * per_block, blocks[1] * per_block):
        entry, inside, first = find_step(blocks, step, c.block_q, c.tile_q)
        columns = first + tl.arange(0, c.tile_q)
        q_tile = load_tile(q, first, c.tile_q, c.q_len, c.head_dim, c.width, ragged)
        dout_tile = load_tile(dout, first, c.tile_q, c.q_len, c.v_head_dim, c.v_width, ragged)
        lse2 = load_row(lse, columns, c.q_len, float("inf"), ragged) * LOG2E
        delta_row = load_row(delta, columns, c.q_len, 0.0, ragged)
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=c.precision)
        weights, scores = weigh(
            scores, factor, lse2[None, :], bias, columns[None, :], positions[:, None], masked, c
        )
        if masked:
            keep = keep_tile(
                blocks, entry, inside, first, row_mask, segments, q_segment_ids, c.q_len, -1,
                ragged, c.tile_q, c,
            )  # fmt: skip
            weights = tl.where(keep, weights, 0.0)
        dv_acc = tl.dot(weights.to(dout_tile.dtype), dout_tile, dv_acc, input_precision=c.precision)
        dweights = tl.dot(v_tile, tl.trans(dout_tile), input_precision=c.precision)
        dscores = weights * (dweights - delta_row[None, :])
        if c.soft_cap is not None:
            dscores *= uncapped_slope(scores, c.soft_cap)
        dk_acc = tl.dot(dscores.to(q_tile.dtype), q_tile, dk_acc, input_precision=c.precision)
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
    c: tl.constexpr,
) -> None:
    """One tile of keys of one kv head.

    Args:
        q: and all that `dq_kernel` has too, as there; but the lists' rows are blocks of keys.
        words: uint32 [unique, block_rows, row_words], words along q.
        dk: [batch, kv_heads, kv_len, head_dim], written.
        dv: [batch, kv_heads, kv_len, v_head_dim], written.
    """
    per_row: tl.constexpr = c.block_kv // c.tile_kv
    lane, row, part = find_tile(order, head_mask, c.kv_heads, c.group, per_row, c)
    batch, kv_head = lane // c.kv_heads, lane % c.kv_heads
    wide_lane = lane.to(tl.int64)
    rows_in_block = part * c.tile_kv + tl.arange(0, c.tile_kv)
    start = row * c.block_kv + part * c.tile_kv
    positions = row * c.block_kv + rows_in_block
    k_at, v_at = wide_lane * (c.kv_len * c.head_dim), wide_lane * (c.kv_len * c.v_head_dim)
    k_tile = load_tile(k + k_at, start, c.tile_kv, c.kv_len, c.head_dim, c.width, c.kv_ragged)
    v_tile = load_tile(v + v_at, start, c.tile_kv, c.kv_len, c.v_head_dim, c.v_width, c.kv_ragged)
    scale = tl.load(sm_scale)
    factor = scale * LOG2E
    segments, q_ids = rows_in_block, q_segment_ids
    if c.has_segments:
        segments = load_row(kv_segment_ids + batch * c.kv_len, positions, c.kv_len, -2, True)
        q_ids = q_segment_ids + batch * c.q_len
    dk_acc = tl.zeros([c.tile_kv, c.width], tl.float32)
    dv_acc = tl.zeros([c.tile_kv, c.v_width], tl.float32)
    for member in range(c.group):
        head = kv_head * c.group + member
        number = list_number(head_mask, batch, head, row, c)
        q_lane = (batch * c.heads + head).to(tl.int64) * c.q_len
        q_at, dout_at = q + q_lane * c.head_dim, dout + q_lane * c.v_head_dim
        row_mask = load_row_mask(bounds, head_mask, head, rows_in_block, positions, c.kv_len, c)
        bias_lane = bias
        if c.has_bias:
            bias_lane += batch.to(tl.int64) * c.bias_batch_stride
            bias_lane += head.to(tl.int64) * c.bias_head_stride
        if c.has_full:
            full = find_list(full_ptr, number, full_idx, partial_id, words)
            dk_acc, dv_acc = _gather(
                dk_acc, dv_acc, k_tile, v_tile, factor, positions, row_mask, segments, q_at,
                dout_at, lse + q_lane, delta + q_lane, bias_lane, q_ids, full, False, c,
            )  # fmt: skip
        if c.has_partial:
            partial = find_list(partial_ptr, number, partial_idx, partial_id, words)
            dk_acc, dv_acc = _gather(
                dk_acc, dv_acc, k_tile, v_tile, factor, positions, row_mask, segments, q_at,
                dout_at, lse + q_lane, delta + q_lane, bias_lane, q_ids, partial, True, c,
            )  # fmt: skip
    store_tile(dk + k_at, dk_acc * scale, positions, c.kv_len, c.head_dim, c.width)
    store_tile(dv + v_at, dv_acc, positions, c.kv_len, c.v_head_dim, c.v_width)
