"""The delta kernel: what the other backward kernels need of each query, for one tile of queries."""

from __future__ import annotations

import triton
import triton.language as tl

from maskc_kernels.gpu.tiles import load_row, load_tile, store_tile

__all__ = ["delta_kernel"]


@triton.jit
def delta_kernel(
    out: tl.tensor,
    lse: tl.tensor,
    dout: tl.tensor,
    dlse: tl.tensor,
    clean_dout: tl.tensor,
    clean_lse: tl.tensor,
    delta: tl.tensor,
    c: tl.constexpr,
) -> None:
    """One tile of queries of one head.

    Queries that attend nothing depend on nothing: what the caller made of their log-sum-exp of
    -inf must not leak into sums, so their gradients become 0 here, once.

    Args:
        out: [batch, heads, q_len, v_head_dim], of the forward kernel.
        lse: float32 [batch, heads, q_len], of the forward kernel.
        dout: the gradient of `out`.
        dlse: the gradient of `lse`.
        clean_dout: `dout`, but 0 for a query that attends nothing; written.
        clean_lse: `lse`, but +inf for such a query, which gives it no weights; written.
        delta: float32 [batch, heads, q_len], sum of dout * out less dlse, or 0; written.
        c: all else.
    """
    tiles: tl.constexpr = (c.q_len + c.tile_q - 1) // c.tile_q
    lane, part = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    start = part * c.tile_q
    positions = start + tl.arange(0, c.tile_q)
    rows = lane.to(tl.int64) * c.q_len
    at = rows * c.v_head_dim
    out_tile = load_tile(out + at, start, c.tile_q, c.q_len, c.v_head_dim, c.v_width, True)
    dout_tile = load_tile(dout + at, start, c.tile_q, c.q_len, c.v_head_dim, c.v_width, True)
    out_tile, dout_tile = out_tile.to(tl.float32), dout_tile.to(tl.float32)
    lse_row = load_row(lse + rows, positions, c.q_len, 0.0, True)
    dlse_row = load_row(dlse + rows, positions, c.q_len, 0.0, True)
    empty = lse_row == float("-inf")
    delta_row = tl.where(empty, 0.0, tl.sum(dout_tile * out_tile, 1) - dlse_row)
    dout_tile = tl.where(empty[:, None], 0.0, dout_tile)
    store_tile(clean_dout + at, dout_tile, positions, c.q_len, c.v_head_dim, c.v_width)
    inside = positions < c.q_len
    tl.store(clean_lse + rows + positions, tl.where(empty, float("inf"), lse_row), mask=inside)
    tl.store(delta + rows + positions, delta_row, mask=inside)
