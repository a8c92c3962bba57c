"""The oracle: dense attention and its gradients in float64 numpy, and plans cut for the kernels."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from maskc_kernels import AttentionTables, BlockTable


def dense_oracle(q, k, v, mask, sm_scale, dout=None, dlse=None, *, soft_cap=None, sinks=None):
    """Output, log-sum-exp and all gradients, by the textbook formulas."""
    dtype, shape = np.float64, q.shape
    q, k, v = (np.asarray(x, dtype) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    raw = np.einsum("bhqd,bhkd->bhqk", q, wide_k)
    share = np.tanh(raw * sm_scale / soft_cap) if soft_cap else 0
    scores = soft_cap * share if soft_cap else raw * sm_scale
    weights = np.where(mask, np.exp(np.where(mask, scores, 0)), 0)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        sink = np.exp(np.asarray(sinks, dtype))[:, None, None]
        total = np.where(total > 0, total + sink, 0)
    p = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    out = np.einsum("bhqk,bhkd->bhqd", p, wide_v)
    lse = np.log(total, out=np.full_like(total, -np.inf), where=total > 0)[..., 0]
    result = types.SimpleNamespace(out=out, lse=lse)
    if dout is not None:
        dout = np.asarray(dout, dtype)
        dp = np.einsum("bhqd,bhkd->bhqk", dout, wide_v)
        centre = (dout * out).sum(-1, keepdims=True)
        centre -= 0 if dlse is None else np.asarray(dlse, dtype)[..., None]
        ds = p * (dp - centre) * (1 - share**2)
        fold = (shape[0], k.shape[1], group, k.shape[2], -1)
        result.dq = sm_scale * np.einsum("bhqk,bhkd->bhqd", ds, wide_k)
        result.dk = sm_scale * np.einsum("bhqk,bhqd->bhkd", ds, q).reshape(fold).sum(2)
        result.dv = np.einsum("bhqk,bhqd->bhkd", p, dout).reshape(fold).sum(2)
        result.dscale = (ds * raw).sum()
        result.dscale_terms = np.abs(ds * raw).sum()
        if sinks is not None:
            part = np.divide(sink, total, out=np.zeros_like(total), where=total > 0)
            result.dsinks = -(part * centre).sum((0, 2, 3))
            result.dsinks_terms = np.abs(part * centre).sum()
    return result


def attention_tables(plan, *, roomy=False):
    """The plan's lists for the kernels.

    With `roomy`, lists are as long as any mask of these lengths could need, with junk in the part
    that no row points at. So all masks share array shapes and one compilation, and a kernel that
    read past a row's end would be caught.
    """
    tables = [BlockTable.from_lists(plan.lists(name)) for name in ("fwd", "dq", "dkv")]
    if roomy:
        cells = [plan.masks * np.prod(plan.grid(name)) for name in ("fwd", "dq", "dkv")]
        tables = [_roomy(*pair) for pair in zip(tables, cells, strict=True)]
    return AttentionTables(plan.head_mask, *tables)


def _roomy(table, cells):
    longer = {}
    for name in ("full_idx", "partial_idx", "partial_id", "partial_blocks"):
        array = getattr(table, name)
        junk = np.full((cells - len(array) + 1, *array.shape[1:]), 85, array.dtype)
        longer[name] = np.concatenate([array, junk])
    return dataclasses.replace(table, **longer)


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


@pytest.fixture(scope="session")
def oracle():
    return dense_oracle


@pytest.fixture(scope="session")
def tables_of():
    return attention_tables


@pytest.fixture(scope="session")
def near():
    return assert_near


@pytest.fixture(scope="session")
def draw_inputs():
    """q, k, v and dout as numpy, from a seed."""

    def draw(seed, batch, heads, kv_heads, q_len, kv_len, head_dim, v_head_dim, dtype="float32"):
        rng = np.random.default_rng(seed)
        shapes = (
            (batch, heads, q_len, head_dim),
            (batch, kv_heads, kv_len, head_dim),
            (batch, kv_heads, kv_len, v_head_dim),
            (batch, heads, q_len, v_head_dim),
        )
        return [rng.standard_normal(shape).astype(jax.numpy.dtype(dtype)) for shape in shapes]

    return draw


@pytest.fixture
def jax_option():
    """Set a JAX option for one test."""
    before = {}

    def change(name, value):
        before.setdefault(name, getattr(jax.config, name))
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)
