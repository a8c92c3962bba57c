"""The forward pass: an online softmax over the blocks of every row of q blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import accumulator
from maskc_kernels.xla.options import NO_OPTIONS, Options
from maskc_kernels.xla.scores import BlockPlace, Scorer, sink_tile
from maskc_kernels.xla.tiles import Tiling, divmod_index, dot, take
from maskc_kernels.xla.visit import visit

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray

__all__ = ["forward"]


class _Softmax(NamedTuple):
    """A softmax under way over one q tile.

    Attributes:
        out: [vectors, rows, v_head_dim], the weighted sum of values, not yet divided.
        top: [vectors, rows, 1], the largest score so far; -inf before the first.
        total: [vectors, rows, 1], the sum of weights.
    """

    out: jax.Array
    top: jax.Array
    total: jax.Array


@jax.jit
def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    head_mask: TableArray,
    table: BlockTable,
    options: Options = NO_OPTIONS,
) -> tuple[jax.Array, jax.Array]:
    """Attention over the blocks of `table`, and its log-sum-exp.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores.
        head_mask: int32 [heads], which unique mask each head uses.
        table: lists of the forward pass, compiled for these lengths.
        options: of the call.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp
        [batch, heads, q_len] in float32 (float64 for float64 inputs). A query that attends
        nothing has output 0 and log-sum-exp -inf.
    """
    table = options.shortened(table, rows="q")
    tiling = Tiling.of(q, k, table, rows="q", batch_lanes=options.batch_lanes)
    dtype = accumulator(q, k, v)
    q_tiles, k_tiles, v_tiles = tiling.cut_q(q), tiling.cut_kv(k), tiling.cut_kv(v)
    scorer, mask_of_lane = Scorer.of(tiling, options, dtype), jnp.asarray(head_mask)

    def row(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        lane, q_block = divmod_index(number, tiling.nq)
        kv_lane = divmod_index(lane, tiling.members)[0]
        scaled_q = take(q_tiles, number).astype(dtype) * sm_scale.astype(dtype)

        def step(state: _Softmax, kv_block: jax.Array, mask: jax.Array | None) -> _Softmax:
            at = kv_lane * tiling.nk + kv_block
            k_tile, v_tile = take(k_tiles, at).astype(dtype), take(v_tiles, at).astype(dtype)
            scores = scorer(scaled_q, k_tile, BlockPlace(lane, q_block, kv_block), mask)
            return _absorb(state, scores.values, v_tile)

        listed = tiling.listed(mask_of_lane, lane, tiling.nq, q_block)
        state = visit(table, listed, step, _start(scaled_q, v.shape[-1]))
        if options.sinks is not None:
            state = _with_sink(state, sink_tile(options.sinks.astype(dtype), tiling, lane))
        out, lse = _finish(state)
        return out.astype(q.dtype), lse

    numbers = jnp.arange(tiling.batch_lanes * tiling.q_lanes * tiling.nq, dtype=jnp.int32)
    out, lse = jax.lax.map(row, numbers)
    return tiling.join_q(out), tiling.join_q(lse)[..., 0]


def _start(q_tile: jax.Array, v_head_dim: int) -> _Softmax:
    shape = q_tile.shape[:2]
    # Like an input, so that they vary over the axes of a shard_map that the input varies over.
    return _Softmax(
        out=jax.lax.full_like(q_tile, 0, shape=(*shape, v_head_dim)),
        top=jax.lax.full_like(q_tile, -jnp.inf, shape=(*shape, 1)),
        total=jax.lax.full_like(q_tile, 0, shape=(*shape, 1)),
    )


def _absorb(state: _Softmax, scores: jax.Array, v_tile: jax.Array) -> _Softmax:
    top = jnp.maximum(state.top, scores.max(-1, keepdims=True))
    # A row with no score yet has top -inf, and -inf - -inf would be NaN.
    shift = jnp.where(top == -jnp.inf, 0, top)
    weights = jnp.exp(scores - shift)
    decay = jnp.exp(state.top - shift)
    return _Softmax(
        out=state.out * decay + dot(weights, v_tile, (2, 1)),
        top=top,
        total=state.total * decay + weights.sum(-1, keepdims=True),
    )


def _with_sink(state: _Softmax, sink: jax.Array) -> _Softmax:
    """The sink takes its weight in every row that attends something."""
    top = jnp.maximum(state.top, sink)
    shift = jnp.where(top == -jnp.inf, 0, top)
    decay = jnp.exp(state.top - shift)
    total = state.total * decay + jnp.exp(sink - shift)
    return _Softmax(state.out * decay, top, jnp.where(state.total == 0, 0, total))


def _finish(state: _Softmax) -> tuple[jax.Array, jax.Array]:
    empty = state.total == 0
    total = jnp.where(empty, 1, state.total)
    return state.out / total, jnp.where(empty, -jnp.inf, state.top + jnp.log(total))
