"""The reference against the float64 oracle, and against JAX's own where that is right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import flash_attention as jax_flash

from maskc_kernels.reference import (
    DEFAULT_MASK_VALUE,
    SegmentIds,
    mha_reference,
    mha_reference_bwd,
    mha_reference_no_custom_vjp,
)

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, WIDTH, V_WIDTH = 2, 4, 2, 6, 9, 5, 3


@pytest.fixture(scope="module")
def arrays(draw_inputs):
    return draw_inputs(0, BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, WIDTH, V_WIDTH)


def ids_of(random, pads):
    """Segment ids; query 2 of the first row has a segment that no key is in."""
    q = random.integers(-1 if pads else 0, 3, (BATCH, Q_LEN)).astype(np.int32)
    kv = random.integers(-1 if pads else 0, 3, (BATCH, KV_LEN)).astype(np.int32)
    q[0, 2] = 7
    return SegmentIds(q, kv)


def dense(ids, causal, align):
    mask = np.ones((BATCH, 1, Q_LEN, KV_LEN), bool)
    if ids is not None:
        q, kv = ids.q[:, None, :, None], ids.kv[:, None, None, :]
        mask = mask & (q == kv) & (q >= 0)
    if causal:
        offset = KV_LEN - Q_LEN if align == "bottom_right" else 0
        mask = mask & (np.arange(KV_LEN) <= np.arange(Q_LEN)[:, None] + offset)
    return np.broadcast_to(mask, (BATCH, HEADS, Q_LEN, KV_LEN))


@pytest.mark.parametrize(
    ("ids", "causal", "align", "cap", "with_sinks", "bias_axes", "scale"),
    [
        (None, False, "top_left", None, False, None, 1.0),
        (None, True, "bottom_right", None, True, None, -0.7),
        ("plain", False, "top_left", 1.5, False, (1, 1, 0, 1), 0.3),
        ("padded", True, "top_left", None, True, (0, 1, 1, 1), 0.3),
        ("padded", True, "bottom_right", 1.5, True, (1, 0, 1, 0), 0.3),
        ("plain", True, "top_left", 0.5, True, (1, 1, 1, 1), 1.0),
    ],
)
def test_everything_is_what_the_oracle_has(
    arrays, oracle, near, ids, causal, align, cap, with_sinks, bias_axes, scale
):
    q, k, v, dout = arrays
    random = np.random.default_rng(7)
    ids = None if ids is None else ids_of(random, ids == "padded")
    inputs = {"q": q, "k": k, "v": v, "softmax_scale": np.float32(scale)}
    if with_sinks:
        inputs["sinks"] = random.standard_normal(HEADS).astype(np.float32)
    if bias_axes is not None:
        shape = np.where(bias_axes, (BATCH, HEADS, Q_LEN, KV_LEN), 1)
        inputs["ab"] = random.standard_normal(shape).astype(np.float32)
    options = {"causal": causal, "align": align, "logits_soft_cap": cap}
    expected = oracle(
        q, k, v, dense(ids, causal, align), scale, dout,
        soft_cap=cap, sinks=inputs.get("sinks"), bias=inputs.get("ab"),
    )  # fmt: skip

    @jax.jit
    def run(inputs):
        def loss(attend, inputs):
            return (attend(segment_ids=ids, **inputs, **options) * dout).sum()

        residuals = mha_reference_no_custom_vjp(
            segment_ids=ids, save_residuals=True, **inputs, **options
        )
        by_hand = mha_reference_bwd(
            segment_ids=ids, o=residuals[0], l=residuals[1], m=residuals[2], do=dout,
            **{"ab": None} | inputs, **options,
        )  # fmt: skip
        by_jax = [
            jax.grad(functools.partial(loss, attend))(inputs)
            for attend in (mha_reference, mha_reference_no_custom_vjp)
        ]
        return residuals, by_hand, by_jax

    (out, total, top), by_hand, by_jax = run(inputs)
    near(out, expected.out, 1e-5, "out")
    empty = np.isinf(expected.lse)
    assert (np.asarray(total)[empty] == 0).all()
    assert (np.asarray(top)[empty] == np.float32(DEFAULT_MASK_VALUE)).all()
    with np.errstate(divide="ignore"):
        near(np.where(empty, -np.inf, np.log(total) + top), expected.lse, 1e-5, "lse")
    wanted = {name: getattr(expected, f"d{name}") for name in ("q", "k", "v")}
    wanted["ab"] = getattr(expected, "dbias", None)
    if with_sinks:
        wanted["sinks"] = expected.dsinks
    for name, gradient in zip(wanted, by_hand, strict=True):
        if wanted[name] is None:
            assert gradient is None
        else:
            near(gradient, wanted[name], 2e-5, name)
    wanted["softmax_scale"] = np.asarray(expected.dscale)
    for gradients in by_jax:
        assert gradients.keys() == inputs.keys()
        for name, gradient in gradients.items():
            terms = expected.dscale_terms if name == "softmax_scale" else 1.0
            near(gradient, wanted[name], 2e-5, name, scale=terms)


@pytest.mark.parametrize(
    ("causal", "with_ids", "with_bias"), [(True, True, False), (False, True, True)]
)
def test_jax_has_the_same_where_it_is_right(near, draw_inputs, causal, with_ids, with_bias):
    """No empty row, as many kv heads as heads, no bias beside a scale, a whole bias."""
    q, k, v, dout = draw_inputs(1, BATCH, HEADS, HEADS, 8, 8, WIDTH, WIDTH)
    random = np.random.default_rng(3)
    bias = random.standard_normal((BATCH, HEADS, 8, 8)).astype(np.float32) if with_bias else None
    ids = np.sort(random.integers(0, 3, (BATCH, 8)), axis=1).astype(np.int32) if with_ids else None
    our_ids = None if ids is None else SegmentIds(ids, ids)
    their_ids = None if ids is None else jax_flash.SegmentIds(ids, ids)
    scale = 1.0 if with_bias else 0.4

    def compare(functions, ids, scale):
        """Output and residuals, and the gradients of a scale of 1, all that JAX's has."""
        attend, backward, keyword = functions
        keep = functools.partial(attend, q, k, v, bias, ids, causal=causal, save_residuals=True)
        plain = keep()
        return keep(**{keyword: scale}), backward(q, k, v, bias, ids, *plain, dout, causal)

    with jax.default_matmul_precision("highest"):
        theirs = (
            jax_flash.mha_reference_no_custom_vjp, jax_flash.mha_reference_bwd, "sm_scale"
        )  # fmt: skip
        expected = jax.jit(lambda: compare(theirs, their_ids, scale))()
    ours = mha_reference_no_custom_vjp, mha_reference_bwd, "softmax_scale"
    found = jax.jit(lambda: compare(ours, our_ids, scale))()
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                near(x, np.asarray(y), 1e-5)


