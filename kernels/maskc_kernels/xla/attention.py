"""Forward and backward joined into one function that JAX can differentiate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax

from maskc_kernels.xla.backward import backward_dkv, backward_dq, row_gradients
from maskc_kernels.xla.backward_options import backward_bias, backward_sinks
from maskc_kernels.xla.forward import forward
from maskc_kernels.xla.options import Options

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables

__all__ = ["block_sparse_attention", "refusal"]


def refusal(  # the signature that every backend has
    q: jax.Array,  # noqa: ARG001
    k: jax.Array,  # noqa: ARG001
    v: jax.Array,  # noqa: ARG001
    tables: AttentionTables,  # noqa: ARG001
    *,
    config: object = None,
    **options: object,  # noqa: ARG001
) -> str | None:
    """Why these kernels cannot run a call, in one sentence; None if they can.

    They run whatever the runtime lets through; only settings they have none of.

    Args:
        q: as for `block_sparse_attention`, arrays or tracers; likewise the other arguments.
        k: see q.
        v: see q.
        tables: see q.
        config: see q.
        **options: see q.
    """
    if config is not None:
        return f"config: the XLA kernels have no settings, got {config!r}"
    return None


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
    config: None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention over the non-empty blocks of a mask, on any XLA backend.

    Nothing of size q_len x kv_len is made, and the program is the same for every mask. Reverse
    mode only, in q, k, v, sm_scale, sinks and bias, through both outputs. An option that is None
    adds nothing to the program.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim]; kv_heads divides heads, and query head h uses kv
            head `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores q . k.
        tables: compiled for these heads and lengths; the caller has checked that.
        q_segment_ids: int32 [batch, q_len]; with `kv_segment_ids`, a query attends only keys of its
            own id. A negative id is padding, which attends nothing and which nobody attends.
            Blocks whose ids do not overlap are skipped, for each batch row by itself.
        kv_segment_ids: int32 [batch, kv_len].
        logits_soft_cap: static; scores become `cap * tanh(score / cap)`, after the scale.
        sinks: [heads], a logit of each head that takes weight in every query's softmax.
        bias: [batch or 1, heads or 1, q_len or 1, kv_len], added after the scale and the cap.
        config: None; these kernels have no settings.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp
        [batch, heads, q_len] in float32 (float64 for float64 inputs), the sink included. Sums are
        kept in that dtype too. A query that attends nothing has output 0, log-sum-exp -inf and
        zero gradients, with or without a sink.

    Raises:
        ValueError: ids of one side only, or a config.
    """
    if (problem := refusal(q, k, v, tables, config=config)) is not None:
        raise ValueError(problem)
    if (q_segment_ids is None) != (kv_segment_ids is None):
        raise ValueError("q_segment_ids, kv_segment_ids: expected both or neither")
    ids = q_segment_ids, kv_segment_ids
    return _attend(logits_soft_cap, q, k, v, sm_scale, sinks, bias, ids, tables)


_Ids = tuple[jax.Array | None, jax.Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    cap: float | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    sinks: jax.Array | None,
    bias: jax.Array | None,
    ids: _Ids,
    tables: AttentionTables,
) -> tuple[jax.Array, jax.Array]:
    return _fwd(cap, q, k, v, sm_scale, sinks, bias, ids, tables)[0]


def _fwd(
    cap: float | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    sinks: jax.Array | None,
    bias: jax.Array | None,
    ids: _Ids,
    tables: AttentionTables,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    options = Options(*ids, sinks, bias, cap)
    out, lse = forward(q, k, v, sm_scale, tables.head_mask, tables.fwd, options)
    return (out, lse), (q, k, v, sm_scale, options, tables, out, lse)


def _bwd(
    _cap: float | None, residuals: tuple[Any, ...], gradients: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    q, k, v, sm_scale, options, tables, out, lse = residuals
    rows = row_gradients(out, lse, *gradients)
    operands, heads = (q, k, v, sm_scale, rows), tables.head_mask
    dq, dscale = backward_dq(*operands, heads, tables.dq, options)
    dk, dv = backward_dkv(*operands, heads, tables.dkv, options)
    dsinks = None if options.sinks is None else backward_sinks(options.sinks, rows)
    dbias = None
    if options.bias is not None:
        dbias = backward_bias(*operands, heads, tables.dq, options)
    return dq, dk, dv, dscale, dsinks, dbias, None, None


_attend.defvjp(_fwd, _bwd)
