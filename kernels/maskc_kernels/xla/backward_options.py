"""The gradients of what is no tile: the bias, and the sinks.

A pass of its own for the bias, so that a bias that is a constant costs no gradient: XLA removes a
loop that nobody reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import accumulator
from maskc_kernels.xla.backward import RowGradients, score_gradients, take_rows
from maskc_kernels.xla.scores import BlockPlace, Scorer, bias_window, padded_bias
from maskc_kernels.xla.tiles import Tiling, divmod_index, take
from maskc_kernels.xla.visit import visit

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray
    from maskc_kernels.xla.options import Options

__all__ = ["backward_bias", "backward_sinks"]


@jax.jit
def backward_bias(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    rows: RowGradients,
    head_mask: TableArray,
    table: BlockTable,
    options: Options,
) -> jax.Array:
    """The gradient of the bias: that of the scores, summed over the axes that it broadcasts along.

    Arguments are those of `backward_dq`; `options` has a bias.

    Returns:
        The gradient, with the shape and dtype of the bias.
    """
    bias = options.bias
    assert bias is not None  # noqa: S101  # for the type checker
    table = options.shortened(table, rows="q")
    tiling = Tiling.of(q, k, table, rows="q", batch_lanes=options.batch_lanes)
    dtype = accumulator(q, k, v)
    q_tiles, k_tiles, v_tiles = tiling.cut_q(q), tiling.cut_kv(k), tiling.cut_kv(v)
    row_tiles = RowGradients(*map(tiling.cut_q, rows))
    scorer, mask_of_lane = Scorer.of(tiling, options, dtype), jnp.asarray(head_mask)

    def row(number: jax.Array, dbias: jax.Array) -> jax.Array:
        lane, q_block = divmod_index(number, tiling.nq)
        kv_lane = divmod_index(lane, tiling.members)[0]
        scaled_q = take(q_tiles, number).astype(dtype) * sm_scale.astype(dtype)
        row_tile = take_rows(row_tiles, number, dtype)

        def step(dbias: jax.Array, kv_block: jax.Array, mask: jax.Array | None) -> jax.Array:
            at, place = kv_lane * tiling.nk + kv_block, BlockPlace(lane, q_block, kv_block)
            k_tile, v_tile = take(k_tiles, at).astype(dtype), take(v_tiles, at).astype(dtype)
            scores = scorer(scaled_q, k_tile, place, mask)
            _, dscores = score_gradients(scores.values, v_tile, row_tile)
            start, size = bias_window(bias.shape, tiling, place)
            share = _summed(dscores, tiling, size)
            before = jax.lax.dynamic_slice(dbias, start, size)
            return jax.lax.dynamic_update_slice(dbias, before + share, start)

        return visit(table, tiling.listed(mask_of_lane, lane, tiling.nq, q_block), step, dbias)

    start = jax.lax.full_like(padded_bias(bias, tiling, dtype), 0)
    count = tiling.batch_lanes * tiling.q_lanes * tiling.nq
    dbias = jax.lax.fori_loop(jnp.int32(0), jnp.int32(count), row, start)
    whole: jax.Array = dbias[:, :, : bias.shape[2], : bias.shape[3]]
    return whole.astype(bias.dtype)


def _summed(dscores: jax.Array, tiling: Tiling, size: tuple[int, ...]) -> jax.Array:
    """The gradient of one block's scores as that of a window of the bias of this size."""
    in_batch, vectors, group = tiling.in_tile
    folded = dscores.reshape(in_batch, vectors * group, tiling.block_q, tiling.block_kv)
    broadcast = tuple(axis for axis in range(3) if size[axis] < folded.shape[axis])
    return folded.sum(broadcast, keepdims=True)


def backward_sinks(sinks: jax.Array, rows: RowGradients) -> jax.Array:
    """The gradient of the sinks [heads]: they take weight, and give no value for it."""
    weights = jnp.exp(sinks.astype(rows.lse.dtype)[:, None, None] - rows.lse)
    dsinks: jax.Array = -(weights * rows.delta).sum((0, 2, 3))
    return dsinks.astype(sinks.dtype)
