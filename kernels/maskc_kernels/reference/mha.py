"""Multi-head attention with every option, by its definition, with residuals and a backward pass.

Names, arguments and residuals are those of ejKernel's flash attention utilities, which are JAX's
TPU `flash_attention` with `softmax_scale` for `sm_scale`. Every [q_len, kv_len] score is made, so
this is for tests and short lengths.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskc_kernels.dtypes import accumulator
from maskc_kernels.reference.dense import dot, per_query_head, softmax_parts
from maskc_kernels.segment_ids import SegmentIds

__all__ = [
    "DEFAULT_MASK_VALUE",
    "mha_reference",
    "mha_reference_bwd",
    "mha_reference_no_custom_vjp",
]

DEFAULT_MASK_VALUE = -0.7 * float(np.finfo(np.float32).max)
"""What stands for the largest score of a query that attends nothing."""

Align = Literal["top_left", "bottom_right"]
_Scale = float | jax.Array
_Residuals = tuple[jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True)
class _Options:
    """What is known when a program is traced."""

    causal: bool
    mask_value: float
    logits_soft_cap: float | None
    align: Align
    scale_bias: bool


class _Inputs(NamedTuple):
    """What an output is computed from."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    ab: jax.Array | None
    segment_ids: SegmentIds | None
    softmax_scale: jax.Array
    sinks: jax.Array | None


def mha_reference_no_custom_vjp(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ab: jax.Array | None = None,
    segment_ids: SegmentIds | None = None,
    *,
    causal: bool = False,
    mask_value: float = DEFAULT_MASK_VALUE,
    softmax_scale: _Scale = 1.0,
    save_residuals: bool = False,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    align: Align = "top_left",
    scale_bias: bool = False,
) -> jax.Array | _Residuals:
    """Attention whose gradients JAX finds by itself; for those of `mha_reference` to be held to.

    A score is `cap(q . k * softmax_scale) + ab`. A query that attends nothing has output 0 and
    zero gradients, also into its sink.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim]; query head h uses kv head
            `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        ab: a bias, [batch or 1, heads or 1, q_len or 1, kv_len or 1], on the scores.
        segment_ids: which tokens attend each other; None is all.
        causal: whether queries attend only keys that are not after them.
        mask_value: the residual m of a query that attends nothing. It is no score: what is masked
            takes no part, whatever its value.
        softmax_scale: factor on q . k.
        save_residuals: give `(out, l, m)`: m is the largest score of each query and l the sum of
            `exp(score - m)`, both [batch, heads, q_len], sinks included.
        logits_soft_cap: c in `cap(x) = c * tanh(x / c)`; None is no cap.
        sinks: [heads], a score per head that takes part in the softmax and has no value.
        align: where q_len != kv_len, which corner the causal diagonal starts from.
        scale_bias: `cap((q . k + ab) * softmax_scale)`, as in JAX's function.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, or the residuals.

    Raises:
        ValueError: shapes that do not fit, or an argument out of range.
    """
    options = _Options(causal, mask_value, logits_soft_cap, align, scale_bias)
    inputs = _inputs(options, q, k, v, ab, segment_ids, softmax_scale, sinks)
    residuals = _forward(options, inputs)
    return residuals if save_residuals else residuals[0]


_STATIC = ("causal", "mask_value", "logits_soft_cap", "align", "scale_bias")


@functools.partial(jax.jit, static_argnames=_STATIC)
def mha_reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ab: jax.Array | None = None,
    segment_ids: SegmentIds | None = None,
    causal: bool = False,
    mask_value: float = DEFAULT_MASK_VALUE,
    softmax_scale: _Scale = 1.0,
    *,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    align: Align = "top_left",
    scale_bias: bool = False,
) -> jax.Array:
    """Attention whose gradients are those of `mha_reference_bwd`.

    Differentiable in q, k, v, ab (whatever its shape), softmax_scale and sinks; arguments are
    those of `mha_reference_no_custom_vjp`.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype.

    Raises:
        ValueError: as there.
    """
    options = _Options(causal, mask_value, logits_soft_cap, align, scale_bias)
    inputs = _inputs(options, q, k, v, ab, segment_ids, softmax_scale, sinks)
    return _attend(options, inputs)


