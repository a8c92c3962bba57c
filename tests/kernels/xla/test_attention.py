"""The property that matters: kernels == dense float64 oracle, forward and gradients."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Documents, Empty, Full, Local, MultiHead, Prefix
from maskc_kernels import block_sparse_attention

FP32 = 1e-5  # of the scale of the values
GRADIENTS = ("dq", "dk", "dv", "dscale")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Few of them, because each is compiled once; masks vary within."""

    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    blocks: dict
    masks: int = 1
    pattern: tuple = (0, 1)  # which mask each head has, if there are several
    batch: int = 2

    def compile(self, masks):
        mask = masks[0] if self.masks == 1 else MultiHead(tuple(masks[i] for i in self.pattern))
        return compile_mask(
            mask, q_len=self.q_len, kv_len=self.kv_len, heads=self.heads, **self.blocks
        )

    @property
    def inputs(self):
        return (
            self.batch, self.heads, self.kv_heads, self.q_len, self.kv_len,
            self.head_dim, self.v_head_dim,
        )  # fmt: skip


SHAPES = {
    "one block size": Shape(24, 24, 2, 2, 8, 8, {"block_q": 8, "block_kv": 8}),
    "ragged, grouped, three blockings": Shape(
        37, 50, 4, 2, 8, 12,
        {"block_q": 16, "block_kv": 9, "block_q_dq": 8, "block_kv_dq": 12,
         "block_q_dkv": 24, "block_kv_dkv": 16},
    ),
    "one kv head": Shape(21, 9, 4, 1, 6, 3, {"block_q": 16, "block_kv": 4, "block_q_dkv": 5}),
    "masks per head": Shape(
        19, 26, 4, 2, 8, 5, {"block_q": 8, "block_kv": 8, "block_kv_dkv": 10},
        masks=2, pattern=(1, 0, 0, 1),
    ),
}  # fmt: skip


@functools.lru_cache
def compiled():
    """One jitted function for all: output, lse and the gradients of both."""

    def run(q, k, v, sm_scale, dout, dlse, tables):
        (out, lse), pullback = jax.vjp(
            lambda *args: block_sparse_attention(*args, tables), q, k, v, sm_scale
        )
        return out, lse, *pullback((dout, jnp.where(lse == -jnp.inf, 0, dlse)))

    return jax.jit(run)


def check(shape, plan, tables, seed, tolerance, oracle, near, draw_inputs, dtype="float32"):
    q, k, v, dout = draw_inputs(seed, *shape.inputs, dtype=dtype)
    dlse = np.random.default_rng(seed + 1).standard_normal(q.shape[:3]).astype(np.float32)
    wide = np.float64 if dtype == "float64" else np.float32
    results = compiled()(q, k, v, wide(0.4), dout, dlse.astype(wide), tables)
    mask = np.stack([plan.to_dense(head) for head in range(shape.heads)])
    expected = oracle(q, k, v, mask, wide(0.4), dout, np.where(mask.any(-1), dlse, 0))
    assert [x.dtype.name for x in results[:5]] == [dtype, wide.__name__, dtype, dtype, dtype]
    for name, result in zip(("out", "lse", *GRADIENTS), results, strict=True):
        # One number that sums terms of both signs can be no nearer than the terms are.
        scale = expected.dscale_terms if name == "dscale" else 1.0
        near(result, np.asarray(getattr(expected, name)), tolerance, name, scale)


def leaves(shape):
    """Masks of one head: random ones with empty rows and columns, and the usual ones."""

    def dense(seed, density, dead_rows):
        rng = np.random.default_rng(seed)
        allowed = rng.random((shape.q_len, shape.kv_len)) < density
        allowed[rng.random(shape.q_len) < dead_rows] = False
        return Dense(allowed)

    random = st.builds(
        dense,
        st.integers(0, 2**32),
        st.sampled_from([0.01, 0.1, 0.5, 1]),
        st.sampled_from([0, 0.5]),
    )
    usual = st.one_of(
        st.builds(Causal, offset=st.integers(-8, 8)),
        st.builds(Local, left=st.integers(0, 12), right=st.integers(0, 12)),
        st.builds(Prefix, st.integers(0, 9)),
        st.lists(st.integers(0, 3), min_size=1, max_size=3).map(packed),
        st.just(Full()),
        st.just(Empty()),
    )
    pairs = st.tuples(usual, usual)
    combined = pairs.map(lambda two: two[0] & two[1]) | pairs.map(lambda two: two[0] | two[1])
    return random | usual | combined


def packed(lengths):
    return Documents(np.cumsum([0, *lengths]))


@pytest.mark.parametrize("name", SHAPES)
def test_forward_and_gradients_match_the_oracle(name, oracle, near, draw_inputs, tables_of):
    shape = SHAPES[name]

    @settings(max_examples=50)
    @given(st.lists(leaves(shape), min_size=shape.masks, max_size=shape.masks), st.integers(0, 99))
    def holds(masks, seed):
        plan = shape.compile(masks)
        # Equal masks on every head are one mask, and that path has shapes of its own above.
        assume(shape.masks == 1 or plan.masks > 1)
        tables = tables_of(plan, roomy=True)
        check(shape, plan, tables, seed, FP32, oracle, near, draw_inputs)

    holds()


