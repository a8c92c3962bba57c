"""The oracle of attention: dense, in float64 numpy, forward and backward by the textbook."""

import types

import numpy as np


def dense_oracle(
    q, k, v, mask, sm_scale, dout=None, dlse=None, *, soft_cap=None, sinks=None, bias=None
):
    """Output, log-sum-exp and all gradients.

    The mask is bool [heads, q_len, kv_len] or [batch, heads, q_len, kv_len]; `sinks` is one logit
    per head, `bias` broadcasts to the scores and is added after the scale and the cap. A query
    that attends nothing has output 0, log-sum-exp -inf and no gradient, sinks or not.
    """
    dtype = np.float64
    q, k, v = (np.asarray(x, dtype) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    raw = np.einsum("bhqd,bhkd->bhqk", q, wide_k)
    scores, slope = raw * sm_scale, 1.0
    if soft_cap is not None:
        share = np.tanh(scores / soft_cap)
        scores, slope = soft_cap * share, 1 - share**2
    if bias is not None:
        scores = scores + np.asarray(bias, dtype)
    weights = np.where(mask, np.exp(np.where(mask, scores, 0)), 0)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        sink = np.exp(np.asarray(sinks, dtype))[:, None, None]
        total = np.where(total > 0, total + sink, 0)
    p = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    out = np.einsum("bhqk,bhkd->bhqd", p, wide_v)
    lse = np.log(total, out=np.full_like(total, -np.inf), where=total > 0)[..., 0]
    result = types.SimpleNamespace(out=out, lse=lse)
    if dout is None:
        return result
    dout = np.asarray(dout, dtype)
    dp = np.einsum("bhqd,bhkd->bhqk", dout, wide_v)
    centre = (dout * out).sum(-1, keepdims=True)
    centre -= 0 if dlse is None else np.asarray(dlse, dtype)[..., None]
    dscores = p * (dp - centre)
    ds = dscores * slope
    fold = (q.shape[0], k.shape[1], group, k.shape[2], -1)
    result.dq = sm_scale * np.einsum("bhqk,bhkd->bhqd", ds, wide_k)
    result.dk = sm_scale * np.einsum("bhqk,bhqd->bhkd", ds, q).reshape(fold).sum(2)
    result.dv = np.einsum("bhqk,bhqd->bhkd", p, dout).reshape(fold).sum(2)
    result.dscale = (ds * raw).sum()
    result.dscale_terms = np.abs(ds * raw).sum()
    if bias is not None:
        result.dbias = _unbroadcast(dscores, np.shape(bias))
    if sinks is not None:
        share = np.divide(sink, total, out=np.zeros_like(total), where=total > 0)
        result.dsinks = -(share * centre).sum((0, 2, 3))
        result.dsinks_terms = np.abs(share * centre).sum()
    return result


def _unbroadcast(gradient, shape):
    """The gradient of an array of this shape that was broadcast to `gradient`'s."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    spread = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return gradient.sum(spread, keepdims=True)


def assert_near(actual, expected, tolerance, name="", scale=1.0):
    """Infinities alike, and the largest error within `tolerance` of the scale of the values.

    The scale is the largest expected value, and at least `scale`.
    """
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape, name
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=name)
    scale = max(scale, np.abs(expected[finite]).max(initial=0))
    error = np.abs(actual[finite] - expected[finite]).max(initial=0)
    assert error <= tolerance * scale, f"{name}: error {error:.3g} at scale {scale:.3g}"
