"""One meaning everywhere: every backend x every option x published masks, against the oracle.

A backend is one line of `BACKENDS`. All masks of one size are stacked, so that they share one
compilation for each option. Where kernels are interpreted, which is slow, the masks are dealt out
to the options: every mask runs, and every option meets rows that attend nothing.
"""

import functools
import importlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import assert_near, dense_oracle

from maskc import expr, zoo
from maskc.compile import compile_mask
from maskc_runtime import SegmentIds, attention, stack_plans

BATCH, HEADS, KV_HEADS = 2, 4, 2


@dataclass(frozen=True)
class Backend:
    """What a backend needs to run here.

    Attributes:
        name: as users call it.
        block: block_q and block_kv; lengths are three blocks, less a ragged edge.
        dims: head_dim and v_head_dim.
        settings: "module:expression" of what `config` gets.
        fixture: that has to be set up.
        jit: whether it runs under `jax.jit`.
        refuses: options that it has none of.
        options: those that its masks are dealt out to; None runs every mask with every option.
        tolerance: in float32, of the scale of the values.
    """

    name: str
    block: int = 8
    dims: tuple = (8, 5)
    settings: str | None = None
    fixture: str | None = None
    jit: bool = True
    refuses: tuple = ()
    options: tuple | None = None
    tolerance: float = 1e-5

    @property
    def q_len(self):
        return 3 * self.block - 3

    @property
    def config(self):
        if self.settings is None:
            return None
        module, expression = self.settings.split(":")
        return eval(expression, vars(importlib.import_module(module)))  # noqa: S307  # our own


BACKENDS = [
    Backend("xla"),
    Backend(
        "tpu",
        128,
        settings="maskc_kernels.tpu:KernelConfig(interpret=True)",
        refuses=("bias",),
        options=("nothing", "segment ids", "all"),
    ),
    Backend(
        "gpu",
        16,
        fixture="triton_interpreted",
        options=("nothing", "segment ids", "soft cap", "sinks", "bias", "all"),
    ),
]