@pytest.mark.parametrize(
    "masks", [[Full()], [Empty()], [Dense(np.eye(16, dtype=bool))], [Full(), Empty()]]
)
def test_lists_without_a_single_entry(masks, oracle, near, draw_inputs, tables_of):
    heads = len(masks)
    shape = Shape(16, 16, heads, 1, 4, 4, {"block_q": 8, "block_kv": 8}, masks=heads)
    plan = shape.compile(masks)
    check(shape, plan, tables_of(plan), 0, FP32, oracle, near, draw_inputs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Half precision: the inputs are exact, every result is rounded once, and the gradients see
    # the rounded output.
    [("bfloat16", 2**-6), ("float16", 2**-9), ("float64", 1e-13)],
)
def test_dtypes(dtype, tolerance, oracle, near, draw_inputs, tables_of, jax_option):
    jax_option("jax_enable_x64", dtype == "float64")
    shape = SHAPES["one block size"]
    plan = shape.compile([Local(left=11, right=3) - Prefix(10)])
    check(shape, plan, tables_of(plan), 0, tolerance, oracle, near, draw_inputs, dtype)


@pytest.mark.parametrize("heads", [1, 2])
def test_queries_that_attend_nothing_make_no_nan_and_no_gradient(
    heads, draw_inputs, tables_of, jax_option
):
    jax_option("jax_debug_nans", True)
    masks = [Dense(np.eye(20, 24, dtype=bool) & (np.arange(20) % 3 > 0)[:, None]), Empty()]
    shape = Shape(20, 24, heads, 1, 4, 4, {"block_q": 8, "block_kv": 8}, masks=heads, batch=1)
    tables = tables_of(shape.compile(masks[:heads]))
    q, k, v, dout = draw_inputs(0, *shape.inputs)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(q, k, v):
        out, lse = block_sparse_attention(q, k, v, np.float32(1), tables)
        # The gradient of exp(-lse) is infinite where lse is -inf.
        return (out * dout).sum() + jnp.exp(-lse).sum(), (out, lse)

    (dq, dk, dv), (out, lse) = run(q, k, v)
    assert not np.asarray(out)[0, 0, ::3].any()
    assert (np.asarray(lse)[0, 0, ::3] == -np.inf).all()
    assert not np.asarray(dq)[0, 0, ::3].any()
    assert np.isfinite(dk).all()
    assert np.isfinite(dv).all()
    # Keys from 20 on, and those whose only query is empty, are attended by nobody.
    assert not np.asarray(dk)[0, 0, 20:].any()
    assert not np.asarray(dv)[0, 0, ::3].any()


def test_blocks_that_are_not_listed_are_never_read(draw_inputs, tables_of):
    shape = SHAPES["one block size"]
    tables = tables_of(shape.compile([packed([8, 8, 8])]), roomy=True)
    q, k, v, dout = draw_inputs(0, *shape.inputs)
    for array in (q, k, v, dout):
        array[:, :, 8:16] = np.nan
    out, lse, dq, dk, dv, _ = compiled()(q, k, v, np.float32(1), dout, 0 * dout[..., 0], tables)
    for result in (out, lse[..., None], dq, dk, dv):
        bad = np.isnan(np.asarray(result)).any((0, 1, 3))
        np.testing.assert_array_equal(bad, np.arange(24) // 8 == 1)


def lowered(plan, tables_of, heads, kv_heads, head_dim=16):
    q, k = (
        jax.ShapeDtypeStruct((1, number, length, head_dim), jnp.float32)
        for number, length in ((heads, plan.q_len), (kv_heads, plan.kv_len))
    )
    dout, lse = q, jax.ShapeDtypeStruct(q.shape[:3], jnp.float32)
    args = (q, k, k, np.float32(1), dout, lse, tables_of(plan))
    return compiled().lower(*args).as_text()


def largest_array(text):
    shapes = re.findall(r"tensor<((?:\d+x)+)[a-z]", text)
    return max(np.prod([int(size) for size in shape.split("x")[:-1]]) for shape in shapes)


def test_no_array_of_scores_and_no_repeated_keys(tables_of):
    wide = compile_mask(Causal(), q_len=1024, block_q=64, block_kv=64, heads=2)
    assert largest_array(lowered(wide, tables_of, 2, 2)) == 2 * 1024 * 16
    grouped = compile_mask(Full(), q_len=32, kv_len=2048, block_q=32, block_kv=64, heads=8)
    assert largest_array(lowered(grouped, tables_of, 8, 1)) == 2048 * 16
    mixed = compile_mask(
        MultiHead((Full(), Causal(offset=1999)) * 4), q_len=32, kv_len=2048,
        block_q=32, block_kv=64,
    )  # fmt: skip
    assert largest_array(lowered(mixed, tables_of, 8, 1)) == 2048 * 16


def test_the_program_does_not_grow_with_the_mask(tables_of):
    def size(mask, **parameters):
        plan = compile_mask(mask, block_q=8, block_kv=8, **parameters)
        return len(lowered(plan, tables_of, plan.heads, plan.heads))

    rng = np.random.default_rng(0)
    random = [Dense(rng.random((64, 64)) < 0.3) | Causal(offset=-20) for _ in range(8)]
    small, large = size(Causal(), q_len=16), size(random[0], q_len=64)
    assert large < 1.02 * small
    few, many = (size(MultiHead(tuple(random[:n])), q_len=64) for n in (2, 8))
    assert many < 1.02 * few
