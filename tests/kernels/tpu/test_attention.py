"""The property that matters: interpreted kernels == dense float64 oracle, forward and gradients."""

import dataclasses
import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from maskc import zoo
from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Documents, Empty, Full, Local, MultiHead, Prefix
from maskc_kernels.tpu import KernelConfig, block_sparse_attention
from maskc_kernels.tpu.paths import Paths

FP32 = 1e-5  # of the scale of the values
RESULTS = ("out", "lse", "dq", "dk", "dv", "dscale", "dsinks")
# Interpreted programs take seconds to compile and milliseconds to run.
QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 12):  # the option is gone there
    QUICK["xla_cpu_use_fusion_emitters"] = False
# Chunks far smaller than a row, so that lists are streamed.
PLAIN = KernelConfig(chunk=4, interpret=True)
STRICT = KernelConfig(
    chunk=4, interpret=pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
)


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
    pattern: tuple = (0,)  # which mask each head has, if there are several
    batch: int = 1
    soft_cap: float | None = None
    sinks: tuple | None = None
    segments: bool = False
    fused: bool | None = None
    intervals: tuple | None = None  # of every query and key, most; what masks are drawn from
    compute: int | None = None  # columns of scores per product

    @property
    def masks(self):
        return max(self.pattern) + 1

    def compile(self, masks):
        mask = masks[0] if self.masks == 1 else MultiHead(tuple(masks[i] for i in self.pattern))
        return compile_mask(
            mask, q_len=self.q_len, kv_len=self.kv_len, heads=self.heads, **self.blocks,
            row_bounds=self.intervals is not None,
        )  # fmt: skip

    @property
    def inputs(self):
        return (
            self.batch, self.heads, self.kv_heads, self.q_len, self.kv_len,
            self.head_dim, self.v_head_dim,
        )  # fmt: skip


SQUARE = {"block_q": 128, "block_kv": 128}
BLOCKINGS = {
    "block_q": 128, "block_kv": 256, "block_q_dq": 256, "block_kv_dq": 128,
    "block_q_dkv": 128, "block_kv_dkv": 128,
}  # fmt: skip
# Blocks of eight and of four tiles of 128 columns, of which empty ones are not computed.
SQUARES = {"block_q_dq": 128, "block_kv_dq": 128, "block_q_dkv": 128, "block_kv_dkv": 128}
EIGHT = {"block_q": 512, "block_kv": 512} | SQUARES
FOUR = {"block_q": 128, "block_kv": 512} | SQUARES
SHAPES = {
    "ragged, grouped, three blockings": Shape(
        300, 500, 4, 2, 8, 12, BLOCKINGS, batch=2
    ),
    "masks per head": Shape(200, 300, 4, 2, 8, 5, SQUARE, pattern=(1, 0, 0, 1)),
    "cap and sinks": Shape(
        256, 200, 2, 1, 16, 16, SQUARE, soft_cap=1.5, sinks=(0.5, -2.0)
    ),
    "parts of blocks": Shape(700, 900, 2, 1, 8, 8, EIGHT, compute=128),
    "parts of flat blocks, segments, cap, sinks": Shape(
        200, 700, 2, 1, 8, 12, FOUR, soft_cap=1.5, sinks=(0.5, -2.0), segments=True, compute=128
    ),
    "segments, grouped": Shape(300, 400, 4, 2, 8, 8, SQUARE, batch=2, segments=True),
    "bounds, ragged, grouped, three blockings": Shape(
        300, 500, 2, 1, 8, 12, BLOCKINGS, intervals=(1, 1), fused=True
    ),
    "bounds of keys, segments, masks per head, sinks": Shape(
        384, 300, 2, 1, 8, 8, SQUARE,
        pattern=(0, 1), sinks=(1.0, 0.0), segments=True, intervals=(2, 1), fused=False,
    ),
}  # fmt: skip


@functools.lru_cache
def compiled(soft_cap, config):
    """One jitted function for all: output, lse and the gradients of both."""

    def run(q, k, v, sm_scale, sinks, dout, dlse, tables, ids=(None, None)):
        (out, lse), pullback = jax.vjp(
            lambda q, k, v, sm_scale, sinks: block_sparse_attention(
                q, k, v, sm_scale, tables,
                q_segment_ids=ids[0], kv_segment_ids=ids[1],
                logits_soft_cap=soft_cap, sinks=sinks, config=config,
            ),
            q, k, v, sm_scale, sinks,
        )  # fmt: skip
        return out, lse, *pullback((dout, jnp.where(lse == -jnp.inf, 0, dlse)))

    return jax.jit(run, compiler_options=QUICK)


