"""Attention under a dense mask, in a few lines: what every kernel here computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import accumulator

__all__ = ["dense_attention", "dot", "per_query_head", "softmax_parts"]


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
    scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    dtype = accumulator(q, k, v)
    wide_q, wide_k, wide_v = (per_query_head(x, q.shape[1], dtype) for x in (q, k, v))
    scores = dot("bhqd,bhkd->bhqk", wide_q, wide_k) * jnp.asarray(scale, dtype)
    weights, total, top = softmax_parts(scores, mask[None])
    out = dot("bhqk,bhkd->bhqd", weights / jnp.where(total == 0, 1, total), wide_v)
    lse = top + jnp.log(jnp.where(total == 0, 1, total))
    return out.astype(q.dtype), lse[..., 0]


def per_query_head(x: jax.Array, heads: int, dtype: jnp.dtype) -> jax.Array:
    """Heads of keys or values, each as often as query heads use it, in another dtype."""
    return jnp.repeat(x.astype(dtype), heads // x.shape[1], axis=1)


def dot(spec: str, *operands: jax.Array) -> jax.Array:
    """`jnp.einsum` with products that lose nothing."""
    return jnp.einsum(spec, *operands, precision="highest")


def softmax_parts(
    scores: jax.Array, mask: jax.Array | None = None, sinks: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A softmax before its division.

    Args:
        scores: [batch, heads, q_len, kv_len].
        mask: bool that broadcasts to the scores; None is all True.
        sinks: [heads], a score per head that every query of it has on top, if it has any.

    Returns:
        The weights `exp(score - m)`, their sum l with the sink's, and the largest score m, the
        last two [batch, heads, q_len, 1]. A query that attends nothing has weights 0, l 0 and
        m -inf. No gradient goes through m, and none is needed.
    """
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    m = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    empty = m == -jnp.inf
    if sinks is not None:
        sinks = jnp.where(empty, -jnp.inf, sinks.astype(scores.dtype)[:, None, None])
        m = jnp.maximum(m, jax.lax.stop_gradient(sinks))
    top = jnp.where(empty, 0, m)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    return weights, total if sinks is None else total + jnp.exp(sinks - top), m
