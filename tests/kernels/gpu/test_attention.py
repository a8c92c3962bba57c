"""The property that matters: kernels == dense float64 oracle, forward and gradients.

The kernels are those that run on a GPU; Triton's interpreter runs them here, under `jax.jit`.
Published masks are in the conformance suite of all backends.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_attention import FP32, Shape, segment_ids
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskc.expr import Causal, Dense, Documents, Empty, Full, Local, Prefix
from maskc.strategies import masks

SHAPES = {
    "one block size": Shape(),
    "ragged, grouped, three blockings": Shape(
        37, 50, 2, 1, 8, 20,
        {"block_q": 16, "block_kv": 64, "block_q_dq": 32, "block_kv_dq": 16,
         "block_q_dkv": 48, "block_kv_dkv": 32},
    ),
    "masks per head": Shape(40, 70, 4, 2, pattern=(1, 0, 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_forward_and_gradients_match_the_oracle(name, check, tables_of):
    shape = SHAPES[name]

    @settings(max_examples=3)
    @given(st.tuples(*2 * [masks(shape.q_len, shape.kv_len)]), st.integers(0, 99))
    def holds(drawn, seed):
        plan = shape.compile(*drawn)
        # Equal masks on every head are one mask, which the other shapes have.
        assume(not shape.pattern or plan.masks > 1)
        check(shape, plan, tables_of(plan, roomy=True), seed)

    holds()


@pytest.mark.parametrize("masks", [[Full()], [Empty()], [Dense(np.eye(32, dtype=bool))]])
def test_lists_without_a_single_entry(masks, check, tables_of):
    shape = Shape(32, 32, 1, 1, blocks={"block_q": 16, "block_kv": 16})
    plan = shape.compile(*masks)
    check(shape, plan, tables_of(plan))


@pytest.mark.parametrize("bias", [None, (1, 2, 64, 64), (1, 1, 1, 64)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The inputs are exact; weights, their gradients and every result are rounded once.
    [("bfloat16", 2**-6), ("float16", 2**-9)],
)
def test_half_precision(dtype, tolerance, bias, check, tables_of):
    """Also of the bias, whose gradient is rounded to it."""
    shape = Shape()
    plan = shape.compile(Local(left=30, right=3) - Prefix(10))
    if bias is not None:
        bias = np.random.default_rng(3).standard_normal(bias).astype(jnp.dtype(dtype))
    check(shape, plan, tables_of(plan), tolerance=tolerance, dtype=dtype, bias=bias)


@pytest.mark.parametrize(("head_dim", "v_head_dim"), [(80, 64), (96, 96), (192, 128), (256, 5)])
def test_head_dimensions(head_dim, v_head_dim, check, tables_of):
    shape = Shape(32, 48, 1, 1, head_dim, v_head_dim)
    plan = shape.compile(Causal(offset=9))
    check(shape, plan, tables_of(plan), sm_scale=head_dim**-0.5)


def test_blocks_larger_than_tiles(check, tables_of):
    shape = Shape(150, 140, 1, 1, blocks={"block_q": 128, "block_kv": 128})
    plan = shape.compile(Local(left=100, right=20))
    check(shape, plan, tables_of(plan))


@pytest.mark.parametrize("sm_scale", [0.0, -0.7])
def test_any_scale(sm_scale, check, tables_of):
    shape = Shape()
    plan = shape.compile(Local(left=3, right=40) - Prefix(5))
    check(shape, plan, tables_of(plan, roomy=True), sm_scale=sm_scale)


@pytest.mark.parametrize("score", [-1e37, 1e37])
def test_scores_near_the_end_of_float32(score, interpreted, tables_of):
    tables = tables_of(Shape(32, 32, 1, 1).compile(Causal()))
    q, k = (jnp.full((1, 1, 32, 16), x, jnp.float32) for x in (np.sign(score), abs(score) / 16))
    v = np.random.default_rng(0).standard_normal((1, 1, 32, 16)).astype(np.float32)
    out, lse = jax.jit(lambda *qkv: interpreted(*qkv, jnp.float32(1), tables))(q, k, v)
    # Equal scores: the mean of the values so far.
    mean = v.cumsum(2) / np.arange(1, 33)[:, None]
    np.testing.assert_allclose(out, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lse, np.full((1, 1, 32), score, np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    ("magnitude", "tolerance"),
    # Beyond the cap its slope is the difference of 1 and a square of almost 1, times q.
    [(1, FP32), (1e4, 1e4 * 2**-23)],
)
def test_soft_cap_and_sinks(magnitude, tolerance, check, tables_of):
    """Also for logits far beyond the cap, where a tanh may overflow."""
    shape = Shape(50)
    plan = shape.compile(Local(left=30, right=3) - Prefix(10))
    check(
        shape, plan, tables_of(plan), tolerance=tolerance, soft_cap=5.0, sinks=True,
        magnitude=magnitude,
    )  # fmt: skip


BIASES = {
    "of every score": (2, 2, 37, 50),
    "shared by heads": (2, 1, 37, 50),
    "shared by the batch": (1, 2, 37, 50),
    "of keys": (2, 2, 1, 50),
    "of keys, shared by all": (1, 1, 1, 50),
}


@pytest.mark.parametrize("name", BIASES)
def test_bias(name, check, tables_of):
    shape = Shape(37, 50, head_dim=8, v_head_dim=20, batch=2)
    plan = shape.compile((Local(left=20, right=30) - Prefix(7)) | Documents([0, 32]))
    bias = np.random.default_rng(3).standard_normal(BIASES[name]).astype(np.float32)
    check(shape, plan, tables_of(plan, roomy=True), bias=bias)


def test_bias_with_everything_else(check, tables_of):
    shape = Shape(40, 70, pattern=(1, 0), batch=2)
    plan = shape.compile(Causal(), Full())
    bias = np.random.default_rng(3).standard_normal((1, 1, 40, 70)).astype(np.float32)
    bias[:, :, 3:9] = bias[:, :, :, 60:] = -np.inf
    ids = segment_ids(1, 2, 40, 70)
    check(
        shape, plan, tables_of(plan), bias=bias, soft_cap=5.0, sinks=True, segments=ids
    )  # fmt: skip


def test_segment_ids(check, tables_of):
    shape = dataclasses.replace(SHAPES["ragged, grouped, three blockings"], batch=2)

    @settings(max_examples=2)
    @given(masks(shape.q_len, shape.kv_len), st.integers(0, 99))
    def holds(mask, seed):
        plan = shape.compile(mask | Causal())
        ids = segment_ids(seed, 2, shape.q_len, shape.kv_len)
        check(shape, plan, tables_of(plan, roomy=True), seed, segments=ids)

    holds()


def test_segments_of_a_full_mask_with_cap_and_sinks(check, tables_of):
    shape = Shape(batch=2)
    plan = shape.compile(Full())
    ids = [np.repeat([[0, 1], [-1, 4]], 32, axis=1).astype(np.int32)] * 2
    check(shape, plan, tables_of(plan), segments=ids, soft_cap=3.0, sinks=True)


def test_queries_that_attend_nothing_make_no_nan_and_no_gradient(
    interpreted, draw_inputs, tables_of
):
    shape = Shape(20, 24, 2, 1, 4, 4, {"block_q": 16, "block_kv": 16}, pattern=(0, 1))
    mask = np.eye(20, 24, dtype=bool) & (np.arange(20) % 3 > 0)[:, None]
    tables = tables_of(shape.compile(Dense(mask), Empty()))
    q, k, v, dout = draw_inputs(0, *shape.inputs)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(q, k, v):
        out, lse = interpreted(q, k, v, jnp.float32(1), tables)
        # The gradients of exp(-lse) and of a root at 0 are infinite.
        lost = jnp.exp(-lse).sum() + jnp.sqrt(jnp.abs(out).sum(-1)).sum()
        return (out * dout).sum() + lost, (out, lse)

    (dq, dk, dv), (out, lse) = run(q, k, v)
    assert not np.asarray(out)[0, 0, ::3].any()
    assert (np.asarray(lse)[0, 0, ::3] == -np.inf).all()
    assert not np.asarray(dq)[0, 0, ::3].any()
    assert np.isfinite(dk).all()
    assert np.isfinite(dv).all()
    assert not np.asarray(dk)[0, 0, 20:].any()
    assert not np.asarray(dv)[0, 0, ::3].any()


def test_blocks_that_are_not_listed_are_never_read(interpreted, draw_inputs, tables_of):
    shape = Shape(96, 96, 1, 1)
    tables = tables_of(shape.compile(Documents([0, 32, 64, 96])), roomy=True)
    q, k, v, dout = draw_inputs(0, *shape.inputs)
    for array in (q, k, v, dout):
        array[:, :, 32:64] = np.nan

    @jax.jit
    def run(q, k, v):
        results, pullback = jax.vjp(
            lambda *args: interpreted(*args, jnp.float32(1), tables), q, k, v
        )
        return *results, *pullback((dout, 0 * dout[..., 0]))

    out, lse, dq, dk, dv = run(q, k, v)
    for result in (out, lse[..., None], dq, dk, dv):
        bad = np.isnan(np.asarray(result)).any((0, 1, 3))
        np.testing.assert_array_equal(bad, np.arange(96) // 32 == 1)


def test_vmap_is_a_loop_of_launches(interpreted, draw_inputs, tables_of):
    shape = Shape(32, 32, 1, 1, batch=3)
    tables = tables_of(shape.compile(Causal()))
    q, k, v, _ = draw_inputs(0, *shape.inputs)

    def total(q, k, v):
        return interpreted(q, k, v, jnp.float32(1), tables)[0].sum()

    gradient = jax.grad(total, (0, 1, 2))
    expected = jax.jit(gradient)(q, k, v)
    found = jax.jit(jax.vmap(gradient))(q[:, None], k[:, None], v[:, None])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[:, 0], other)


def test_strict_promotion_rules_are_kept(interpreted, tables_of):
    shape = Shape(40, 70, 4, 2, pattern=(1, 0, 0, 1))
    tables = tables_of(shape.compile(Causal(), Full()))
    q, k, v = (jnp.zeros((1, n, length, 16)) for n, length in ((4, 40), (2, 70), (2, 70)))
    options = {
        "q_segment_ids": jnp.zeros((1, 40), jnp.int32),
        "kv_segment_ids": jnp.zeros((1, 70), jnp.int32),
        "logits_soft_cap": 3.0,
        "sinks": jnp.zeros(4),
    }

    def total(q, k, v, sinks):
        results = interpreted(q, k, v, jnp.float32(1), tables, **(options | {"sinks": sinks}))
        return sum(x.sum() for x in results)

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        gradients = jax.eval_shape(jax.grad(total, (0, 1, 2, 3)), q, k, v, options["sinks"])
    assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape, (4,)]
