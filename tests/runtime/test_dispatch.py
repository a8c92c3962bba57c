import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Full, Local, MultiHead, per_batch
from maskc_kernels import dense_attention
from maskc_runtime import ArgumentShapeError, ArgumentTypeError, attention, load_plan
from maskc_runtime import attention as attention_function
from maskc_runtime.errors import MaskcError

PLAN = compile_mask(
    Local(left=7, right=2), q_len=20, kv_len=27, heads=4, block_q=8, block_kv=8, block_kv_dkv=16
)
MASK = np.stack([PLAN.to_dense(head) for head in range(4)])
SHAPES = (2, 4, 20, 8), (2, 2, 27, 8), (2, 2, 27, 5)


def results(attend):
    """Jitted: the output, and the gradients of a loss that weighs every output differently."""

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(q, k, v):
        out = attend(q, k, v)
        weight = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return (out.astype(jnp.float32) * weight).sum(), out

    return run


sparse = functools.partial(attention, plan=PLAN)


def dense(q, k, v, sm_scale=None, mask=MASK):
    return dense_attention(q, k, v, mask, sm_scale=sm_scale)[0]


def close(actual, expected, tolerance=1e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), actual, expected
    )


@pytest.fixture(scope="module")
def qkv(draw_qkv):
    return draw_qkv(*SHAPES)


@pytest.fixture(scope="module")
def expected(draw_qkv):
    return results(dense)(*draw_qkv(*SHAPES))


def test_a_mask_for_each_batch_row(qkv):
    """Folded into the heads, as `per_batch` says, with fewer kv heads than query heads."""
    rows = [Local(7, 2), MultiHead([Causal(), Full(), Local(3, 0), Causal()])]
    plan = compile_mask(per_batch(rows), q_len=20, kv_len=27, block_q=8, block_kv=8)
    masks = np.stack([plan.to_dense(head) for head in range(8)]).reshape(2, 4, 20, 27)

    def folded(q, k, v):
        one_row = (x.reshape(1, -1, *x.shape[2:]) for x in (q, k, v))
        return attention(*one_row, plan).reshape(*q.shape[:-1], v.shape[-1])

    def row_by_row(q, k, v):
        outs = [dense(q[b : b + 1], k[b : b + 1], v[b : b + 1], mask=masks[b]) for b in (0, 1)]
        return jnp.concatenate(outs)

    close(results(folded)(*qkv), results(row_by_row)(*qkv))


def test_under_jit_same_as_the_definition(qkv, expected):
    close(results(sparse)(*qkv), expected)


def test_eagerly_same_as_the_definition(qkv, expected):
    close(sparse(*qkv), expected[1])


def test_without_a_batch(qkv):
    single = [x[1] for x in qkv]
    close(attention(*single, PLAN), dense(*qkv)[1])


def test_vmap_over_the_batch(qkv, expected):
    close(results(jax.vmap(sparse))(*qkv), expected)


def test_vmap_over_a_second_batch(qkv, expected):
    out = jax.jit(jax.vmap(sparse))(*(jnp.stack([x, x[::-1]]) for x in qkv))
    close(out, jnp.stack([expected[1], expected[1][::-1]]))


def test_vmap_over_queries_alone(qkv, expected):
    q, k, v = qkv
    out = jax.jit(jax.vmap(lambda q: attention(q, k[0], v[0], PLAN)))(q)
    close(out[0], expected[1][0])


def test_checkpoint_gives_the_same(qkv, expected):
    close(results(jax.checkpoint(sparse))(*qkv), expected)


def test_a_plan_as_argument_of_a_scan_over_layers(qkv):
    q, k, v = qkv
    square = [x[:, :, :20] for x in (q, k, v)]
    square[2] = square[1] * 0.5
    plan = load_plan(compile_mask(Causal(), q_len=20, heads=4, block_q=8, block_kv=8))

    @jax.jit
    def run(plan, q, k, v):
        layer = lambda x, _: (x + attention(x, k, v, plan), None)  # noqa: E731
        return jax.lax.scan(layer, q, None, length=2)[0]

    expected = square[0]
    for _ in range(2):
        expected += dense_attention(expected, *square[1:], np.tri(20, dtype=bool)[None])[0]
    close(run(plan, *square), expected)


@pytest.mark.parametrize("sm_scale", [0.25, np.float64(0.25), jnp.float32(0.25), 1])
def test_sm_scale_in_every_form(qkv, sm_scale):
    out = attention(*qkv, PLAN, sm_scale=sm_scale)
    close(out, dense(*qkv, sm_scale=float(sm_scale)))