@functools.partial(jax.jit, static_argnames=_STATIC)
def mha_reference_bwd(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ab: jax.Array | None,
    segment_ids: SegmentIds | None,
    o: jax.Array,
    l: jax.Array,  # noqa: E741  # JAX's name
    m: jax.Array,
    do: jax.Array,
    causal: bool = False,
    mask_value: float = DEFAULT_MASK_VALUE,
    softmax_scale: _Scale = 1.0,
    *,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    align: Align = "top_left",
    scale_bias: bool = False,
) -> tuple[jax.Array | None, ...]:
    """The gradients, from the residuals `(o, l, m)` and the output's gradient.

    Args:
        q: as for `mha_reference_no_custom_vjp`, and so are all that are not named here.
        k: likewise.
        v: likewise.
        ab: likewise.
        segment_ids: likewise.
        o: the output.
        l: the sums, [batch, heads, q_len].
        m: the largest scores, likewise.
        do: the gradient of the output.
        causal: likewise.
        mask_value: likewise.
        softmax_scale: likewise.
        logits_soft_cap: likewise.
        sinks: likewise.
        align: likewise.
        scale_bias: likewise.

    Returns:
        `(dq, dk, dv, dab)`, dab in ab's shape and None without ab; with sinks, dsinks is fifth.

    Raises:
        ValueError: as there.
    """
    options = _Options(causal, mask_value, logits_soft_cap, align, scale_bias)
    inputs = _inputs(options, q, k, v, ab, segment_ids, softmax_scale, sinks)
    found = _gradients(options, inputs, (o, l, m), do)
    four = found.q, found.k, found.v, found.ab
    return four if sinks is None else (*four, found.sinks)


# --- the definition -----------------------------------------------------------------------------


class _Scores(NamedTuple):
    """Scores [batch, heads, q_len, kv_len], and what their gradient needs."""

    scores: jax.Array
    mask: jax.Array | None
    raw: jax.Array
    slope: jax.Array | float


def _scores(options: _Options, inputs: _Inputs) -> _Scores:
    dtype = accumulator(inputs.q, inputs.k, inputs.v)
    heads = inputs.q.shape[1]
    raw = dot("bhqd,bhkd->bhqk", inputs.q.astype(dtype), per_query_head(inputs.k, heads, dtype))
    bias = None if inputs.ab is None else inputs.ab.astype(dtype)
    if bias is not None and options.scale_bias:
        raw = raw + bias
    scores = raw * inputs.softmax_scale.astype(dtype)
    slope: jax.Array | float = 1.0
    if options.logits_soft_cap is not None:
        share = jnp.tanh(scores / options.logits_soft_cap)
        scores, slope = options.logits_soft_cap * share, 1 - share**2
    if bias is not None and not options.scale_bias:
        scores = scores + bias
    return _Scores(scores, _mask(options, inputs), raw, slope)


def _mask(options: _Options, inputs: _Inputs) -> jax.Array | None:
    """What may attend what, or None for everything."""
    mask = None
    if inputs.segment_ids is not None:
        q_ids, kv_ids = inputs.segment_ids
        mask = (q_ids[:, :, None] == kv_ids[:, None, :]) & (q_ids >= 0)[:, :, None]
        mask = mask[:, None]
    if options.causal:
        q_len, kv_len = inputs.q.shape[2], inputs.k.shape[2]
        offset = kv_len - q_len if options.align == "bottom_right" else 0
        causal = jnp.arange(kv_len) <= jnp.arange(q_len)[:, None] + offset
        mask = causal[None, None] if mask is None else mask & causal
    return mask


def _forward(options: _Options, inputs: _Inputs) -> _Residuals:
    parts = _scores(options, inputs)
    weights, total, top = softmax_parts(parts.scores, parts.mask, inputs.sinks)
    wide_v = per_query_head(inputs.v, inputs.q.shape[1], weights.dtype)
    out = dot("bhqk,bhkd->bhqd", weights / jnp.where(total == 0, 1, total), wide_v)
    top = jnp.where(total == 0, options.mask_value, top)
    return out.astype(inputs.q.dtype), total[..., 0], top[..., 0]