def test_scale_bias_is_jax_s_order(near, draw_inputs):
    q, k, v, dout = draw_inputs(2, 1, 2, 2, 5, 5, 4, 4)
    bias = np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)

    @jax.jit
    def run():
        def loss(attend, bias, scale):
            return (attend(q, k, v, bias, softmax_scale=scale, scale_bias=True) * dout).sum()

        outputs = [
            mha_reference(q, k, v, bias, softmax_scale=0.3, scale_bias=True),
            mha_reference(q, k, v, bias, softmax_scale=0.3),
            jax_flash.mha_reference_no_custom_vjp(q, k, v, bias, sm_scale=0.3),
        ]
        return outputs, [
            jax.grad(functools.partial(loss, attend), (0, 1))(bias, 0.3)
            for attend in (mha_reference, mha_reference_no_custom_vjp)
        ]

    (like_jax, right, theirs), gradients = run()
    near(like_jax, np.asarray(theirs), 1e-5)
    assert np.abs(right - theirs).max() > 0.01
    for a, b in zip(*gradients, strict=True):
        near(a, np.asarray(b), 1e-5)


def test_a_traced_scale_and_half_precision(arrays, oracle, near):
    half = [jnp.asarray(x, jnp.bfloat16) for x in arrays[:3]]
    attend = jax.jit(lambda scale: mha_reference(*half, causal=True, softmax_scale=scale))
    out = attend(0.3)
    assert out.dtype == jnp.bfloat16
    near(out, oracle(*half, dense(None, True, "top_left"), 0.3).out, 2**-8)
    loss = jax.jit(jax.grad(lambda x: mha_reference(*x).astype(jnp.float32).sum()))
    gradients = loss(half)
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 3


def test_rows_that_attend_nothing_make_no_nan(arrays, jax_option):
    jax_option("jax_debug_nans", True)
    q, k, v, dout = arrays
    ids = SegmentIds(np.full((BATCH, Q_LEN), -1, np.int32), np.full((BATCH, KV_LEN), -1, np.int32))
    sinks = np.full(HEADS, 100, np.float32)
    for attend in (mha_reference, mha_reference_no_custom_vjp):

        def loss(q, k, v, sinks, attend=attend):
            return (attend(q, k, v, segment_ids=ids, sinks=sinks) * dout + 1).sum()

        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(q, k, v, sinks)
        assert value == dout.size
        assert not any(np.asarray(gradient).any() for gradient in gradients)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": np.zeros((4, 6, 5), np.float32)}, r"q: expected \[batch, heads, length, head_dim\]"),
        ({"k": np.zeros((2, 2, 9, 4), np.float32)}, r"k: expected \(2, 2, 9, 5\)"),
        ({"k": np.zeros((2, 3, 9, 5), np.float32)}, r"v: expected \(2, 3, 9, 3\)"),
        ({"v": np.zeros((1, 2, 9, 3), np.float32)}, r"v: expected \(2, 2, 9, 3\)"),
        (
            {"ab": np.zeros((6, 9), np.float32)},
            r"ab: expected \(2, 4, 6, 9\), or 1 along some axes",
        ),
        ({"ab": np.zeros((2, 2, 6, 9), np.float32)}, "ab: expected"),
        ({"sinks": np.zeros(2, np.float32)}, r"sinks: expected \(4,\)"),
        (
            {"segment_ids": SegmentIds(np.zeros((2, 6)), np.zeros((2, 6)))},
            r"segment_ids.kv: expected \(2, 9\), got \(2, 6\)",
        ),
        ({"align": "centre"}, "align: expected 'top_left' or 'bottom_right'"),
        ({"logits_soft_cap": 0.0}, "logits_soft_cap: expected above 0"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, changes, message):
    arguments = dict(zip(("q", "k", "v"), arrays, strict=False)) | changes
    for attend in (mha_reference, mha_reference_no_custom_vjp):
        with pytest.raises(ValueError, match=message):
            attend(**arguments)


def test_kv_heads_divide_the_heads(arrays):
    q, k, v, _ = arrays
    with pytest.raises(ValueError, match="divides q's 4, got 3"):
        mha_reference(q, k[:, [0, 1, 1]], v[:, [0, 1, 1]])