def test_sm_scale_may_be_traced_and_has_a_gradient(qkv):
    def loss(attend, sm_scale):
        return (attend(*qkv, sm_scale=sm_scale) ** 2).sum()

    actual = jax.jit(jax.value_and_grad(functools.partial(loss, sparse)))(0.3)
    close(actual, jax.jit(jax.value_and_grad(functools.partial(loss, dense)))(0.3), 1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_results_have_the_dtypes_of_the_inputs(draw_qkv, dtype):
    shapes = jax.eval_shape(results(sparse), *draw_qkv(*SHAPES, dtype=dtype))
    assert {x.dtype.name for x in jax.tree.leaves(shapes)} == {dtype}


def test_mixed_dtypes_give_each_gradient_its_own(qkv):
    q, k, v = qkv[0].astype(jnp.bfloat16), qkv[1], qkv[2].astype(jnp.float16)
    grads, out = jax.eval_shape(results(sparse), q, k, v)
    assert out.dtype == jnp.bfloat16
    assert [x.dtype for x in grads] == [jnp.bfloat16, jnp.float32, jnp.float16]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_strict_promotion_rules_are_kept(draw_qkv, dtype):
    attend = jax.jit(jax.grad(lambda *qkv: sparse(*qkv).sum(), (0, 1, 2)))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        shapes = jax.eval_shape(attend, *draw_qkv(*SHAPES, dtype=dtype))  # raises when traced
    assert [x.shape for x in shapes] == list(SHAPES)


def test_every_head_has_its_own_mask(draw_qkv):
    masks = (Causal(), Full(), Causal(), Local(left=3, right=0))
    plan = compile_mask(MultiHead(masks), q_len=20, block_q=8, block_kv=8)
    q, k, v = draw_qkv((1, 4, 20, 4), (1, 2, 20, 4))
    mask = np.stack([plan.to_dense(head) for head in range(4)])
    close(attention(q, k, v, plan), dense_attention(q, k, v, mask)[0])


def test_numpy_inputs_are_welcome(qkv):
    close(attention(*map(np.asarray, qkv), PLAN), dense(*qkv))


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((2, 3, 20, 8), *SHAPES[1:]), r"k: expected kv_heads to divide the 3 heads of q"),
        (((2, 8, 20, 8), *SHAPES[1:]), r"compiled for 4 heads of 20 queries x 27 keys, got q of"),
        (((2, 4, 16, 8), *SHAPES[1:]), r"got q of shape \(2, 4, 16, 8\)"),
        ((SHAPES[0], (2, 2, 26, 8), (2, 2, 26, 5)), r"k: plan \w{12} .* got k of .*26.* and v of"),
        ((SHAPES[0], (2, 2, 27, 6), SHAPES[2]), r"k: expected the head_dim of q \(2, 4, 20, 8\)"),
        ((*SHAPES[:2], (2, 2, 20, 5)), r"v: expected the kv_heads and kv_len of k \(2, 2, 27, 8\)"),
        ((*SHAPES[:2], (2, 4, 27, 5)), r"v: expected the kv_heads and kv_len of k \(2, 2, 27, 8\)"),
        ((SHAPES[0], (3, 2, 27, 8), (3, 2, 27, 5)), r"k: expected rank 4 and the batch of q"),
        ((*SHAPES[:2], (2, 27, 5)), r"v: expected rank 4 and the batch of q"),
        (((20, 8), (27, 8), (27, 5)), r"q: expected \[batch, heads, q_len, head_dim\] or"),
        ((SHAPES[0], (2, 0, 27, 8), (2, 0, 27, 5)), r"k: expected kv_heads to divide the 4 heads"),
    ],
)
def test_shapes_that_do_not_fit(shapes, text):
    arrays = [jnp.zeros(shape) for shape in shapes]
    with pytest.raises(ArgumentShapeError, match=text) as caught:
        jax.jit(lambda *qkv: attention(*qkv, PLAN))(*arrays)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MaskcError)


def test_an_sm_scale_that_is_no_scalar(qkv):
    with pytest.raises(ArgumentShapeError, match=r"sm_scale: expected a scalar, got shape \(3,\)"):
        attention(*qkv, PLAN, sm_scale=jnp.ones(3))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_dtypes_that_are_refused(qkv, name):
    arrays = dict(zip("qkv", qkv, strict=True))
    arrays[name] = arrays[name].astype(jnp.int32)
    with pytest.raises(ArgumentTypeError, match=rf"{name}: expected one of bfloat16.* got int32"):
        attention_function(**arrays, plan=PLAN)
