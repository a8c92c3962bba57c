"""Forward and backward joined into one function that JAX can differentiate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.tpu.backward import Operands, backward_dkv, backward_dq
from maskc_kernels.tpu.bits import mask_words
from maskc_kernels.tpu.config import LOG2E, KernelConfig
from maskc_kernels.tpu.forward import forward
from maskc_kernels.tpu.sizes import Sizes, whole_blocks
from maskc_kernels.tpu.worklist import work_list
from maskc_kernels.xla.backward import row_gradients

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables

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
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
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
        sm_scale: [], factor on the scores q . k; not 0 if it is differentiated.
        tables: compiled for these heads and lengths, in blocks that are multiples of 128; the
            caller has checked the former.
        logits_soft_cap: c turns a score x into `c * tanh(x / c)`.
        sinks: float32 [heads], a score per head that takes part in every query's sum and has no
            value.
        config: how to run the kernels.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp (sinks
        included) [batch, heads, q_len] in float32. A query that attends nothing has output 0,
        log-sum-exp -inf and zero gradients, sinks or not.

    Raises:
        ValueError: blocks or dtypes that the kernels do not take.
    """
    options = _Options(logits_soft_cap, config or KernelConfig())
    options.config.check(q, k, v, tables)
    return _attention(options, q, k, v, sm_scale, sinks, tables)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    options: _Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    sinks: jax.Array | None,
    tables: AttentionTables,
) -> tuple[jax.Array, jax.Array]:
    return _fwd(options, q, k, v, sm_scale, sinks, tables)[0]


def _fwd(
    options: _Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    sinks: jax.Array | None,
    tables: AttentionTables,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    sizes = Sizes.of(q, k, tables.fwd)
    out, lse = forward(
        whole_blocks(_scaled(q, sm_scale), sizes.block_q),
        whole_blocks(k, sizes.block_kv),
        whole_blocks(v, sizes.block_kv),
        jnp.asarray(tables.head_mask),
        work_list(tables.fwd, sizes.q_blocks, sizes.kv_blocks, chunk=options.config.chunk),
        mask_words(tables.fwd),
        sizes=sizes,
        config=options.config,
        soft_cap=_base2(options.soft_cap),
        sinks=None if sinks is None else sinks.astype(jnp.float32) * LOG2E,
    )
    out = out.reshape(*q.shape[:2], *out.shape[1:])[:, :, : sizes.q_len]
    lse = lse.reshape(*q.shape[:2], -1)[:, :, : sizes.q_len]
    return (out, lse), (q, k, v, sm_scale, sinks, tables, out, lse)


def _bwd(
    options: _Options, residuals: tuple[Any, ...], gradients: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    q, k, v, sm_scale, sinks, tables, out, lse = residuals
    dout, top, delta = row_gradients(out, lse, *gradients)
    scaled, rows = _scaled(q, sm_scale), jnp.concatenate([top * LOG2E, delta], axis=-1)
    config, soft_cap = options.config, _base2(options.soft_cap)
    head_mask = jnp.asarray(tables.head_mask)

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

    sizes = Sizes.of(q, k, tables.dq)
    work = work_list(tables.dq, sizes.q_blocks, sizes.kv_blocks, chunk=config.chunk)
    dq = backward_dq(
        operands(sizes), sm_scale.astype(jnp.float32)[None], head_mask, work,
        mask_words(tables.dq), sizes=sizes, config=config, soft_cap=soft_cap,
    )  # fmt: skip
    dq = dq.reshape(*q.shape[:2], -1, q.shape[3])[:, :, : sizes.q_len]

    sizes = Sizes.of(q, k, tables.dkv)
    work = work_list(tables.dkv, sizes.kv_blocks, sizes.q_blocks, chunk=config.chunk)
    dk, dv = backward_dkv(
        operands(sizes), head_mask, work, mask_words(tables.dkv, transposed=True),
        sizes=sizes, config=config, soft_cap=soft_cap,
    )  # fmt: skip
    dk, dv = (x.reshape(*k.shape[:2], -1, x.shape[-1])[:, :, : sizes.kv_len] for x in (dk, dv))
    # Scores are linear in the scale; with a cap, dq has the cap's slope in it already.
    dscale = (q.astype(jnp.float32) * dq.astype(jnp.float32)).sum() / sm_scale
    dsinks = None
    if sinks is not None:
        share = jnp.exp(sinks.astype(jnp.float32)[None, :, None, None] - top)
        dsinks = -(share * delta).sum((0, 2, 3)).astype(sinks.dtype)
    return dq, dk, dv, dscale.astype(sm_scale.dtype), dsinks, None


_attention.defvjp(_fwd, _bwd)


def _scaled(q: jax.Array, sm_scale: jax.Array) -> jax.Array:
    """Queries whose products with keys are scores to the base 2."""
    return (q.astype(jnp.float32) * (sm_scale * LOG2E)).astype(q.dtype)


def _base2(score: float | None) -> float | None:
    return None if score is None else score * LOG2E
