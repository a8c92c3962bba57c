"""Attention under a dense mask, in a few lines: what every kernel here computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import accumulator

__all__ = ["dense_attention"]


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    sm_scale: float | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention under a dense boolean mask: the definition that the kernels are held to.

    It makes every [q_len, kv_len] score, so it is for reading, tests and short lengths.
    Differentiable by JAX in q, k, v and sm_scale. A query that may attend nothing gets output 0,
    lse -inf and zero gradients.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim]; query head h uses kv head
            `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        mask: bool [heads or 1, q_len, kv_len]; True means that q may attend kv.
        sm_scale: factor on the scores q . k; None is head_dim**-0.5.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp of the
        scaled scores [batch, heads, q_len] in float32 (float64 for float64 inputs).
    """
    group = q.shape[1] // k.shape[1]
    scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    dtype = accumulator(q, k, v)
    wide_q, wide_k, wide_v = (x.astype(dtype) for x in (q, k, v))
    wide_k, wide_v = (jnp.repeat(x, group, axis=1) for x in (wide_k, wide_v))
    scores = jnp.einsum("bhqd,bhkd->bhqk", wide_q, wide_k, precision="highest")
    scores = jnp.where(mask[None], scores * jnp.asarray(scale, dtype), -jnp.inf)
    top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    empty = total == 0
    total = jnp.where(empty, 1, total)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights / total, wide_v, precision="highest")
    lse = jnp.where(empty, -jnp.inf, top + jnp.log(total))
    return out.astype(q.dtype), lse[..., 0]