@pytest.fixture
def check(oracle, near, draw_inputs):
    def against_oracle(
        shape, plan, tables, seed=0, tolerance=FP32, dtype="float32", config=PLAIN, scale=0.4
    ):
        q, k, v, dout = draw_inputs(seed, *shape.inputs, dtype=dtype)
        dlse = np.random.default_rng(seed + 1).standard_normal(q.shape[:3]).astype(np.float32)
        scale, sinks = np.float32(scale), shape.sinks and np.asarray(shape.sinks, np.float32)
        ids = draw_ids(shape, seed) if shape.segments else (None, None)
        config = dataclasses.replace(config, fused_backward=shape.fused, compute=shape.compute)
        results = compiled(shape.soft_cap, config)(q, k, v, scale, sinks, dout, dlse, tables, ids)
        mask = np.stack([plan.to_dense(head) for head in range(shape.heads)])[None]
        if shape.segments:
            q_ids, kv_ids = ids[0][:, None, :, None], ids[1][:, None, None, :]
            mask = mask & (q_ids == kv_ids) & (q_ids >= 0)
        dlse = np.where(mask.any(-1), dlse, 0)
        expected = oracle(q, k, v, mask, scale, dout, dlse, soft_cap=shape.soft_cap, sinks=sinks)
        assert [x.dtype.name for x in results[:5]] == [dtype, "float32", dtype, dtype, dtype]
        for name, result in zip(RESULTS, results, strict=True):
            if result is None:
                continue
            # One number that sums terms of both signs can be no nearer than the terms are.
            terms = getattr(expected, f"{name}_terms", 1.0)
            near(result, np.asarray(getattr(expected, name)), tolerance, name, terms)

    return against_oracle


def draw_ids(shape, seed):
    """Runs of ids, in order, shuffled or all alike, with padding here and there."""
    rng = np.random.default_rng(seed + 2)

    def side(length):
        cuts = np.sort(rng.integers(0, length + 1, rng.integers(0, 5)))
        ids = np.repeat(np.arange(len(cuts) + 1), np.diff([0, *cuts, length]))
        ids = rng.permutation(len(cuts) + 1)[ids] if rng.random() < 0.3 else ids
        ids[rng.integers(0, length + 1) :] = -rng.integers(1, 9) if rng.random() < 0.5 else 1
        return ids.astype(np.int32)

    draws = [[side(length) for _ in range(shape.batch)] for length in (shape.q_len, shape.kv_len)]
    return tuple(map(np.stack, draws))


