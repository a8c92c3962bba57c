"""Forward and backward joined into one function that JAX can differentiate."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.tpu.backward import Operands, backward_dkv, backward_dq
from maskc_kernels.tpu.bits import mask_words
from maskc_kernels.tpu.bounds import row_bounds
from maskc_kernels.tpu.config import LOG2E, KernelConfig
from maskc_kernels.tpu.forward import forward
from maskc_kernels.tpu.limits import refusal
from maskc_kernels.tpu.paths import Paths
from maskc_kernels.tpu.segments import Segments
from maskc_kernels.tpu.sizes import Sizes, whole_blocks
from maskc_kernels.tpu.worklist import WorkList, work_list
from maskc_kernels.xla.backward import row_gradients

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables, BlockTable
    from maskc_kernels.tpu.bounds import Partial

__all__ = ["block_sparse_attention"]


class _Options(NamedTuple):
    """Static options."""

    soft_cap: float | None
    config: KernelConfig


def block_sparse_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    tables: AttentionTables,
    *,
    q_segment_ids: jax.Array | None = None,
    kv_segment_ids: jax.Array | None = None,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    bias: jax.Array | None = None,
    config: KernelConfig | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention over the non-empty blocks of a mask, on TPUs.

    Nothing of size q_len x kv_len is made, and the program is the same for every mask. Reverse
    mode only, in q, k, v, sm_scale and sinks, through both outputs.

    Args:
        q: [batch, heads, q_len, head_dim], bfloat16 or float32.
        k: [batch, kv_heads, kv_len, head_dim]; kv_heads divides heads, and query head h uses kv
            head `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores q . k.
        tables: compiled for these heads and lengths, in blocks that are multiples of 128; the
            caller has checked the former.
        q_segment_ids: int32 [batch, q_len]. A query attends keys of its own id only; a negative
            id is padding, which attends nothing. Blocks whose ids do not meet are skipped.
        kv_segment_ids: int32 [batch, kv_len]; both or neither.
        logits_soft_cap: c turns a score x into `c * tanh(x / c)`.
        sinks: float32 [heads], a score per head that takes part in every query's sum and has no
            value.
        bias: must be None; the kernels add none.
        config: how to run the kernels.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp (sinks
        included) [batch, heads, q_len] in float32. A query that attends nothing has output 0,
        log-sum-exp -inf and zero gradients, sinks or not.

    Raises:
        ValueError: what `refusal` says, or ids of one side only.
    """
    if reason := refusal(q, k, v, tables, bias=bias):
        raise ValueError(reason)
    if (q_segment_ids is None) != (kv_segment_ids is None):
        raise ValueError("segment ids: q_segment_ids and kv_segment_ids go together, got one")
    ids = None
    if q_segment_ids is not None and kv_segment_ids is not None:
        ids = q_segment_ids, kv_segment_ids
    options = _Options(logits_soft_cap, config or KernelConfig())
    return _attention(options, q, k, v, sm_scale, sinks, tables, ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(options: _Options, *operands: Any) -> tuple[jax.Array, jax.Array]:
    """The operands are q, k, v, sm_scale, sinks, tables and the ids of both sides."""
    return _fwd(options, *operands)[0]


def _fwd(
    options: _Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    sinks: jax.Array | None,
    tables: AttentionTables,
    ids: tuple[jax.Array, jax.Array] | None,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    sizes = Sizes.of(q, k, tables.fwd)
    segments = _segments(ids, sizes)
    paths = None
    if segments is None:  # whose blocks may be cut besides, which would be as many paths again
        paths = Paths.of(options.config.order.parts, sizes.block_q, sizes.block_kv)
    out, lse = forward(
        whole_blocks(_scaled(q, sm_scale), sizes.block_q),
        whole_blocks(k, sizes.block_kv),
        whole_blocks(v, sizes.block_kv),
        jnp.asarray(tables.head_mask),
        *_by_queries(tables.fwd, tables, sizes, segments, options.config, paths),
        sizes=sizes,
        config=options.config,
        soft_cap=_base2(options.soft_cap),
        sinks=None if sinks is None else sinks.astype(jnp.float32) * LOG2E,
        segments=segments,
    )
    out = out.reshape(*q.shape[:2], *out.shape[1:])[:, :, : sizes.q_len]
    lse = lse.reshape(*q.shape[:2], -1)[:, :, : sizes.q_len]
    return (out, lse), (q, k, v, sm_scale, sinks, tables, ids, out, lse)


def _bwd(
    options: _Options, residuals: tuple[Any, ...], gradients: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    q, k, v, sm_scale, sinks, tables, ids, out, lse = residuals
    dout, top, delta = row_gradients(out, lse, *gradients)
    scaled, rows = _scaled(q, sm_scale), jnp.concatenate([top * LOG2E, delta], axis=-1)
    config, soft_cap = options.config, _base2(options.soft_cap)
    head_mask = jnp.asarray(tables.head_mask)

    @functools.cache  # passes in the same blocks have the same
    def operands(sizes: Sizes) -> Operands:
        bq, bkv = sizes.block_q, sizes.block_kv
        return Operands(
            whole_blocks(scaled, bq),
            whole_blocks(k, bkv),
            whole_blocks(v, bkv),
            whole_blocks(dout.astype(q.dtype), bq),
            # +inf makes every weight of a query that is not there 0.
            whole_blocks(rows, bq, fill=jnp.inf).at[:, sizes.q_len :, 1].set(0).mT,
        )

    # The scale's gradient is sum(q * dq) / scale, so dq must hold another factor than 0.
    factor = jax.lax.select(sm_scale == 0, jnp.ones_like(sm_scale), sm_scale).astype(jnp.float32)
    fused = config.fused_backward
    if fused is None:
        fused = _fused_by_default(tables)
    segments_of = functools.cache(functools.partial(_segments, ids))
    sizes = Sizes.of(q, k, tables.dkv)
    segments = segments_of(sizes)
    dk, dv, *dqs = backward_dkv(
        operands(sizes), head_mask, *_by_keys(tables, sizes, segments, config),
        sizes=sizes, config=config, soft_cap=soft_cap, segments=segments, with_dq=fused,
    )  # fmt: skip
    dk, dv = (x.reshape(*k.shape[:2], -1, x.shape[-1])[:, :, : sizes.kv_len] for x in (dk, dv))
    if fused:
        dq = (dqs[0] * factor).astype(q.dtype)
    else:
        sizes = Sizes.of(q, k, tables.dq)
        segments = segments_of(sizes)
        dq = backward_dq(
            operands(sizes), factor[None], head_mask,
            *_by_queries(tables.dq, tables, sizes, segments, config),
            sizes=sizes, config=config, soft_cap=soft_cap, segments=segments,
        )  # fmt: skip
    dq = dq.reshape(*q.shape[:2], -1, q.shape[3])[:, :, : sizes.q_len]
    # Scores are linear in the scale; with a cap, dq has the cap's slope in it already.
    dscale = (q.astype(jnp.float32) * dq.astype(jnp.float32)).sum() / factor
    dq = jax.lax.cond(sm_scale == 0, jnp.zeros_like, lambda dq: dq, dq)
    dsinks = None
    if sinks is not None:
        share = jnp.exp(sinks.astype(jnp.float32)[None, :, None, None] - top)
        dsinks = -(share * delta).sum((0, 2, 3)).astype(sinks.dtype)
    return dq, dk, dv, dscale.astype(sm_scale.dtype), dsinks, None, None


_attention.defvjp(_fwd, _bwd)


def _fused_by_default(tables: AttentionTables) -> bool:
    """Is one kernel for all gradients faster, by the model of docs/tpu.md?"""
    blocks = [(table.block_q, table.block_kv) for table in (tables.dq, tables.dkv)]
    block_q, block_kv = blocks[1]
    # The traffic of dq's sums goes with block_q, the work that it hides behind with block_kv too.
    return blocks[0] == blocks[1] and (block_kv >= 256 or block_q <= 256)


def _segments(ids: tuple[jax.Array, jax.Array] | None, sizes: Sizes) -> Segments | None:
    return None if ids is None else Segments.of(*ids, sizes.block_q, sizes.block_kv)


def _by_queries(
    table: BlockTable,
    tables: AttentionTables,
    sizes: Sizes,
    segments: Segments | None,
    config: KernelConfig,
    paths: Paths | None = None,
) -> tuple[WorkList, Partial]:
    """The list whose rows are blocks of queries, and what its partial blocks apply."""
    ids = None if segments is None else (segments.q_blocks, segments.kv_blocks)
    bounds = row_bounds(tables.q_bounds, jnp.asarray(tables.head_mask), sizes.block_q)
    numbers, tiles = table.partial_id, 0
    if paths is not None and bounds is None and table.partial_blocks.shape[0]:
        numbers, tiles = paths.numbers(table), paths.tiles
    work = work_list(
        dataclasses.replace(table, partial_id=numbers),
        rows=sizes.q_blocks, cols=sizes.kv_blocks, chunk=config.chunk, ids=ids,
        numbered=bounds is None, tiles=tiles,
    )  # fmt: skip
    return work, mask_words(table) if bounds is None else bounds


def _by_keys(
    tables: AttentionTables, sizes: Sizes, segments: Segments | None, config: KernelConfig
) -> tuple[WorkList, Partial]:
    """The list whose rows are blocks of keys, and what its partial blocks apply."""
    ids = None if segments is None else (segments.kv_blocks, segments.q_blocks)
    bounds = row_bounds(tables.kv_bounds, jnp.asarray(tables.head_mask), sizes.block_kv)
    work = work_list(
        tables.dkv, rows=sizes.kv_blocks, cols=sizes.q_blocks, chunk=config.chunk, ids=ids,
        numbered=bounds is None,
    )  # fmt: skip
    return work, mask_words(tables.dkv, transposed=True) if bounds is None else bounds


def _scaled(q: jax.Array, sm_scale: jax.Array) -> jax.Array:
    """Queries whose products with keys are scores to the base 2."""
    return (q.astype(jnp.float32) * (sm_scale * LOG2E)).astype(q.dtype)


def _base2(score: float | None) -> float | None:
    return None if score is None else score * LOG2E
