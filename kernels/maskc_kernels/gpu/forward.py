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
    find_list,
    find_step,
    find_tile,
    keep_tile,
    list_number,
    load_bias,
    load_row,
    load_row_mask,
    load_tile,
    store_tile,
)

__all__ = ["forward_kernel"]

LOWEST = tl.constexpr(-3.4028234663852886e38)
"""The lowest float32 that is finite."""


@triton.jit
def _absorb(
    acc: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    q_tile: tl.tensor,
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
    """Take the blocks of one list into the softmax that is under way."""
    per_block: tl.constexpr = c.block_kv // c.tile_kv
    ragged: tl.constexpr = masked and c.kv_ragged
    for step in tl.range(blocks[0] * per_block, blocks[1] * per_block):
        entry, inside, first = find_step(blocks, step, c.block_kv, c.tile_kv)
        k_tile = load_tile(k, first, c.tile_kv, c.kv_len, c.head_dim, c.width, ragged)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=c.precision)
        if c.soft_cap is not None:
            scores = capped(scores, factor, c.soft_cap)
            step_factor = 1.0
        elif c.has_bias:
            scores *= factor
            step_factor = 1.0
        else:
            step_factor = factor
        if c.has_bias:
            columns = first + tl.arange(0, c.tile_kv)
            scores += load_bias(
                bias, positions[:, None], columns[None, :], masked and c.ragged, c
            )  # fmt: skip
        if masked:
            keep = keep_tile(
                blocks, entry, inside, first, row_mask, segments, kv_segment_ids, c.kv_len, -2,
                ragged, c.tile_kv, c,
            )  # fmt: skip
            scores = tl.where(keep, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * step_factor)
        weights = tl.exp2(scores * step_factor - new_top[:, None])
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(weights, 1)
        v_tile = load_tile(v, first, c.tile_kv, c.kv_len, c.v_head_dim, c.v_width, ragged)
        acc = tl.dot(
            weights.to(v_tile.dtype), v_tile, acc * decay[:, None], input_precision=c.precision
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
    c: tl.constexpr,
) -> None:
    """One tile of queries of one head.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: float32 [], any sign.
        sinks: float32 [heads], or anything without `c.has_sinks`.
        bias: of the strides given, in elements; or anything without `c.has_bias`.
        q_segment_ids: int32 [batch, q_len], padding -1; or anything without `c.has_segments`.
        kv_segment_ids: int32 [batch, kv_len], padding -2; or anything.
        head_mask: int32 [heads].
        order: and all up to `words`, as `RowLists` has them.
        out: [batch, heads, q_len, v_head_dim], written.
        lse: float32 [batch, heads, q_len], written.
        c: all else.
    """
    lane, row, part = find_tile(order, head_mask, c.heads, 1, c.block_q // c.tile_q, c)
    batch, head = lane // c.heads, lane % c.heads
    wide_lane, kv_lane = lane.to(tl.int64), (batch * c.kv_heads + head // c.group).to(tl.int64)
    rows_in_block = part * c.tile_q + tl.arange(0, c.tile_q)
    start = row * c.block_q + part * c.tile_q
    positions = row * c.block_q + rows_in_block
    q_lane = q + wide_lane * (c.q_len * c.head_dim)
    q_tile = load_tile(q_lane, start, c.tile_q, c.q_len, c.head_dim, c.width, c.q_ragged)
    # The largest score is looked for before scaling, so the factor must be positive: a sign goes
    # to q, and 0 becomes the smallest number whose product with -inf is no NaN.
    scale = tl.load(sm_scale)
    q_tile = (q_tile.to(tl.float32) * tl.where(scale < 0, -1.0, 1.0)).to(q_tile.dtype)
    factor = tl.maximum(tl.abs(scale), 1e-37) * LOG2E

    acc = tl.zeros([c.tile_q, c.v_width], tl.float32)
    # Not -inf: a row with no score yet would take -inf from -inf.
    top = tl.full([c.tile_q], LOWEST, tl.float32)
    total = tl.zeros([c.tile_q], tl.float32)
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
    full = find_list(full_ptr, number, full_idx, partial_id, words)
    partial = find_list(partial_ptr, number, partial_idx, partial_id, words)
    # With a loop that may not run at all ptxas serialises the products (C7515); a branch helps.
    if c.has_full and full[0] < full[1]:
        acc, top, total = _absorb(
            acc, top, total, q_tile, factor, positions, row_mask, segments, k_lane, v_lane,
            bias_lane, kv_ids, full, False, c,
        )  # fmt: skip
    if c.has_partial and partial[0] < partial[1]:
        acc, top, total = _absorb(
            acc, top, total, q_tile, factor, positions, row_mask, segments, k_lane, v_lane,
            bias_lane, kv_ids, partial, True, c,
        )  # fmt: skip
    empty = total == 0
    if c.has_sinks:
        # Behind the loops, where it is known whether a row attends anything beside its sink.
        sink = tl.load(sinks + head) * LOG2E
        new_top = tl.where(empty, 0.0, tl.maximum(top, sink))
        decay = tl.exp2(top - new_top)
        acc *= decay[:, None]
        total = tl.where(empty, 0.0, total * decay + tl.exp2(sink - new_top))
        top = new_top
    total = tl.where(empty, 1.0, total)
    out_lane = out + wide_lane * (c.q_len * c.v_head_dim)
    store_tile(out_lane, acc / total[:, None], positions, c.q_len, c.v_head_dim, c.v_width)
    summed = tl.where(empty, float("-inf"), (top + tl.log2(total)) / LOG2E)
    tl.store(lse + wide_lane * c.q_len + positions, summed, mask=positions < c.q_len)
