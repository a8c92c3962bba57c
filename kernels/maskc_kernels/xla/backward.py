"""The backward passes: dq over rows of q blocks, dk and dv over rows of kv blocks.

Each gradient is written once by the row that owns it, so nothing is added up in an order that
depends on the machine, and no loop is differentiated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import accumulator
from maskc_kernels.xla.options import NO_OPTIONS, Options
from maskc_kernels.xla.scores import BlockPlace, Scorer
from maskc_kernels.xla.tiles import Tiling, divmod_index, dot, take
from maskc_kernels.xla.visit import visit

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray

__all__ = [
    "RowGradients",
    "backward_dkv",
    "backward_dq",
    "row_gradients",
    "score_gradients",
    "take_rows",
]


class RowGradients(NamedTuple):
    """What both backward passes need of every query, besides q, k and v.

    Attributes:
        dout: [batch, heads, q_len, v_head_dim], gradient of the output.
        lse: [batch, heads, q_len, 1], log-sum-exp; +inf for a query that attends nothing, so that
            every weight exp(score - lse) of such a query is 0 and never NaN.
        delta: [batch, heads, q_len, 1], sum of dout * out, less the gradient of lse.
    """

    dout: jax.Array
    lse: jax.Array
    delta: jax.Array


def row_gradients(out: jax.Array, lse: jax.Array, dout: jax.Array, dlse: jax.Array) -> RowGradients:
    """Gather the rows' part of the backward pass.

    Args:
        out: [batch, heads, q_len, v_head_dim], the output of the forward pass.
        lse: [batch, heads, q_len], its log-sum-exp.
        dout: the gradient of `out`.
        dlse: the gradient of `lse`.
    """
    empty = lse == -jnp.inf
    products = dout.astype(lse.dtype) * out.astype(lse.dtype)
    # Empty rows do not depend on anything; what the caller made of their -inf must not leak.
    # Selected directly: a `where` is a function of its own in the program, which shall be short.
    delta = products.sum(-1) - dlse
    delta = jax.lax.select(empty, jnp.zeros_like(delta), delta)
    nowhere = jnp.broadcast_to(empty[..., None], dout.shape)
    dout = jax.lax.select(nowhere, jnp.zeros_like(dout), dout)
    top = jax.lax.select(empty, jnp.full_like(lse, jnp.inf), lse)
    return RowGradients(dout, top[..., None], delta[..., None])


@jax.jit
def backward_dq(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    rows: RowGradients,
    head_mask: TableArray,
    table: BlockTable,
    options: Options = NO_OPTIONS,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of q and of sm_scale.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores.
        rows: from `row_gradients`.
        head_mask: int32 [heads], which unique mask each head uses.
        table: lists of the dq pass; rows are q blocks.
        options: of the call.

    Returns:
        dq [batch, heads, q_len, head_dim] in q's dtype and the gradient of sm_scale [].
    """
    table = options.shortened(table, rows="q")
    tiling = Tiling.of(q, k, table, rows="q", batch_lanes=options.batch_lanes)
    dtype = accumulator(q, k, v)
    q_tiles, k_tiles, v_tiles = tiling.cut_q(q), tiling.cut_kv(k), tiling.cut_kv(v)
    row_tiles = RowGradients(*map(tiling.cut_q, rows))
    scorer = Scorer.of(tiling, options, dtype)
    mask_of_lane, scale = jnp.asarray(head_mask), sm_scale.astype(dtype)

    def row(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        lane, q_block = divmod_index(number, tiling.nq)
        kv_lane = divmod_index(lane, tiling.members)[0]
        q_tile = take(q_tiles, number).astype(dtype)
        row_tile = take_rows(row_tiles, number, dtype)

        def step(dq: jax.Array, kv_block: jax.Array, mask: jax.Array | None) -> jax.Array:
            at = kv_lane * tiling.nk + kv_block
            k_tile, v_tile = take(k_tiles, at).astype(dtype), take(v_tiles, at).astype(dtype)
            scores = scorer(q_tile * scale, k_tile, BlockPlace(lane, q_block, kv_block), mask)
            _, dscores = score_gradients(scores.values, v_tile, row_tile)
            return dq + dot(scores.before_cap(dscores), k_tile, (2, 1))

        listed = tiling.listed(mask_of_lane, lane, tiling.nq, q_block)
        dq = visit(table, listed, step, jnp.zeros_like(q_tile))
        return (dq * scale).astype(q.dtype), jnp.vdot(q_tile, dq)

    numbers = jnp.arange(tiling.batch_lanes * tiling.q_lanes * tiling.nq, dtype=jnp.int32)
    dq, dscale = jax.lax.map(row, numbers)
    return tiling.join_q(dq), dscale.sum().astype(sm_scale.dtype)


@jax.jit
def backward_dkv(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    rows: RowGradients,
    head_mask: TableArray,
    table: BlockTable,
    options: Options = NO_OPTIONS,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of k and v, summed over the query heads that share a kv head.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores.
        rows: from `row_gradients`.
        head_mask: int32 [heads], which unique mask each head uses.
        table: lists of the dkv pass; rows are kv blocks.
        options: of the call.

    Returns:
        dk and dv, each with the shape and dtype of k and v.
    """
    table = options.shortened(table, rows="kv")
    tiling = Tiling.of(q, k, table, rows="kv", batch_lanes=options.batch_lanes)
    dtype = accumulator(q, k, v)
    q_tiles, k_tiles, v_tiles = tiling.cut_q(q), tiling.cut_kv(k), tiling.cut_kv(v)
    row_tiles = RowGradients(*map(tiling.cut_q, rows))
    scorer = Scorer.of(tiling, options, dtype)
    mask_of_lane, scale = jnp.asarray(head_mask), sm_scale.astype(dtype)

    def row(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        kv_lane, kv_block = divmod_index(number, tiling.nk)
        k_tile, v_tile = take(k_tiles, number).astype(dtype), take(v_tiles, number).astype(dtype)

        def member(index: jax.Array, carry: _Dkv) -> _Dkv:
            lane = kv_lane * tiling.members + index

            def step(carry: _Dkv, q_block: jax.Array, mask: jax.Array | None) -> _Dkv:
                at = lane * tiling.nq + q_block
                scaled_q = take(q_tiles, at).astype(dtype) * scale
                row_tile = take_rows(row_tiles, at, dtype)
                scores = scorer(scaled_q, k_tile, BlockPlace(lane, q_block, kv_block), mask)
                weights, dscores = score_gradients(scores.values, v_tile, row_tile)
                dk, dv = carry
                dk += dot(scores.before_cap(dscores), scaled_q, (1, 1))
                return dk, dv + dot(weights, row_tile.dout, (1, 1))

            listed = tiling.listed(mask_of_lane, lane, tiling.nk, kv_block)
            return visit(table, listed, step, carry)

        start = jnp.zeros_like(k_tile), jnp.zeros_like(v_tile)
        dk, dv = jax.lax.fori_loop(jnp.int32(0), jnp.int32(tiling.members), member, start)
        return dk.astype(k.dtype), dv.astype(v.dtype)

    numbers = jnp.arange(tiling.batch_lanes * tiling.kv_lanes * tiling.nk, dtype=jnp.int32)
    dk, dv = jax.lax.map(row, numbers)
    return tiling.join_kv(dk), tiling.join_kv(dv)


_Dkv = tuple[jax.Array, jax.Array]


def score_gradients(
    scores: jax.Array, v_tile: jax.Array, rows: RowGradients
) -> tuple[jax.Array, jax.Array]:
    """The softmax weights of one block, and the gradient of its scores."""
    weights = jnp.exp(scores - rows.lse)
    return weights, weights * (dot(rows.dout, v_tile, (2, 2)) - rows.delta)


def take_rows(rows: RowGradients, at: jax.Array, dtype: jax.typing.DTypeLike) -> RowGradients:
    """The rows' part of one q tile."""
    return RowGradients(*(take(tiles, at).astype(dtype) for tiles in rows))
