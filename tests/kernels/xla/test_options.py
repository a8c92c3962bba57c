"""Segment ids, soft cap, sinks and bias against the dense oracle, with blocks of each pass's own.

Each of them alone, under every kind of mask, is in the conformance suite.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Empty, Full, Local, MultiHead
from maskc_kernels.xla import block_sparse_attention, refusal
from maskc_kernels.xla.options import id_ranges

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, DIM, V_DIM = 2, 4, 2, 21, 26, 8, 5
BLOCKS = {"block_q": 8, "block_kv": 6, "block_kv_dq": 12, "block_q_dkv": 5, "block_kv_dkv": 8}
ARGUMENTS = ("q", "k", "v", "sm_scale", "sinks", "bias")


def plan_of(mask):
    return compile_mask(mask, q_len=Q_LEN, kv_len=KV_LEN, heads=HEADS, **BLOCKS)


def random_mask(seed):
    rng = np.random.default_rng(seed)
    allowed = rng.random((Q_LEN, KV_LEN)) < 0.6
    allowed[rng.random(Q_LEN) < 0.2] = False
    return Dense(allowed)


ONE = plan_of((Local(left=9, right=4) | Causal()) & random_mask(0))
MANY = plan_of(MultiHead((random_mask(1), Full(), Empty(), random_mask(1))))


def packed_ids(length, seed):
    """Documents in order, one of them in two pieces, and padding in between."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.integers(0, 4, (BATCH, length)))
    ids[:, length // 2] = 0
    ids[:, -3:-1] = -1 - seed
    return ids.astype(np.int32)


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SEGMENTS = {"q_segment_ids": packed_ids(Q_LEN, 0), "kv_segment_ids": packed_ids(KV_LEN, 1)}
SINKS = {"sinks": draw(HEADS, 5)}
CAP = {"logits_soft_cap": 1.5}


def bias(*shape):
    return {"bias": draw(shape, 6)}


CASES = {
    "segment ids": (MANY, SEGMENTS),
    "sinks": (MANY, SINKS),
    "a bias for every score": (ONE, bias(BATCH, HEADS, Q_LEN, KV_LEN)),
    "a bias per key": (MANY, bias(1, 1, 1, KV_LEN)),
    "all": (ONE, SEGMENTS | SINKS | CAP | bias(1, HEADS, Q_LEN, KV_LEN)),
    "all, masks per head": (MANY, SEGMENTS | SINKS | CAP | bias(BATCH, 1, Q_LEN, KV_LEN)),
}


def gradients(plan, options, tables_of, inputs, dout, dlse):
    """Output, log-sum-exp and gradients by name."""
    traced = {name: options.get(name) for name in ("sinks", "bias")}
    rest = {name: value for name, value in options.items() if name not in traced}

    @jax.jit
    def run(q, k, v, sm_scale, sinks, bias, tables, ids):
        def attend(*arrays):
            named = dict(zip(("sinks", "bias"), arrays[4:], strict=True))
            return block_sparse_attention(*arrays[:4], tables, **named, **ids, **CAPS(rest))

        (out, lse), pullback = jax.vjp(attend, q, k, v, sm_scale, sinks, bias)
        return out, lse, pullback((dout, jnp.where(lse == -jnp.inf, jnp.nan, dlse)))

    ids = {name: value for name, value in rest.items() if name.endswith("ids")}
    args = (*inputs, np.float32(0.4), traced["sinks"], traced["bias"])
    out, lse, grads = run(*args, tables_of(plan), ids)
    return out, lse, dict(zip(ARGUMENTS, grads, strict=True))


def CAPS(options):  # noqa: N802
    return {name: value for name, value in options.items() if name == "logits_soft_cap"}


@functools.cache
def arrays():
    shapes = (
        (BATCH, HEADS, Q_LEN, DIM), (BATCH, KV_HEADS, KV_LEN, DIM),
        (BATCH, KV_HEADS, KV_LEN, V_DIM), (BATCH, HEADS, Q_LEN, V_DIM), (BATCH, HEADS, Q_LEN),
    )  # fmt: skip
    return [draw(shape, seed) for seed, shape in enumerate(shapes)]


def dense_mask(plan, options):
    mask = np.stack([plan.to_dense(head) for head in range(HEADS)])[None]
    if "q_segment_ids" in options:
        q, kv = options["q_segment_ids"][:, :, None], options["kv_segment_ids"][:, None]
        mask = mask & ((q == kv) & (q >= 0))[:, None]
    return np.broadcast_to(mask, (BATCH, *mask.shape[1:]))


@pytest.mark.parametrize("name", CASES)
def test_an_option_means_what_the_oracle_says(name, oracle, near, tables_of):
    plan, options = CASES[name]
    *inputs, dout, dlse = arrays()
    mask = dense_mask(plan, options)
    out, lse, grads = gradients(plan, options, tables_of, inputs, dout, dlse)
    known = {"soft_cap": options.get("logits_soft_cap")}
    known |= {key: options.get(key) for key in ("sinks", "bias")}
    expected = oracle(
        *inputs, mask, np.float32(0.4), dout, np.where(mask.any(-1), dlse, 0), **known
    )
    assert not mask.any(-1).all()
    near(out, expected.out, 1e-5, "out")
    near(lse, expected.lse, 1e-5, "lse")
    for key in ("q", "k", "v"):
        near(grads[key], getattr(expected, f"d{key}"), 1e-5, key)
    near(grads["sm_scale"], np.asarray(expected.dscale), 1e-5, "scale", expected.dscale_terms)
    if "bias" in options:
        near(grads["bias"], expected.dbias, 1e-5, "bias")
    if "sinks" in options:
        near(grads["sinks"], expected.dsinks, 1e-5, "sinks", expected.dsinks_terms)


def test_logits_beyond_every_bound_stay_finite(tables_of, jax_option):
    jax_option("jax_debug_nans", True)
    q, k, v, dout, _ = arrays()
    out, lse, grads = gradients(
        ONE, CAP | SINKS, tables_of, (q * 1e18, k * 1e18, v), dout, np.zeros((), np.float32)
    )
    for result in (out, grads["q"], grads["k"], grads["v"], grads["sinks"]):
        assert np.isfinite(result).all()
    assert np.isfinite(np.asarray(lse)[np.asarray(dense_mask(ONE, {})).any(-1)]).all()


def test_a_bias_of_minus_infinity_is_a_mask(near, tables_of):
    forbidden = dense_mask(plan_of(random_mask(7)), {})
    q, k, v, dout, _ = arrays()
    zero = np.zeros((), np.float32)
    minus = {"bias": np.where(forbidden, 0, -np.inf).astype(np.float32)}
    by_bias = gradients(plan_of(Full()), minus, tables_of, (q, k, v), dout, zero)
    by_mask = gradients(plan_of(random_mask(7)), {}, tables_of, (q, k, v), dout, zero)
    near(by_bias[0], np.asarray(by_mask[0]), 1e-6, "out")
    near(by_bias[1], np.asarray(by_mask[1]), 1e-6, "lse")
    for name in ("q", "k", "v"):
        near(by_bias[2][name], np.asarray(by_mask[2][name]), 1e-5, name)
    assert np.isfinite(by_bias[2]["bias"]).all()


def test_blocks_of_other_documents_are_never_read(tables_of):
    """Document 1 is all NaN; nobody else may notice, in the forward and both backward passes."""
    plan = compile_mask(Causal(), q_len=24, heads=1, block_q=8, block_kv=8)
    ids = np.repeat(np.arange(3, dtype=np.int32), 8)[None]
    q, k, v, dout = (draw((1, 1, 24, 4), seed) for seed in range(4))
    for array in (q, k, v, dout):
        array[:, :, 8:16] = np.nan
    out, _, grads = gradients(
        plan, {"q_segment_ids": ids, "kv_segment_ids": ids}, tables_of, (q, k, v), dout,
        np.zeros((1, 1, 24), np.float32),
    )  # fmt: skip
    for result in (out, grads["q"], grads["k"], grads["v"]):
        bad = np.isnan(np.asarray(result)).any((0, 1, 3))
        np.testing.assert_array_equal(bad, np.arange(24) // 8 == 1)


def test_each_batch_row_skips_by_its_own_ids(tables_of):
    """What one row of the batch must visit is not read for the other."""
    plan = compile_mask(Full(), q_len=16, heads=1, block_q=8, block_kv=8)
    ids = np.array([[0] * 16, [0] * 8 + [1] * 8], np.int32)
    q, k, v = (draw((2, 1, 16, 4), seed) for seed in range(3))
    k[:, :, 8:] = np.nan
    out, _ = block_sparse_attention(
        q, k, v, np.float32(1), tables_of(plan), q_segment_ids=ids, kv_segment_ids=ids
    )
    bad = np.isnan(np.asarray(out)).any((1, 3))
    np.testing.assert_array_equal(bad, [[True] * 16, [False] * 8 + [True] * 8])


def test_ranges_of_ids_leave_padding_out():
    low, high = id_ranges(jnp.asarray([[3, -1, 5, -2, -1, -9, 0]]), 2)
    np.testing.assert_array_equal(high, [[3, 5, -1, 0]])
    np.testing.assert_array_equal(low, [[3, 5, 2**31 - 1, 0]])


def lowered(tables_of, **options):
    q = jax.ShapeDtypeStruct((BATCH, HEADS, Q_LEN, DIM), jnp.float32)
    k = jax.ShapeDtypeStruct((BATCH, KV_HEADS, KV_LEN, DIM), jnp.float32)
    static = CAPS(options)
    given = {key: value for key, value in options.items() if key not in static}

    def loss(q, k, v, given):
        return block_sparse_attention(q, k, v, jnp.float32(1), tables_of(ONE), **given, **static)[
            0
        ].sum()

    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, given)


def test_an_option_that_is_not_used_adds_nothing(tables_of):
    plain, none = (
        lowered(tables_of, **options).as_text()
        for options in ({}, dict.fromkeys(["sinks", "bias", "q_segment_ids", "kv_segment_ids"]))
    )
    assert plain == none
    for word in ("tanh", "sort", "scatter", "cumsum", "select_and"):
        assert word not in plain
    assert "tanh" in lowered(tables_of, **CAP).as_text()


def test_the_gradient_of_a_constant_bias_is_not_computed(tables_of):
    """Its pass is a loop that nobody reads."""
    loops = [
        lowered(tables_of, **options).compile().as_text().count(" while(")
        for options in ({}, bias(1, 1, Q_LEN, KV_LEN))
    ]
    assert loops[0] == loops[1]


def test_what_is_refused(tables_of):
    q, k, v, *_ = arrays()
    args = (q, k, v, np.float32(1), tables_of(ONE))
    with pytest.raises(ValueError, match="q_segment_ids, kv_segment_ids: expected both or neither"):
        block_sparse_attention(*args, q_segment_ids=packed_ids(Q_LEN, 0))
    sentence = refusal(q, k, v, tables_of(ONE), config="fast")
    assert sentence == "config: the XLA kernels have no settings, got 'fast'"
    with pytest.raises(ValueError, match=sentence):
        block_sparse_attention(*args, config="fast")
    assert refusal(q, k, v, tables_of(ONE), **SEGMENTS, **SINKS) is None