def leaves(shape):
    """Masks of one head: random ones with empty blocks, rows and columns, and the usual ones."""
    if shape.intervals == (1, 1):
        return banded()
    if shape.intervals == (2, 1):
        apart = st.builds(lambda first, band: Prefix(first) & Causal() | band, st.integers(1, 40),
                          st.builds(Local, left=st.integers(0, 150), right=st.just(0)))  # fmt: skip
        return apart | banded()

    def dense(seed, density, dead):
        rng = np.random.default_rng(seed)
        allowed = rng.random((shape.q_len, shape.kv_len)) < density
        allowed[rng.random(shape.q_len) < dead] = False
        blocks = rng.random((-(-shape.q_len // 128), -(-shape.kv_len // 128))) < dead
        gone = np.kron(blocks, np.ones((128, 128), bool))
        return Dense(allowed & ~gone[: shape.q_len, : shape.kv_len])

    random = st.builds(
        dense, st.integers(0, 2**32), st.sampled_from([0.001, 0.1, 1]), st.sampled_from([0, 0.5])
    )
    usual = st.one_of(
        st.builds(Causal, offset=st.integers(-200, 200)),
        st.builds(Local, left=st.integers(0, 150), right=st.integers(0, 150)),
        st.builds(Prefix, st.integers(0, 200)),
        st.lists(st.integers(0, 66), min_size=1, max_size=3).map(packed),
        st.just(Full()),
        st.just(Empty()),
    )
    pairs = st.tuples(usual, usual)
    combined = pairs.map(lambda two: two[0] & two[1]) | pairs.map(lambda two: two[0] | two[1])
    return random | usual | combined


def banded():
    """Masks of one interval per query and per key."""
    return st.one_of(
        st.builds(Causal, offset=st.integers(-200, 200)),
        st.builds(
            lambda left, right, cuts: Local(left, right) & packed(cuts),
            st.integers(0, 150), st.integers(0, 150),
            st.lists(st.integers(0, 100), min_size=1, max_size=3),
        ),
        st.builds(lambda first: Causal() | Prefix(first), st.integers(0, 200)),
        st.just(Full()),
        st.just(Empty()),
    )  # fmt: skip


def without_bits(tables):
    """Wrong bits where bounds of one interval tell, to see that nobody reads them."""

    def wrong(table, bounds):
        if bounds is None or bounds.shape[1] > 2:
            return table
        return dataclasses.replace(table, partial_blocks=~table.partial_blocks)

    q_bounds, kv_bounds = tables.q_bounds, tables.kv_bounds
    return tables._replace(
        fwd=wrong(tables.fwd, q_bounds), dq=wrong(tables.dq, q_bounds),
        dkv=wrong(tables.dkv, kv_bounds),
    )  # fmt: skip


def packed(lengths):
    return Documents(np.cumsum([0, *lengths]))


@pytest.mark.parametrize("name", SHAPES)
def test_forward_and_gradients_match_the_oracle(name, check, tables_of):
    shape = SHAPES[name]

    @settings(max_examples=25)
    @given(st.lists(leaves(shape), min_size=shape.masks, max_size=shape.masks), st.integers(0, 99))
    def holds(masks, seed):
        plan = shape.compile(masks)
        # Equal masks on every head are one mask, and that path has shapes of its own.
        assume(shape.masks == 1 or plan.masks > 1)
        tables = tables_of(plan, roomy=True)
        if shape.intervals is not None:
            ends = tables.q_bounds, tables.kv_bounds
            assume(shape.intervals == tuple(side.shape[1] // 2 for side in ends))
            tables = without_bits(tables)
        check(shape, plan, tables, seed)

    holds()


@pytest.mark.parametrize(
    ("blocks", "fused", "kernels"),
    [
        (SQUARE, None, {"maskc_backward"}),
        (SQUARE, False, {"maskc_backward_dq", "maskc_backward_dkv"}),
        (BLOCKINGS, None, {"maskc_backward_dq", "maskc_backward_dkv"}),
        (BLOCKINGS, True, {"maskc_backward"}),
        ({"block_q": 384, "block_kv": 128}, None, {"maskc_backward_dq", "maskc_backward_dkv"}),
        ({"block_q": 384, "block_kv": 256}, None, {"maskc_backward"}),
    ],
)
def test_which_kernels_make_gradients(blocks, fused, kernels, draw_inputs, tables_of):
    shape = Shape(384, 384, 1, 1, 8, 8, blocks)
    q, k, v, dout = draw_inputs(0, *shape.inputs)
    config = dataclasses.replace(PLAIN, fused_backward=fused)
    tables = tables_of(shape.compile([Causal()]))
    program = (
        compiled(None, config)
        .trace(q, k, v, np.float32(1), None, dout, 0 * dout[..., 0], tables)
        .jaxpr
    )
    names = set(re.findall(r"maskc_\w+", str(program)))
    assert names == {"maskc_forward", *kernels}


@pytest.fixture
def tpu_interpreter():
    """The interpreter that has TPU memories; says whether it saw a race."""
    state = importlib.import_module("jax._src.pallas.mosaic.interpret.interpret_pallas_call")
    pltpu.reset_tpu_interpret_mode_state()
    yield state
    pltpu.reset_tpu_interpret_mode_state()


@pytest.mark.parametrize(
    ("pattern", "segments", "bounded"),
    [((0,), False, False), ((0, 1), False, False), ((0, 1), True, True)],
    ids=["one mask, grouped heads", "two masks", "segment ids, bounds of two masks, dq apart"],
)
def test_no_race_and_nothing_read_before_it_was_written(
    pattern, segments, bounded, check, tables_of, tpu_interpreter
):
    """Memory that nobody wrote is NaN, copies happen as late as they may, races are errors."""
    shape = Shape(
        384, 330, 2, 1, 8, 8, SQUARE,
        pattern=pattern, batch=2, sinks=(0.1, 0.2), segments=segments,
        intervals=(1, 1) if bounded else None, fused=not bounded,
    )  # fmt: skip
    window = Local(left=140, right=0)
    first = window if bounded else window | (Prefix(9) - Causal(offset=-256))
    plan = shape.compile([first, Causal(offset=-200)])
    tables = without_bits(tables_of(plan))
    assert bounded == (tables.q_bounds is not None)
    check(shape, plan, tables, config=STRICT)
    assert tpu_interpreter.races is not None
    assert not tpu_interpreter.races.races_found


def tiled(sets, seed=0):
    """Blocks of 512 x 1024 of one row, each with the tiles of 256 x 256 that its set names."""
    rng = np.random.default_rng(seed)
    tiles = np.zeros((2, 4 * len(sets)), bool)
    for block, held in enumerate(sets):
        for tile in held:
            tiles[tile % 2, 4 * block + tile // 2] = True
    return np.kron(tiles, np.ones((256, 256), bool)) & (rng.random((512, 1024 * len(sets))) < 0.3)


SETS = [{5, 6}, {1, 2, 4, 7}, {0, 1, 2, 3, 5, 7}, set(range(8)), {3}, {0, 2, 7}]


def test_no_race_where_parts_of_blocks_are_computed(check, tables_of, tpu_interpreter):
    """Every path of a partial block, two of them with a tile that is empty."""
    # The interpreter takes masked stores for out of bounds that have more rows than columns.
    shape = Shape(512, 1024 * len(SETS), 1, 1, 8, 8, EIGHT | {"block_kv": 1024}, compute=256)
    plan = shape.compile([Dense(tiled(SETS))])
    tables = tables_of(plan)
    paths = Paths.of(dataclasses.replace(STRICT, compute=256).order.parts, 512, 1024)
    held = np.asarray(paths.numbers(tables.fwd)) & 255
    assert [{t for t in range(8) if bits >> t & 1} for bits in held] == SETS
    assert {*np.asarray(paths.path(paths.table()[held]))} == {0, 1, 2}
    check(shape, plan, tables, config=STRICT)
    assert tpu_interpreter.races is not None
    assert not tpu_interpreter.races.races_found


def test_empty_parts_of_a_block_are_not_computed(draw_inputs, tables_of):
    shape = Shape(512, 2048, 1, 1, 8, 8, EIGHT | {"block_kv": 1024})
    q, k, v, _ = draw_inputs(0, *shape.inputs)
    # Keys 256 to 511 of the first block, and the last 512 of the second.
    v[:, :, 256:512] = v[:, :, 1536:] = np.nan
    tables = tables_of(shape.compile([Dense(tiled([{0, 1, 4, 5, 6, 7}, {0, 1, 2, 3}]))]))
    config = dataclasses.replace(PLAIN, compute=256)
    run = functools.partial(block_sparse_attention, config=config)
    out, _ = jax.jit(run, compiler_options=QUICK)(q, k, v, np.float32(1), tables)
    assert np.isfinite(out).all()


ZOO = {
    "sinks and a window": zoo.sink_window(4, 100),
    "documents with prefixes": zoo.document_prefix_lm((0, 150, 384), (60, 130)),
    "block diffusion": zoo.block_diffusion(192, 32),
    "dilated": zoo.dilated_window(160, 4),
    "longformer": zoo.longformer(60, (0, 200)),
    "strided": zoo.sparse_transformer_strided(64),
    "bigbird": zoo.bigbird(np.eye(12, dtype=bool)[::-1], 32),
    "padded": Causal() & zoo.padded_keys(333, left=130),
}
PAIR = Shape(384, 384, 2, 2, 4, 4, SQUARE, pattern=(0, 1))  # one program for all that use it


@pytest.mark.parametrize("masks", [[Full(), Empty()], [Empty(), Local(left=50, right=0)]])
def test_heads_without_a_single_block(masks, check, tables_of):
    plan = PAIR.compile(masks)
    check(PAIR, plan, tables_of(plan, roomy=True))


@pytest.mark.parametrize("name", ZOO)
def test_published_masks(name, check, tables_of):
    plan = PAIR.compile([ZOO[name], Causal()])
    check(PAIR, plan, tables_of(plan, roomy=True))


def test_a_scale_of_zero_has_a_gradient(check, tables_of):
    plan = PAIR.compile([Causal(), Local(left=50, right=9)])
    check(PAIR, plan, tables_of(plan, roomy=True), scale=0)


@pytest.mark.parametrize(("head_dim", "v_head_dim"), [(80, 96), (192, 128), (256, 64)])
def test_head_dims(head_dim, v_head_dim, check, tables_of):
    shape = Shape(128, 256, 2, 1, head_dim, v_head_dim, SQUARE)
    plan = shape.compile([Local(left=90, right=40)])
    check(shape, plan, tables_of(plan), scale=head_dim**-0.5)


@pytest.mark.parametrize("fused", [True, False])
def test_blocks_of_many_pieces(fused, check, tables_of):
    """A masked one is worked on in other pieces than a full one."""
    config = dataclasses.replace(PLAIN, compute=128, rows=256)
    for cut in (config.order.dq, config.order.dkv, config.order.fused):
        assert len(cut.masked(512, 512).tiles(512, 512)) < len(cut.tiles(512, 512))
    blocks = {"block_q": 512, "block_kv": 512}
    shape = Shape(512, 1024, 1, 1, 8, 8, blocks, fused=fused)
    plan = shape.compile([Causal(offset=512)])
    assert (len(plan.fwd.full_idx), len(plan.fwd.partial_idx)) == (1, 1)
    check(shape, plan, tables_of(plan), config=config)


def test_bounds_of_queries_only(check, tables_of):
    """Queries attend one interval each, keys are attended by many."""
    shape = Shape(256, 300, 2, 1, 8, 8, SQUARE, intervals=())
    ends = np.sort(np.random.default_rng(0).integers(0, 301, (256, 2)))
    keys = np.arange(300)
    plan = shape.compile([Dense((ends[:, :1] <= keys) & (keys < ends[:, 1:]))])
    tables = without_bits(tables_of(plan))
    assert (tables.q_bounds.shape, tables.kv_bounds) == ((1, 2, 256), None)
    check(shape, plan, tables)


def test_a_cap_keeps_huge_scores_finite(draw_inputs, tables_of):
    shape = Shape(128, 128, 1, 1, 8, 8, SQUARE)
    q, k, v, dout = draw_inputs(0, *shape.inputs)
    run = compiled(2.0, PLAIN)
    results = run(1e18 * q, 1e18 * k, v, np.float32(1), None, dout, 0 * dout[..., 0],
                  tables_of(shape.compile([Causal()])))  # fmt: skip
    assert all(np.isfinite(x).all() for x in results[:5])


@pytest.mark.parametrize(("v_head_dim", "block"), [(16, 128), (130, 128), (130, 512)])
def test_bfloat16(v_head_dim, block, check, tables_of):
    # The scale is rounded into q, weights and score gradients are rounded once per product. Where
    # values leave columns of the matrix unit free (16), rounded weights are what is summed. Where
    # they do not, values of a block of 512 are multiplied in two parts.
    shape = Shape(256, 2 * block, 2, 1, 16, v_head_dim, {"block_q": block, "block_kv": block})
    plan = shape.compile([Local(left=111, right=3) - Prefix(10)])
    check(shape, plan, tables_of(plan), tolerance=2**-6, dtype="bfloat16")


def test_blocks_that_are_not_listed_are_never_read(draw_inputs, tables_of):
    tables = tables_of(PAIR.compile([packed([128, 128, 128]), Empty()]), roomy=True)
    q, k, v, dout = draw_inputs(0, *PAIR.inputs)
    for array in (q, k, v, dout):
        array[:, :, 128:256] = np.nan
    run = compiled(None, PLAIN)
    results = run(q, k, v, np.float32(1), None, dout, 0 * dout[..., 0], tables)
    for name, result in zip(RESULTS[:5], results, strict=False):
        bad = np.isnan(np.asarray(result)).reshape(2, 384, -1).any(-1)
        np.testing.assert_array_equal(bad[0], np.arange(384) // 128 == 1, err_msg=name)
        assert not bad[1].any(), name
