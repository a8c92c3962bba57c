"""Every argument of `blocksparse_attention` means what a dense mask of the same rules means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import assert_near, dense_oracle
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

from maskc import expr, splash
from maskc.compile import compile_mask
from maskc_kernels.tpu import KernelConfig
from maskc_runtime import (
    ArgumentShapeError,
    ArgumentTypeError,
    ArgumentValueError,
    BackendError,
    BlockParams,
    PlanView,
    blocksparse_attention,
    mask_rules,
    plan_of_mask,
)
from maskc_runtime.errors import MaskcError

BATCH, HEADS, KV_HEADS, N, DIM, V_DIM = 2, 4, 2, 24, 8, 6
ROWS, COLUMNS = np.arange(N)[:, None], np.arange(N)[None]
CAUSAL = COLUMNS <= ROWS
SMALL = {"fwd_params": BlockParams(8, 8), "bwd_params": BlockParams(4, 12)}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


QKV = [
    draw(BATCH, HEADS, N, DIM),
    draw(BATCH, KV_HEADS, N, DIM, seed=1),
    draw(BATCH, KV_HEADS, N, V_DIM, seed=2),
]
IDS = np.stack([np.arange(N) * 3 // N, np.arange(N) // 5 % 2]).astype(np.int32)
IDS[1, -4:] = -1
SAME = (IDS[:, :, None] == IDS[:, None]) & (IDS >= 0)[:, :, None]
RANDOM = np.random.default_rng(3).random((BATCH, HEADS, N, N)) < 0.4


def zig_zag(parts=4):
    """Positions as load-balanced context parallelism deals them out."""
    chunks = np.arange(N).reshape(parts, -1)
    return np.concatenate(
        [
            chunks[i]
            for pair in zip(range(parts // 2), range(parts)[::-1], strict=False)
            for i in pair
        ]
    )


ZIG_ZAG = zig_zag()
EACH = np.stack([ZIG_ZAG, np.arange(N) % 9])  # a packed row that starts over
EACH[1, -3:] = -1


def by_positions(rule, q, kv):
    q, kv = (
        np.broadcast_to(q, (BATCH, N))[:, None, :, None],
        np.broadcast_to(kv, (BATCH, N))[:, None, None],
    )
    return rule(q, kv) & (q >= 0) & (kv >= 0)


def causal(q, kv):
    return kv <= q


CASES = {
    "nothing": ({}, CAUSAL),
    "not causal": ({"causal": False}, np.ones((N, N), bool)),
    "one window": ({"sliding_window": 3, "causal": False}, abs(ROWS - COLUMNS) <= 3),
    "window": (
        {"sliding_window": (5, 2), "causal": False},
        (COLUMNS >= ROWS - 5) & (COLUMNS <= ROWS + 2),
    ),
    "window as a list": ({"sliding_window": [4, None]}, CAUSAL & (COLUMNS >= ROWS - 4)),
    "chunks": ({"chunk_size": 7}, CAUSAL & (ROWS // 7 == COLUMNS // 7)),
    "segment ids": ({"q_segment_ids": IDS, "kv_segment_ids": IDS}, (CAUSAL & SAME)[:, None]),
    "ids of queries alone": ({"q_segment_ids": IDS, "causal": False}, SAME[:, None]),
    "zig-zag": (
        {"q_positions": ZIG_ZAG, "kv_positions": ZIG_ZAG},
        by_positions(causal, ZIG_ZAG, ZIG_ZAG),
    ),
    "positions of queries": ({"q_positions": ZIG_ZAG}, by_positions(causal, ZIG_ZAG, np.arange(N))),
    "window and chunks by position": (
        {
            "q_positions": ZIG_ZAG,
            "kv_positions": ZIG_ZAG,
            "sliding_window": (4, 0),
            "chunk_size": 8,
        },
        by_positions(
            lambda q, kv: (kv <= q) & (kv >= q - 4) & (q // 8 == kv // 8), ZIG_ZAG, ZIG_ZAG
        ),
    ),
    "positions for each row": (
        {"q_positions": EACH, "kv_positions": EACH},
        by_positions(causal, EACH, EACH),
    ),
    "positions and ids for each row": (
        {"q_positions": EACH, "kv_positions": EACH, "q_segment_ids": IDS},
        by_positions(causal, EACH, EACH) & SAME[:, None],
    ),
    "a dense mask": ({"attention_mask": RANDOM, "causal": False}, RANDOM),
    "a dense mask for all heads": ({"attention_mask": RANDOM[:, 0]}, RANDOM[:, :1] & CAUSAL),
    "a dense mask for all rows": (
        {"attention_mask": RANDOM[:1], "q_segment_ids": IDS},
        RANDOM[:1] & CAUSAL & SAME[:, None],
    ),
}


def masked(mask):
    return np.broadcast_to(mask if mask.ndim == 4 else mask[None, None], (BATCH, HEADS, N, N))


def assert_means(actual, mask, **options):
    expected = dense_oracle(*QKV, masked(mask), DIM**-0.5, **options)
    assert_near(actual[0], expected.out, 1e-5, "out")
    assert_near(actual[1], expected.lse, 1e-5, "lse")


attend = functools.partial(blocksparse_attention, return_lse=True, **SMALL)


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_is_compiled(name):
    arguments, mask = CASES[name]
    assert_means(jax.jit(lambda *qkv: attend(*qkv, **arguments))(*QKV), mask)


TRACED = [
    "segment ids",
    "window and chunks by position",
    "positions and ids for each row",
    "a dense mask",
    "a dense mask for all rows",
]


@pytest.mark.parametrize("name", TRACED)
def test_what_is_traced_means_the_same(name):
    arguments, mask = CASES[name]
    traced = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
    static = {key: value for key, value in arguments.items() if key not in traced}
    run = jax.jit(lambda qkv, traced: attend(*qkv, **traced, **static))
    assert_means(run(QKV, traced), mask)


INTERPRETED = {"backend": "tpu", "config": KernelConfig(interpret=True)}
EVERYWHERE = {
    "xla": {"backend": "xla", **SMALL},
    "tpu": {**INTERPRETED, "bwd_params": BlockParams(256, 128)},
    "gpu": {"backend": "gpu", "fwd_params": BlockParams(16, 32), "bwd_params": BlockParams(32, 16)},
}


@pytest.mark.parametrize("where", EVERYWHERE)
def test_every_argument_and_its_gradients_on_every_backend(where, request):
    """A mask for each batch row, which is folded into the heads, and blocks of each pass's own."""
    if where == "gpu":
        request.getfixturevalue("triton_interpreted")
    sinks, bias = draw(HEADS, seed=5), None if where == "tpu" else BIAS
    dout = draw(BATCH, HEADS, N, V_DIM, seed=7)
    rules = {"sliding_window": (9, 1), "chunk_size": 20, "attention_mask": RANDOM}
    ids = {"q_segment_ids": IDS, "q_positions": EACH, "kv_positions": EACH}

    @jax.jit
    @functools.partial(jax.grad, argnums=range(4 if bias is None else 5))
    def run(q, k, v, sinks, bias):
        out = blocksparse_attention(
            q, k, v, **ids, **rules, softmax_aux=sinks, bias=bias, logits_soft_cap=2.0,
            softmax_scale=0.4, mask_builder=builder_of_heads, causal=True, **EVERYWHERE[where],
        )  # fmt: skip
        return (out * dout).sum()

    by_rules = lambda q, kv: (kv <= q) & (kv >= q - 9) & (q // 20 == kv // 20)  # noqa: E731
    mask = by_positions(by_rules, EACH, EACH) & SAME[:, None] & RANDOM & PER_HEAD
    known = {"soft_cap": 2.0, "sinks": sinks} | ({} if bias is None else {"bias": bias})
    expected = dense_oracle(*QKV, mask, 0.4, dout, **known)
    grads = run(*QKV, sinks, bias)
    for name, grad in zip(("dq", "dk", "dv", "dsinks", "dbias"), grads, strict=False):
        assert_near(grad, getattr(expected, name), 1e-5, name)


@pytest.mark.parametrize(
    ("aux", "each"),
    [
        (np.float32(0.3), np.full(HEADS, 0.3)),
        (draw(1), np.repeat(draw(1), HEADS)),
        (draw(HEADS), draw(HEADS)),
        (draw(1, 3), np.full(HEADS, np.log(np.exp(draw(1, 3)).sum()))),
        (draw(HEADS, 2), np.log(np.exp(draw(HEADS, 2)).sum(1))),
    ],
    ids=["scalar", "one", "per head", "several shared", "several per head"],
)
def test_sinks_count_once(aux, each):
    """There are several kv blocks in each row, and each sink has its weight once."""
    plan = PLAN
    actual = blocksparse_attention(*QKV, qkv_layouts=plan, softmax_aux=aux, return_lse=True)
    assert_means(actual, CAUSAL, sinks=each)


BIAS = draw(BATCH, 1, N, N, seed=6)
PLAN = PlanView.from_plan(compile_mask(expr.Causal(), q_len=N, heads=HEADS, block_q=8, block_kv=8))


def builder_of_heads(q_len, kv_len, heads, head_idx, reps):
    assert (q_len, kv_len, heads, reps) == (N, N, HEADS, HEADS // KV_HEADS)
    return expr.Local(head_idx, 0)


def splash_builder(module):
    """As ejKernel has them on TPUs: a splash mask for each head."""
    return lambda q_len, kv_len, _heads, head_idx, _reps: module.LocalMask(
        (q_len, kv_len), (head_idx, 0), 0
    )


def builder_of_a_plan():
    return PLAN


PER_HEAD = np.stack([CAUSAL & (ROWS - head <= COLUMNS) for head in range(HEADS)])[None]


@pytest.mark.parametrize(
    ("arguments", "mask"),
    [
        ({"qkv_layouts": PLAN}, CAUSAL),
        ({"qkv_layouts": (PLAN, PLAN, PLAN)}, CAUSAL),
        ({"qkv_layouts": (plan_of_mask(CAUSAL, heads=HEADS, block_q=8, block_kv=8),) * 3}, CAUSAL),
        ({"mask_builder": builder_of_a_plan}, CAUSAL),
        ({"mask_builder": lambda: expr.Local(3, 1)}, (COLUMNS >= ROWS - 3) & (COLUMNS <= ROWS + 1)),
        (
            {"mask_builder": lambda: expr.Local(3, 1), "causal": True},
            CAUSAL & (COLUMNS >= ROWS - 3),
        ),
        ({"mask_builder": builder_of_heads}, PER_HEAD),
        ({"mask_builder": splash_builder(splash)}, PER_HEAD),
        ({"mask_builder": splash_builder(splash_attention_mask)}, PER_HEAD),
    ],
    ids=[
        "plan",
        "triple",
        "traced plan",
        "builder of a plan",
        "builder",
        "and causal",
        "heads",
        "splash",
        "JAX's splash",
    ],
)
def test_a_mask_of_its_own(arguments, mask):
    gives_a_plan = "qkv_layouts" in arguments or arguments.get("mask_builder") is builder_of_a_plan
    blocks = {} if gives_a_plan else SMALL
    assert_means(blocksparse_attention(*QKV, **arguments, **blocks, return_lse=True), mask)


def test_a_builder_and_traced_positions():
    run = jax.jit(
        lambda qkv, p: attend(*qkv, q_positions=p, mask_builder=builder_of_heads, causal=True)
    )
    mask = by_positions(causal, ZIG_ZAG, np.arange(N)) & PER_HEAD
    assert_means(run(QKV, ZIG_ZAG), mask)


def test_a_mask_is_compiled_once_for_many_calls():
    mask_rules.compiled.cache_clear()
    for _ in range(3):
        jax.eval_shape(lambda *qkv: attend(*qkv, sliding_window=6), *QKV)
    assert (mask_rules.compiled.cache_info().misses, mask_rules.compiled.cache_info().hits) == (
        1,
        2,
    )


def test_new_segment_ids_do_not_compile_again():
    traces = []

    @jax.jit
    def run(ids):
        traces.append(1)
        return attend(*QKV, q_segment_ids=ids)

    for shift in range(3):
        ids = np.roll(IDS, shift, 1)
        same = (ids[:, :, None] == ids[:, None]) & (ids >= 0)[:, :, None]
        assert_means(run(ids), (CAUSAL & same)[:, None])
    assert len(traces) == 1


@pytest.mark.parametrize("fused", [None, False, True])
def test_fused_backward_reaches_the_tpu_kernels(fused):
    seen = []

    def spy(q, *_args, config, **_options):
        seen.append(config)
        return q, q[..., 0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskc_runtime.blocksparse.attend", spy)
        attend(*QKV, fused_backward=fused)
        attend(*QKV, fused_backward=fused, backend="tpu", config=KernelConfig(interpret=True))
        attend(*QKV, fused_backward=False, backend="xla")
    if fused is None:
        assert seen == [None, KernelConfig(interpret=True), None]
    else:
        own = [KernelConfig(fused_backward=fused, interpret=given) for given in (False, True)]
        assert seen == [{"tpu": own[0]}, {"tpu": own[1]}, None]


def test_blocks_are_those_of_the_parameters():
    seen = []

    class Params:  # like ejKernel's own
        q_blocksize, kv_blocksize, num_warps, num_stages = 8, 4, 4, 2

    def spy(request):
        seen.append(request)
        return PLAN

    choices = ({}, {"fwd_params": Params()})
    choices += ({"fwd_params": Params, "bwd_params": {"q_blocksize": 12}},)
    choices += ({"backend": ("xla", "tpu")},)  # the least that TPUs take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskc_runtime.blocksparse.compiled", spy)
        for params in choices:
            run = functools.partial(blocksparse_attention, **params)
            jax.eval_shape(run, *QKV)
    sizes = [(r.block_q, r.block_kv, r.block_q_dq, r.block_kv_dkv) for r in seen]
    assert sizes == [(32, 32, 32, 32), (8, 4, 8, 4), (8, 4, 12, 4), (128,) * 4]


REFUSED = [
    (
        {"fused_backward": True, "backend": "xla"},
        ArgumentValueError,
        "fused_backward: only the TPU kernels have one for all gradients",
    ),
    ({"kv_segment_ids": IDS}, ArgumentValueError, "kv_segment_ids: given without q_segment_ids"),
    ({"q_segment_ids": IDS[:, :-1]}, ArgumentShapeError, r"q_segment_ids: expected .* \[2, 24\]"),
    ({"q_positions": np.zeros((3, N), int)}, ArgumentShapeError, r"q_positions: expected \[24\]"),
    (
        {"q_positions": np.zeros(N)},
        ArgumentTypeError,
        "q_positions: expected integers, got float64",
    ),
    (
        {"attention_mask": CAUSAL},
        ArgumentShapeError,
        r"attention_mask: expected .* got shape \(24, 24",
    ),
    ({"attention_mask": RANDOM * 1.0}, ArgumentTypeError, "attention_mask: expected bool.* a bias"),
    (
        {"softmax_aux": np.zeros(3)},
        ArgumentShapeError,
        r"softmax_aux: .* \[4\].* softmax_aux\[None\]",
    ),
    ({"sliding_window": -1}, ArgumentValueError, "sliding_window: expected sides >= 0"),
    (
        {"sliding_window": (1, 2, 3)},
        ArgumentTypeError,
        r"sliding_window: expected an integer or \(",
    ),
    ({"chunk_size": 0}, ArgumentValueError, "chunk_size: expected a positive integer, got 0"),
    ({"chunk_size": 2.5}, ArgumentTypeError, "chunk_size: expected an integer, got 2.5"),
    (
        {"qkv_layouts": PLAN, "causal": True},
        ArgumentValueError,
        "causal: the plan that was given is",
    ),
    (
        {"qkv_layouts": PLAN, "chunk_size": 4},
        ArgumentValueError,
        "chunk_size: the plan that was giv",
    ),
    (
        {"qkv_layouts": PLAN, "mask_builder": dict},
        ArgumentValueError,
        "mask_builder: qkv_layouts says",
    ),
    ({"qkv_layouts": []}, ArgumentValueError, "qkv_layouts: expected one plan, or the same one"),
    ({"mask_builder": 3}, ArgumentTypeError, "mask_builder: expected a callable, got 3"),
    (
        {"mask_builder": lambda: 3},
        ArgumentTypeError,
        "mask_builder: expected it to return a mask or a plan, got 3",
    ),
    (
        {"mask_builder": lambda: splash.CausalMask((N, 8))},
        ArgumentShapeError,
        r"mask_builder: expected a mask of shape \(24, 24\), got CausalMask of shape \(24, 8\)",
    ),
    ({"causal": "no"}, ArgumentTypeError, "causal: expected True or False, known when the funct"),
    (
        {"fwd_params": {"block_q": 64}},
        ArgumentValueError,
        "fwd_params: expected the names q_blocksize, .*, got 'block_q'",
    ),
    (
        {"sequence_parallelism_mesh_axis_name": 3},
        ArgumentTypeError,
        "sequence_parallelism_mesh_axis_name: expected the name of an axis, got 3",
    ),
    ({"backend": "tpu", "bias": BIAS}, BackendError, "backend='tpu' cannot .* bias: the TPU ker"),
    ({"backend": "tpu", **SMALL}, BackendError, "backend='tpu' cannot .* multiples of 128"),
    ({"backend": "gpu", **SMALL}, BackendError, "backend='gpu' cannot run this call: "),
    ({"fwd_params": 3}, ArgumentTypeError, "fwd_params: expected BlockParams, or .* q_blocksize"),
    (
        {"bwd_params": BlockParams(0)},
        ArgumentValueError,
        "bwd_params.q_blocksize: expected a positive",
    ),
    ({"logits_soft_cap": -1.0}, ArgumentValueError, "logits_soft_cap: expected a positive number"),
    (
        {"sequence_parallelism_mesh_axis_name": "sp"},
        ArgumentValueError,
        "sequence_parallelism_mesh_axis_name: no axis 'sp' here; call it inside a shard_map",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), REFUSED, ids=[t[:20] for *_, t in REFUSED])
def test_what_is_refused_and_why(arguments, kind, text):
    with pytest.raises(kind, match=text) as caught:
        blocksparse_attention(*QKV, **arguments)
    assert isinstance(caught.value, MaskcError)


def test_shapes_that_do_not_fit():
    with pytest.raises(
        ArgumentShapeError, match=r"query: expected \[batch, heads, q_len, head_dim"
    ):
        blocksparse_attention(*(x[0] for x in QKV))
    with pytest.raises(ArgumentValueError, match="24 queries are not 16 keys; give both"):
        blocksparse_attention(QKV[0], *(x[:, :, :16] for x in QKV[1:]), q_segment_ids=IDS)
    with pytest.raises(ArgumentTypeError, match=r"logits_soft_cap: .* make it a static argument"):
        jax.jit(lambda cap: blocksparse_attention(*QKV, logits_soft_cap=cap))(jnp.float32(2))
