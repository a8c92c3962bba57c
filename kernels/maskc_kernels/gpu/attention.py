"""The three kernels joined into one function that JAX can differentiate."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.config import MIN_TILE, largest_tile
from maskc_kernels.gpu.dkv import dkv_kernel
from maskc_kernels.gpu.dq import dq_kernel
from maskc_kernels.gpu.forward import forward_kernel
from maskc_kernels.gpu.launch import launch, shaped
from maskc_kernels.gpu.passes import Operands, Pass
from maskc_kernels.xla.backward import row_gradients

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables, BlockTable

__all__ = ["block_sparse_attention", "refusal"]

DTYPES = ("bfloat16", "float16", "float32")
LARGEST_HEAD_DIM = 256


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
) -> tuple[jax.Array, jax.Array]:
    """Attention over the non-empty blocks of a mask, on an NVIDIA GPU.

    Nothing of size q_len x kv_len is made, and the kernels are the same for every mask. Reverse
    mode only, in q, k, v, sm_scale and sinks, through both outputs. Every sum is made in one
    order, so results repeat bit for bit.

    Args:
        q: [batch, heads, q_len, head_dim], bfloat16, float16 or float32.
        k: [batch, kv_heads, kv_len, head_dim]; kv_heads divides heads, and query head h uses kv
            head `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores q . k.
        tables: compiled for these heads and lengths; the caller has checked that.
        q_segment_ids: int32 [batch, q_len]; a query attends only keys of its own segment, and a
            negative id is padding that attends nothing. None: no segments.
        kv_segment_ids: int32 [batch, kv_len]; both or neither.
        logits_soft_cap: if given, scaled scores become `cap * tanh(score / cap)`.
        sinks: [heads], a logit per head that takes its share of the softmax and has no value.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp
        [batch, heads, q_len] in float32, sinks included. A query that attends nothing has output
        0, zero gradients, and log-sum-exp -inf (its sink, if there are sinks).

    Raises:
        ValueError: what is asked is not supported; `refusal` says beforehand.
    """
    if reason := refusal(q, k, v, tables):
        raise ValueError(reason)
    if (q_segment_ids is None) != (kv_segment_ids is None):
        raise ValueError("segment ids: give q_segment_ids and kv_segment_ids, or neither")
    if logits_soft_cap is not None and not 0 < logits_soft_cap < math.inf:
        raise ValueError(f"logits_soft_cap: expected a number above 0, got {logits_soft_cap}")
    if q_segment_ids is not None and kv_segment_ids is not None:
        # Padding of either side equals nothing of the other, so kernels only compare.
        q_segment_ids = jnp.maximum(q_segment_ids.astype(jnp.int32), -1)
        kv_ids = kv_segment_ids.astype(jnp.int32)
        kv_segment_ids = jnp.where(kv_ids < 0, -2, kv_ids)
    sinks = None if sinks is None else sinks.astype(jnp.float32)
    scale = sm_scale.astype(jnp.float32)
    operands = Operands(q, k, v, scale, sinks, q_segment_ids, kv_segment_ids)
    return _attend(logits_soft_cap, operands, tables)


def refusal(q: jax.Array, k: jax.Array, v: jax.Array, tables: AttentionTables) -> str | None:
    """Why these kernels cannot run this, in a sentence; None if they can."""
    dtypes = {x.dtype.name for x in (q, k, v)}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        return (
            f"q, k, v: the GPU kernels take one dtype of {', '.join(DTYPES)}, got "
            f"{', '.join(sorted(dtypes))}"
        )
    for name, array in (("q", q), ("v", v)):
        if not 0 < array.shape[-1] <= LARGEST_HEAD_DIM:
            return (
                f"{name}: the GPU kernels take head dimensions 1 to {LARGEST_HEAD_DIM}, got "
                f"shape {array.shape}"
            )
    if not all(x.size for x in (q, k, v)):
        return f"q, k, v: nothing to compute for shapes {q.shape}, {k.shape}, {v.shape}"
    for name in ("fwd", "dq", "dkv"):
        table: BlockTable = getattr(tables, name)
        for side, block in (("block_q", table.block_q), ("block_kv", table.block_kv)):
            if largest_tile(block) < MIN_TILE:
                return (
                    f"plan: the GPU kernels need blocks that are multiples of {MIN_TILE}, got "
                    f"{side} {block} in the {name} pass; compile the plan with other blocks"
                )
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    soft_cap: float | None, operands: Operands, tables: AttentionTables
) -> tuple[jax.Array, jax.Array]:
    return _fwd(soft_cap, operands, tables)[0]


def _fwd(
    soft_cap: float | None, operands: Operands, tables: AttentionTables
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    q, v = operands.q, operands.v
    call = Pass.of(operands, tables.fwd, "fwd", soft_cap)
    out_type = (
        shaped((*q.shape[:-1], v.shape[-1]), q.dtype),
        shaped(q.shape[:-1], jnp.float32),
    )
    constants = {"has_sinks": operands.sinks is not None}
    extra = (operands.sinks,)
    out, lse = launch(call.launch(forward_kernel, tables, extra, out_type, constants))
    return (out, lse), (operands, tables, out, lse)


def _bwd(
    soft_cap: float | None,
    residuals: tuple[Any, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[Operands, None]:
    operands, tables, out, lse = residuals
    q, k, v, _, sinks, *_ = operands
    rows = row_gradients(out, lse, *gradients)
    lse, delta = rows.lse[..., 0], rows.delta[..., 0]
    extra = (rows.dout, lse, delta)

    call = Pass.of(operands, tables.dq, "dq", soft_cap)
    out_type = (
        shaped(q.shape, q.dtype),
        shaped(q.shape[:-1], jnp.float32),
    )
    dq, dscale = launch(call.launch(dq_kernel, tables, extra, out_type))

    call = Pass.of(operands, tables.dkv, "dkv", soft_cap)
    out_type = (shaped(k.shape, k.dtype), shaped(v.shape, v.dtype))
    constants = {"block_rows": call.lists.words.shape[-2]}
    dk, dv = launch(call.launch(dkv_kernel, tables, extra, out_type, constants))

    dsinks = None
    if sinks is not None:
        share = jnp.exp(sinks[None, :, None] - lse)
        dsinks = -(share * delta).sum((0, 2))
    return Operands(dq, dk, dv, dscale.sum(), dsinks, None, None), None


_attend.defvjp(_fwd, _bwd)