def _gradients(
    options: _Options, inputs: _Inputs, residuals: _Residuals, dout: jax.Array
) -> _Inputs:
    """The gradient of every input, in its shape and dtype."""
    parts, heads = _scores(options, inputs), inputs.q.shape[1]
    dtype, scale = parts.raw.dtype, inputs.softmax_scale.astype(parts.raw.dtype)
    out, dout = (x.astype(dtype) for x in (residuals[0], dout))
    total, top = (x.astype(dtype)[..., None] for x in residuals[1:])
    empty = total == 0
    share = jnp.where(empty, 0, 1 / jnp.where(empty, 1, total))
    top = jnp.where(empty, 0, top)
    scores = parts.scores if parts.mask is None else jnp.where(parts.mask, parts.scores, -jnp.inf)
    p = jnp.exp(scores - top) * share
    wide_k, wide_v = (per_query_head(x, heads, dtype) for x in (inputs.k, inputs.v))
    centre = (out * dout).sum(-1, keepdims=True)
    after_cap = p * (dot("bhqd,bhkd->bhqk", dout, wide_v) - centre)
    before_cap = after_cap * parts.slope
    dbias = scale * before_cap if options.scale_bias else after_cap
    dsinks = None
    if inputs.sinks is not None:
        sinks = inputs.sinks.astype(dtype)[:, None, None]
        weight = jnp.exp(jnp.where(empty, -jnp.inf, sinks - top)) * share
        dsinks = -(weight * centre).sum((0, 2, 3)).astype(inputs.sinks.dtype)
    return _Inputs(
        q=(scale * dot("bhqk,bhkd->bhqd", before_cap, wide_k)).astype(inputs.q.dtype),
        k=_of_kv_heads(
            scale * dot("bhqk,bhqd->bhkd", before_cap, inputs.q.astype(dtype)), inputs.k
        ),
        v=_of_kv_heads(dot("bhqk,bhqd->bhkd", p, dout), inputs.v),
        ab=None if inputs.ab is None else _unbroadcast(dbias, inputs.ab),
        segment_ids=None,
        softmax_scale=(before_cap * parts.raw).sum().astype(inputs.softmax_scale.dtype),
        sinks=dsinks,
    )


def _of_kv_heads(gradient: jax.Array, like: jax.Array) -> jax.Array:
    """The sum over the query heads that share a kv head."""
    batch, kv_heads, length, width = like.shape
    folded = gradient.reshape(batch, kv_heads, -1, length, width)
    return folded.sum(2).astype(like.dtype)


def _unbroadcast(gradient: jax.Array, like: jax.Array) -> jax.Array:
    """The sum over the axes along which `like` was spread."""
    spread = [axis for axis, size in enumerate(like.shape) if size != gradient.shape[axis]]
    return gradient.sum(spread, keepdims=True).astype(like.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options: _Options, inputs: _Inputs) -> jax.Array:
    return _forward(options, inputs)[0]


def _attend_fwd(options: _Options, inputs: _Inputs) -> tuple[jax.Array, tuple[_Inputs, _Residuals]]:
    residuals = _forward(options, inputs)
    return residuals[0], (inputs, residuals)


def _attend_bwd(
    options: _Options, saved: tuple[_Inputs, _Residuals], dout: jax.Array
) -> tuple[_Inputs]:
    return (_gradients(options, *saved, dout),)


_attend.defvjp(_attend_fwd, _attend_bwd)


# --- what fits ----------------------------------------------------------------------------------


def _inputs(
    options: _Options,
    q: Any,
    k: Any,
    v: Any,
    ab: Any,
    segment_ids: Any,
    softmax_scale: Any,
    sinks: Any,
) -> _Inputs:
    """The arguments, checked."""
    q, k, v = map(jnp.asarray, (q, k, v))
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name}: expected [batch, heads, length, head_dim], got {x.shape}")
    (batch, heads, q_len, width), (_, kv_heads, kv_len, _) = q.shape, k.shape
    _fits("k", k, (batch, kv_heads, kv_len, width))
    _fits("v", v, (batch, kv_heads, kv_len, v.shape[3]))
    if heads % kv_heads:
        raise ValueError(f"k: expected a number of heads that divides q's {heads}, got {kv_heads}")
    if ab is not None:
        ab = jnp.asarray(ab)
        whole = batch, heads, q_len, kv_len
        if ab.ndim != 4 or any(n not in {1, most} for n, most in zip(ab.shape, whole, strict=True)):
            raise ValueError(f"ab: expected {whole}, or 1 along some axes, got {ab.shape}")
    if segment_ids is not None:
        segment_ids = SegmentIds(*map(jnp.asarray, segment_ids))
        _fits("segment_ids.q", segment_ids.q, (batch, q_len))
        _fits("segment_ids.kv", segment_ids.kv, (batch, kv_len))
    if sinks is not None:
        sinks = jnp.asarray(sinks)
        _fits("sinks", sinks, (heads,))
    if options.align not in {"top_left", "bottom_right"}:
        raise ValueError(f"align: expected 'top_left' or 'bottom_right', got {options.align!r}")
    if options.logits_soft_cap is not None and not options.logits_soft_cap > 0:
        raise ValueError(f"logits_soft_cap: expected above 0, got {options.logits_soft_cap}")
    scale = jnp.asarray(softmax_scale, accumulator(q, k, v))
    return _Inputs(q, k, v, ab, segment_ids, scale, sinks)


def _fits(name: str, x: jax.Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {x.shape}")