def masks_of_all_heads(n):
    """Published masks of n tokens, and the extremes."""
    third, rng = n // 3, np.random.default_rng(0)
    starts = np.cumsum([0, third, 2, n - third - 2])
    image = np.where(np.arange(n) % 7 < 3, np.arange(n) // 7, -1)
    pattern = rng.random((-(-n // 4), -(-n // 4))) < 0.2
    return {
        "full": expr.Full(),
        "empty": expr.Empty(),
        "causal": expr.Causal(),
        "causal, first rows empty": expr.Causal(offset=-third),
        "sliding window": zoo.sliding_window(third),
        "window and sinks": zoo.sink_window(2, 5),
        "prefix LM": zoo.prefix_lm(third),
        "dilated window": zoo.dilated_window(third, 2),
        "documents with prefixes": zoo.document_prefix_lm(starts, [2, 1, 3]),
        "shared prefix": zoo.shared_prefix(third, [3, n - third - 3]),
        "images": zoo.image_blocks(image),
        "padded keys": zoo.padded_keys(n - 5, 2),
        "block causal": zoo.block_causal(5),
        "block diffusion": zoo.block_diffusion(n // 2, 3),
        "bigbird": zoo.bigbird(pattern, 4),
        "longformer": zoo.longformer(3, [0, third]),
        "strided": zoo.sparse_transformer_strided(4),
        "fixed": zoo.sparse_transformer_fixed(5, 2),
        "vertical slash": zoo.vertical_slash([1, third], [0, 2, 9]),
        "video": zoo.svg_temporal(3, third, 2),
        "noise": expr.Random(0.7, seed=1),
    }


def masks_per_head(n):
    """Masks that differ between heads."""
    return {
        "local and global heads": expr.MultiHead([expr.Causal(), zoo.sliding_window(4)] * 2),
        "heads that see nothing": expr.MultiHead(
            [expr.Empty(), expr.Full(), expr.Empty(), expr.Random(0.5)]
        ),
        "kinds of heads": expr.MultiHead(
            [zoo.prefix_lm(3), zoo.longformer(2, [n // 2]), expr.Causal(), zoo.prefix_lm(3)]
        ),
    }


GROUPS = {"shared": masks_of_all_heads, "per head": masks_per_head}
EMPTY_ROWS = {"shared": "causal, first rows empty", "per head": "heads that see nothing"}


@functools.cache
def plans(backend, group):
    """Names, dense masks [masks, heads, q_len, q_len], and a stack of plans."""
    n, block = backend.q_len, backend.block
    named = GROUPS[group](n)
    compiled = [
        compile_mask(
            mask, q_len=n, heads=HEADS, block_q=block, block_kv=block, block_q_dkv=2 * block
        )
        for mask in named.values()
    ]
    dense = [np.stack([plan.to_dense(head) for head in range(HEADS)]) for plan in compiled]
    return list(named), np.stack(dense), stack_plans(compiled)


def draw(shape, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def segments(n):
    """Documents that come back, padding at the end, and other ones in the second batch row."""
    q = np.stack([np.arange(n) * 3 // n % 2, np.arange(n) // 5]).astype(np.int32)
    kv = q.copy()
    q[:, -4:], kv[:, -2:] = -1, -2
    return {"segment_ids": SegmentIds(q, kv)}


OPTIONS = {
    "nothing": lambda _n: {},
    "segment ids": segments,
    "soft cap": lambda _n: {"logits_soft_cap": 1.5},
    "sinks": lambda _n: {"sinks": draw(HEADS, 5)},
    "bias": lambda n: {"bias": draw((1, HEADS, n, n), 6)},
}
KINDS = {
    "segment_ids": "segment ids",
    "logits_soft_cap": "soft cap",
    "sinks": "sinks",
    "bias": "bias",
}


def options_of(backend, option):
    """The options of a call; "all" is all that the backend does not refuse."""
    names = (
        [name for name in OPTIONS if name not in backend.refuses] if option == "all" else [option]
    )
    made = (OPTIONS[name](backend.q_len) for name in names)
    return functools.reduce(lambda a, b: a | b, made)


@functools.cache
def inputs(backend):
    n, (dim, v_dim) = backend.q_len, backend.dims
    shapes = (BATCH, HEADS, n, dim), (BATCH, KV_HEADS, n, dim), (BATCH, KV_HEADS, n, v_dim)
    return [draw(shape, seed) for seed, shape in enumerate(shapes)]


@functools.cache
def computed(backend, group, option):
    """A function of a mask's number: output, log-sum-exp, and gradients by name."""
    options = options_of(backend, option)
    traced = {name: value for name, value in options.items() if name != "logits_soft_cap"}
    static = {name: value for name, value in options.items() if name not in traced}
    weights = (
        draw((BATCH, HEADS, backend.q_len, backend.dims[1]), 3),
        draw((BATCH, HEADS, backend.q_len), 4),
    )

    def loss(floats, ids, plan):
        q, k, v, scale = floats["qkvs"]
        given = {name: value for name, value in floats.items() if name != "qkvs"}
        out, lse = attention(
            q, k, v, plan, sm_scale=scale, **given, **ids, **static, return_lse=True,
            backend=backend.name, config=backend.config,
        )  # fmt: skip
        reached = jnp.where(lse == -jnp.inf, 0, lse)
        return (out * weights[0]).sum() + (reached * weights[1]).sum(), (out, lse)

    run = jax.value_and_grad(loss, has_aux=True)
    run = jax.jit(run) if backend.jit else run
    ids = {name: value for name, value in traced.items() if name == "segment_ids"}
    floats = {name: value for name, value in traced.items() if name not in ids}
    floats["qkvs"] = (*inputs(backend), np.float32(0.4))

    def one(number):
        (_, (out, lse)), grads = run(floats, ids, plans(backend, group)[2][number])
        *dqkv, dscale = grads.pop("qkvs")
        named = dict(zip(("dq", "dk", "dv"), dqkv, strict=True)) | {"dscale": dscale}
        return named | {"out": out, "lse": lse} | {f"d{name}": g for name, g in grads.items()}

    return one, options, weights


def expected_of(backend, dense, options, weights):
    mask = np.broadcast_to(dense[None], (BATCH, *dense.shape))
    if "segment_ids" in options:
        q, kv = options["segment_ids"]
        mask = mask & ((q[:, :, None] == kv[:, None]) & (q[:, :, None] >= 0))[:, None]
    dlse = np.where(mask.any(-1), weights[1], 0)
    known = {name: options[name] for name in ("sinks", "bias") if name in options}
    cap = options.get("logits_soft_cap")
    return dense_oracle(
        *inputs(backend), mask, np.float32(0.4), weights[0], dlse, soft_cap=cap, **known
    )


def groups(backend):
    """The options of each group of masks."""
    if backend.options is None:
        every = (*OPTIONS, "all")
        return {"shared": every, "per head": ("nothing", "all")}
    return {"shared": backend.options, "per head": ("all",)}


def dealt(backend, group, option):
    """The numbers of the masks that an option of a backend gets."""
    names = plans(backend, group)[0]
    if backend.options is None:
        return list(range(len(names)))
    options = groups(backend)[group]
    own = set(range(options.index(option), len(names), len(options)))
    return sorted(own | {names.index(EMPTY_ROWS[group])})


CASES = [
    (backend, group, option)
    for backend in BACKENDS
    for group, options in groups(backend).items()
    for option in options
]


@pytest.mark.parametrize(
    ("backend", "group", "option"), CASES, ids=[f"{b.name}-{g}-{o}" for b, g, o in CASES]
)
def test_every_mask_means_the_same(backend, group, option, request, jax_option):
    if backend.fixture:
        request.getfixturevalue(backend.fixture)
    if backend.name == "xla" and option in {"nothing", "all"}:
        jax_option("jax_disable_most_optimizations", False)  # the programs that users run
    one, options, weights = computed(backend, group, option)
    names, masks, _ = plans(backend, group)
    for number in dealt(backend, group, option):
        name = names[number]
        expected = expected_of(backend, masks[number], options, weights)
        for key, value in one(number).items():
            scale = getattr(expected, f"{key}_terms", 1.0)
            actual, truth = np.asarray(value), np.asarray(getattr(expected, key))
            assert_near(actual, truth, backend.tolerance, f"{name}: {key}", scale)
            assert not np.isnan(actual).any(), f"{name}: {key}"


@pytest.mark.parametrize(
    ("backend", "option"), [(b, o) for b in BACKENDS for o in b.refuses], ids=lambda x: str(x)[:20]
)
def test_what_a_backend_has_not_is_refused(backend, option):
    one, *_ = computed(backend, "shared", option)
    with pytest.raises(
        ValueError, match=f"backend='{backend.name}' cannot run this call: {option}"
    ):
        one(0)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_every_mask_and_every_option_is_run(backend):
    """And whatever is dealt out, each option meets rows that attend nothing, and rows that do."""
    for group, options in groups(backend).items():
        names, masks, _ = plans(backend, group)
        given = {option: dealt(backend, group, option) for option in options}
        assert set().union(*given.values()) == set(range(len(names)))
        for option, numbers in given.items():
            reached = masks[numbers].any(-1)
            assert reached.any(), option
            assert not reached.all(), option
    run = {name for o in groups(backend)["shared"] for name in options_of(backend, o)}
    assert {KINDS[name] for name in run} == set(KINDS.values()) - set(backend.refuses)


def test_the_masks_are_of_every_kind():
    for group in GROUPS:
        names, dense, stack = plans(BACKENDS[0], group)
        assert stack.stacked == (len(names),)
        assert len({mask.tobytes() for mask in dense}) == len(names)
        assert not dense.any(-1).all()  # rows that attend nothing
        assert (dense == dense[:, :1]).all() == (group == "shared")
