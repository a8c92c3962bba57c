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
    find_list,
    find_step,
    keep_tile,
    list_number,
    load_row,
    load_row_mask,
    load_tile,
    weigh,
)

__all__ = ["dbias_kernel"]


@triton.jit
def _clear(dbias: tl.tensor, positions: tl.tensor, c: tl.constexpr) -> None:
    """Zeros for all queries: blocks that are not listed are never written again."""
    kv_at = positions[:, None]
    for first in tl.range(0, c.q_len, c.tile_q):
        q_at = (first + tl.arange(0, c.tile_q))[None, :]
        at = dbias + q_at.to(tl.int64) * c.kv_len + kv_at
        zeros = tl.zeros([positions.shape[0], c.tile_q], tl.float32)
        tl.store(at, zeros, mask=(q_at < c.q_len) & (kv_at < c.kv_len))


@triton.jit
def _gather(
    acc: tl.tensor,
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
    dbias: tl.tensor,
    q_segment_ids: tl.tensor,
    blocks: tl.tuple,
    masked: tl.constexpr,
    c: tl.constexpr,
) -> Any:
    """Add what the blocks of one list give, to `acc` or, if every query has its bias, in memory."""
    per_block: tl.constexpr = c.block_q // c.tile_q
    ragged: tl.constexpr = masked and c.q_ragged
    for step in tl.range(blocks[0] * per_block, blocks[1] * per_block):
        entry, inside, first = find_step(blocks, step, c.block_q, c.tile_q)
        columns = first + tl.arange(0, c.tile_q)
        q_at, kv_at = columns[None, :], positions[:, None]
        q_tile = load_tile(q, first, c.tile_q, c.q_len, c.head_dim, c.width, ragged)
        dout_tile = load_tile(dout, first, c.tile_q, c.q_len, c.v_head_dim, c.v_width, ragged)
        lse2 = load_row(lse, columns, c.q_len, float("inf"), ragged) * LOG2E
        delta_row = load_row(delta, columns, c.q_len, 0.0, ragged)
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=c.precision)
        weights, _ = weigh(scores, factor, lse2[None, :], bias, q_at, kv_at, masked, c)
        if masked:
            keep = keep_tile(
                blocks, entry, inside, first, row_mask, segments, q_segment_ids, c.q_len, -1,
                ragged, c.tile_q, c,
            )  # fmt: skip
            weights = tl.where(keep, weights, 0.0)
        dweights = tl.dot(v_tile, tl.trans(dout_tile), input_precision=c.precision)
        dscores = weights * (dweights - delta_row[None, :])
        if c.bias_row_stride == 0:
            acc += tl.sum(dscores, 1)
        else:
            at = dbias + q_at.to(tl.int64) * c.kv_len + kv_at
            within = (q_at < c.q_len) & (kv_at < c.kv_len)
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
    c: tl.constexpr,
) -> None:
    """One tile of keys of one lane of the bias.

    Args:
        q: and all up to `words`, as `dkv_kernel` has them; `order` is not read.
        dbias: float32 in the shape of the bias, written.
    """
    per_row: tl.constexpr = c.block_kv // c.tile_kv
    program = tl.program_id(0)
    lane, place = program // (c.rows * per_row), program % (c.rows * per_row)
    row, part = place // per_row, place % per_row
    rows_in_block = part * c.tile_kv + tl.arange(0, c.tile_kv)
    start = row * c.block_kv + part * c.tile_kv
    positions = row * c.block_kv + rows_in_block
    factor = tl.load(sm_scale) * LOG2E
    lane_size: tl.constexpr = c.kv_len if c.bias_row_stride == 0 else c.q_len * c.kv_len
    dbias_lane = dbias + lane.to(tl.int64) * lane_size
    if c.bias_row_stride != 0:
        _clear(dbias_lane, positions, c)
    acc = tl.zeros([c.tile_kv], tl.float32)
    for member in range(c.sharing_batches * c.sharing_heads):
        batch = lane // c.bias_heads + member // c.sharing_heads
        head = lane % c.bias_heads + member % c.sharing_heads
        kv_lane = (batch * c.kv_heads + head // c.group).to(tl.int64)
        k_at, v_at = kv_lane * (c.kv_len * c.head_dim), kv_lane * (c.kv_len * c.v_head_dim)
        k_tile = load_tile(k + k_at, start, c.tile_kv, c.kv_len, c.head_dim, c.width, c.kv_ragged)
        v_tile = load_tile(
            v + v_at, start, c.tile_kv, c.kv_len, c.v_head_dim, c.v_width, c.kv_ragged
        )
        segments, q_ids = rows_in_block, q_segment_ids
        if c.has_segments:
            segments = load_row(kv_segment_ids + batch * c.kv_len, positions, c.kv_len, -2, True)
            q_ids = q_segment_ids + batch * c.q_len
        number = list_number(head_mask, batch, head, row, c)
        q_lane = (batch * c.heads + head).to(tl.int64) * c.q_len
        q_at, dout_at = q + q_lane * c.head_dim, dout + q_lane * c.v_head_dim
        row_mask = load_row_mask(bounds, head_mask, head, rows_in_block, positions, c.kv_len, c)
        bias_lane = bias + batch.to(tl.int64) * c.bias_batch_stride
        bias_lane += head.to(tl.int64) * c.bias_head_stride
        if c.bias_row_stride != 0:
            tl.debug_barrier()  # what other threads have written is read
        if c.has_full:
            full = find_list(full_ptr, number, full_idx, partial_id, words)
            acc = _gather(
                acc, k_tile, v_tile, factor, positions, row_mask, segments, q_at, dout_at,
                lse + q_lane, delta + q_lane, bias_lane, dbias_lane, q_ids, full, False, c,
            )  # fmt: skip
        if c.has_partial:
            partial = find_list(partial_ptr, number, partial_idx, partial_id, words)
            acc = _gather(
                acc, k_tile, v_tile, factor, positions, row_mask, segments, q_at, dout_at,
                lse + q_lane, delta + q_lane, bias_lane, dbias_lane, q_ids, partial, True, c,
            )  # fmt: skip
    if c.bias_row_stride == 0:
        tl.store(dbias_lane + positions, acc, mask=positions < c.kv_len)
