"""What callers of the GPU kernels see: one function, checked. Tracing it imports Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.refusals import refusal

if TYPE_CHECKING:
    from maskc_kernels.gpu.config import Tiles
    from maskc_kernels.tables import AttentionTables

__all__ = ["block_sparse_attention"]


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
    config: Tiles | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention over the non-empty blocks of a mask, on an NVIDIA GPU.

    Nothing of size q_len x kv_len is made (but the gradient of a bias that is that large), and the
    kernels are the same for every mask. Reverse mode only, in q, k, v, sm_scale, sinks and bias,
    through both outputs. Every sum is made in one order, so results repeat bit for bit.

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
        bias: [batch or 1, heads or 1, q_len or 1, kv_len], bfloat16, float16 or float32, added to
            the scores after the scale and the cap; may be -inf.
        config: tiles that replace those of the table.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp
        [batch, heads, q_len] in float32, sinks included. A query that attends nothing has output
        0, log-sum-exp -inf and no gradients, sinks or not.

    Raises:
        ValueError: what is asked is not supported; `refusal` says the same beforehand.
    """
    reason = refusal(
        q,
        k,
        v,
        tables,
        q_segment_ids=q_segment_ids,
        kv_segment_ids=kv_segment_ids,
        logits_soft_cap=logits_soft_cap,
        sinks=sinks,
        bias=bias,
        config=config,
    )
    if reason:
        raise ValueError(reason)
    from maskc_kernels.gpu.gradients import attend
    from maskc_kernels.gpu.passes import Operands

    if q_segment_ids is not None and kv_segment_ids is not None:
        # Padding of either side equals nothing of the other, so kernels only compare.
        q_segment_ids = jnp.maximum(q_segment_ids.astype(jnp.int32), -1)
        kv_ids = kv_segment_ids.astype(jnp.int32)
        kv_segment_ids = jnp.where(kv_ids < 0, -2, kv_ids)
    operands = Operands(
        q=q,
        k=k,
        v=v,
        sm_scale=sm_scale.astype(jnp.float32),
        sinks=None if sinks is None else sinks.astype(jnp.float32),
        bias=bias,
        q_segment_ids=q_segment_ids,
        kv_segment_ids=kv_segment_ids,
    )
    return attend((logits_soft_cap, config), operands, tables)
