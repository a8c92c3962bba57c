"""Options of `attention`: their forms, and what each error says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_runtime import (
    ArgumentShapeError,
    ArgumentTypeError,
    ArgumentValueError,
    SegmentIds,
    attention,
)

HEADS, Q_LEN, KV_LEN = 4, 16, 24
PLAN = compile_mask(Causal(), q_len=Q_LEN, kv_len=KV_LEN, heads=HEADS, block_q=8, block_kv=8)
SQUARE = compile_mask(Causal(), q_len=Q_LEN, heads=HEADS, block_q=8, block_kv=8)
RNG = np.random.default_rng(0)
Q, K = (RNG.standard_normal((2, h, n, 4)).astype(np.float32) for h, n in ((HEADS, 16), (2, 24)))
IDS = SegmentIds(np.arange(Q_LEN) // 5, np.arange(KV_LEN) // 5)


def both(ids):
    return SegmentIds(*(np.stack([side, side]) for side in ids))


def attend(q=Q, k=K, plan=PLAN, **options):
    return attention(q, k, k, plan, **options)


@pytest.mark.parametrize(
    "ids",
    [IDS, both(IDS), tuple(IDS), SegmentIds(*map(jnp.asarray, IDS))],
    ids=["numpy", "with a batch", "a tuple", "jax"],
)
def test_segment_ids_in_every_form(ids):
    expected = attend(segment_ids=both(IDS))
    np.testing.assert_array_equal(attend(segment_ids=ids), expected)


def test_one_array_of_ids_serves_queries_and_keys():
    k = K[:, :, :Q_LEN]
    expected = attend(k=k, plan=SQUARE, segment_ids=SegmentIds(IDS.q, IDS.q))
    np.testing.assert_array_equal(attend(k=k, plan=SQUARE, segment_ids=IDS.q), expected)


def test_every_option_without_a_batch():
    sinks, bias = np.arange(HEADS, dtype=np.float32), RNG.standard_normal((1, HEADS, Q_LEN, 1))
    options = {"sinks": sinks, "logits_soft_cap": 2, "return_lse": True}
    out, lse = attend(segment_ids=both(IDS), bias=bias.astype(np.float32), **options)
    single = attend(Q[1], K[1], segment_ids=IDS, bias=bias[0].astype(np.float32), **options)
    np.testing.assert_allclose(single[0], out[1], atol=1e-6)
    np.testing.assert_allclose(single[1], lse[1], atol=1e-6)
    assert lse.shape == (2, HEADS, Q_LEN)


def test_a_shared_sink_is_one_for_each_head():
    expected = attend(sinks=np.full(HEADS, 0.5, np.float32))
    np.testing.assert_array_equal(attend(sinks=0.5), expected)
    grad = jax.grad(lambda sink: attend(sinks=sink).sum())
    each = jax.grad(lambda sinks: attend(sinks=sinks).sum())(jnp.full(HEADS, 0.5))
    np.testing.assert_allclose(grad(0.5), each.sum(), rtol=1e-5)


def test_vmap_over_segment_ids():
    ids = both(IDS)._replace(q=np.stack([IDS.q, IDS.q[::-1]]))
    expected = attend(segment_ids=ids)
    mapped = jax.jit(jax.vmap(lambda q, k, ids: attend(q, k, segment_ids=ids)))
    np.testing.assert_allclose(mapped(Q, K, ids), expected, atol=1e-6)


WRONG = [
    (
        {"segment_ids": IDS.q},
        ArgumentShapeError,
        r"segment_ids: expected \[batch, kv_len\] = \[2, 24",
    ),
    (
        {"segment_ids": (IDS.q,)},
        ArgumentTypeError,
        r"segment_ids: expected SegmentIds\(q, kv\) or on",
    ),
    (
        {"segment_ids": SegmentIds(IDS.q[:3], IDS.kv)},
        ArgumentShapeError,
        r"segment_ids.q: expected \[batch, q_len\] = \[2, 16\], or \[16\] .*, got shape \(3,\)",
    ),
    (
        {"segment_ids": SegmentIds(IDS.q * 1.0, IDS.kv)},
        ArgumentTypeError,
        "segment_ids.q: expected integers, got float64",
    ),
    (
        {"segment_ids": SegmentIds(IDS.q + 2**31, IDS.kv)},
        ArgumentValueError,
        "segment_ids.q: expected ids that fit int32, got 2147483651",
    ),
    (
        {"sinks": np.zeros(3)},
        ArgumentShapeError,
        r"sinks: expected a scalar or \[heads\] = \[4\], g",
    ),
    (
        {"bias": np.zeros((2, 3, 16, 24), np.float32)},
        ArgumentShapeError,
        r"bias: expected \[batch, heads, q_len, kv_len\] = \[2, 4, 16, 24\], each of them or 1",
    ),
    (
        {"bias": np.zeros((16, 24), np.float32)},
        ArgumentShapeError,
        r"bias: .* got shape \(16, 24\)",
    ),
    (
        {"bias": np.ones((1, 1, 16, 24), bool)},
        ArgumentTypeError,
        "bias: expected floating-point .* p",
    ),
    (
        {"logits_soft_cap": 0},
        ArgumentValueError,
        "logits_soft_cap: expected a positive number, got 0",
    ),
    (
        {"logits_soft_cap": np.inf},
        ArgumentValueError,
        "logits_soft_cap: expected a positive number",
    ),
    ({"logits_soft_cap": "30"}, ArgumentTypeError, "logits_soft_cap: expected a number, got '30'"),
    ({"logits_soft_cap": True}, ArgumentTypeError, "logits_soft_cap: expected a number, got True"),
]


@pytest.mark.parametrize(("options", "kind", "text"), WRONG)
def test_what_is_refused(options, kind, text):
    with pytest.raises(kind, match=text):
        attend(**options)


def test_a_traced_soft_cap_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"logits_soft_cap: .* make it a static argument"):
        jax.jit(lambda cap: attend(logits_soft_cap=cap))(2.0)
    np.testing.assert_array_equal(attend(logits_soft_cap=jnp.float32(2)), attend(logits_soft_cap=2))
