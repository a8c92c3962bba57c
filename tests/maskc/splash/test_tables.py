"""`process_mask` and `process_mask_dkv` against JAX's own: every field, bit for bit."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import assert_near, dense_oracle
from hypothesis import assume, given
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as jax_kernel
from splash_twins import assert_same_info, fitting, jax_info, jax_masks, subclass

from maskc import Causal, Local, Prefix, Rectangle, compile_mask, splash

OURS = {"fwd": splash.process_mask, "dkv": splash.process_mask_dkv}
JAX = {"fwd": jax_info.process_mask, "dkv": jax_info.process_mask_dkv}
DIRECTIONS = pytest.mark.parametrize("direction", ["fwd", "dkv"])
POSITIONS = np.arange(64)[:, None], np.arange(64)[None, :]


def heads_of(builds, module):
    """A mask per head; heads that were drawn alike share one, as users have it."""
    unique = {}
    return module.MultiHeadMask([unique.setdefault(id(b), b(module)) for b in builds])


@given(fitting())
def test_tables_are_those_of_jax(case):
    builds, blocks, layout = case
    ours, theirs = heads_of(builds, splash), heads_of(builds, jax_masks)
    for direction in ("fwd", "dkv"):
        info, function = OURS[direction](ours, blocks, **layout)
        try:
            expected, jax_function = JAX[direction](theirs, blocks, **layout)
        except (AssertionError, ValueError) as error:
            assert_jax_fails_as_documented(error, ours, layout)
            continue
        assert_same_info(info, expected)
        assert_same_info(OURS[direction](theirs, blocks, **layout)[0], expected)
        assert (function is None) == (jax_function is None)
        if function is not None:
            np.testing.assert_array_equal(function(*POSITIONS), jax_function(*POSITIONS))


def assert_jax_fails_as_documented(error, mask, layout):
    """JAX's two failures: a q shard without any block, and shards with nothing partial."""
    assert layout["shrink_grid"]
    shards = np.split(mask[0, :, :], layout["q_seq_shards"])
    empty_shard = any(not shard.any() for shard in shards)
    nothing_to_join = layout["q_seq_shards"] > 1 and isinstance(error, ValueError)
    assert empty_shard or nothing_to_join


@DIRECTIONS
def test_signatures_begin_like_those_of_jax(direction):
    theirs = list(inspect.signature(JAX[direction].func).parameters)
    theirs.remove("is_dkv")
    assert list(inspect.signature(OURS[direction]).parameters)[: len(theirs)] == theirs
    assert splash.MaskInfo._fields == jax_info.MaskInfo._fields
    assert splash.MaskInfo._field_defaults == jax_info.MaskInfo._field_defaults


@DIRECTIONS
@pytest.mark.parametrize(
    ("shape", "blocks", "layout", "error"),
    [
        ((8, 8), (3, 4), {}, ValueError),
        ((8, 8), (4, 3), {}, ValueError),
        ((8, 8), (4, 4), {"q_seq_shards": 3}, ValueError),
        ((8, 8), (4, 4), {"q_seq_shards": 4}, ValueError),
        ((8, 8), (4, 4), {"head_shards": 2}, ValueError),
        ((8, 8), (0, 4), {}, ZeroDivisionError),
        ((8, 8), (4, 0), {}, ZeroDivisionError),
        ((8, 8), (4, 4), {"head_shards": 0}, ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("library", ["ours", "jax"])
def test_what_does_not_divide_is_refused_as_in_jax(
    library, direction, shape, blocks, layout, error
):
    module, process = (splash, OURS) if library == "ours" else (jax_masks, JAX)
    mask = module.MultiHeadMask([module.CausalMask(shape)])
    with pytest.raises(error, match="divi"):
        process[direction](mask, blocks, **layout)


@DIRECTIONS
@pytest.mark.parametrize("library", ["ours", "jax"])
def test_masks_are_refused_as_in_jax(library, direction):
    module, process = (splash, OURS) if library == "ours" else (jax_masks, JAX)
    with pytest.raises(ValueError, match="3-dim"):
        process[direction](module.CausalMask((8, 8)), (4, 4))

    class Unhashable(module._ComputableMask):
        __eq__ = object.__eq__
        __hash__ = None

    def heads(kind):
        return module.MultiHeadMask([kind((8, 8), lambda q, kv: q >= kv)])

    with pytest.raises(TypeError, match="unhashable"):
        process[direction](heads(Unhashable), (4, 4))
    with pytest.raises(NotImplementedError):
        process[direction](heads(module._ComputableMask), (4, 4))


def test_negative_blocks_and_empty_lengths_are_refused():
    mask = splash.MultiHeadMask([splash.CausalMask((8, 8))])
    with pytest.raises(ValueError, match="q_block_size=-4: expected 1 or more"):
        splash.process_mask(mask, (-4, 4))
    with pytest.raises(ValueError, match="expected queries and keys"):
        splash.process_mask(splash.MultiHeadMask([splash.CausalMask((0, 8))]), (4, 4))


@DIRECTIONS
def test_q_sequence_is_the_mask_s_own(direction):
    mask = subclass(splash)((16, 16), 2)
    mask.q_sequence = np.roll(mask.q_sequence, 5)
    info, function = OURS[direction](splash.MultiHeadMask([mask, mask]), (4, 8))
    assert info.q_sequence is mask.q_sequence
    assert function is mask.mask_function


# --- where JAX has no answer, or another one ----------------------------------------------------


@DIRECTIONS
@pytest.mark.parametrize("library", ["ours", "jax"])
def test_an_empty_mask_keeps_one_column(library, direction):
    module, process = (splash, OURS) if library == "ours" else (jax_masks, JAX)
    mask = module.MultiHeadMask([module.NumpyMask(np.zeros((8, 8), bool))])
    if library == "jax":
        with pytest.raises(AssertionError):
            process[direction](mask, (4, 4))
        return
    info, _ = process[direction](mask, (4, 4))
    assert info.block_mask.shape == ((1, 2, 1) if direction == "fwd" else (1, 1, 2))
    assert not info.block_mask.any()
    assert info.mask_next is info.partial_mask_blocks is None


@DIRECTIONS
def test_a_full_mask_can_be_sharded(direction):
    def process(module, processes, **layout):
        mask = module.MultiHeadMask([module.FullMask((16, 16))])
        return processes[direction](mask, (4, 4), q_seq_shards=2, **layout)

    with pytest.raises(ValueError, match="concatenate"):
        process(jax_masks, JAX)
    assert_same_info(process(splash, OURS)[0], process(jax_masks, JAX, shrink_grid=False)[0])


@DIRECTIONS
def test_composites_are_computed_on_request(direction):
    window = splash.CausalMask((64, 64)) & splash.LocalMask((64, 64), (20, 0))
    mask = splash.MultiHeadMask([window] * 2)
    loaded, no_function = OURS[direction](mask, (8, 8))
    computed, function = OURS[direction](mask, (8, 8), computable=True)
    assert no_function is None
    assert computed.mask_next is computed.partial_mask_blocks is None
    np.testing.assert_array_equal(computed.data_next, loaded.data_next)
    np.testing.assert_array_equal(computed.block_mask, loaded.block_mask)
    np.testing.assert_array_equal(computed.q_sequence, np.arange(64))
    np.testing.assert_array_equal(function(*POSITIONS), window[:, :])


@given(fitting())
def test_heads_that_differ_are_shrunk_on_request(case):
    """Every line keeps its live entries in order: at the left (fwd) or at the bottom (dkv)."""
    builds, blocks, layout = case
    heads = heads_of(builds, splash)
    diagonal = splash.NumpyMask(np.eye(*heads.shape[1:], k=1, dtype=bool))
    heads = splash.MultiHeadMask([*heads.masks, *[diagonal] * len(builds)])
    assume(len(set(heads.masks)) > 1)
    for direction in ("fwd", "dkv"):
        info, _ = OURS[direction](heads, blocks, **layout | {"shrink_grid": "heads"})
        whole, _ = OURS[direction](heads, blocks, **layout | {"shrink_grid": False})
        state = lines(whole.block_mask, direction, layout)
        for name in ("data_next", "mask_next", "block_mask"):
            ours, full = getattr(info, name), getattr(whole, name)
            assert (ours is None) == (full is None), name
            if ours is None:
                continue
            full = lines(full, direction, layout)
            expected = np.zeros((*full.shape[:-1], max(1, (state > 0).sum(-1).max())), int)
            for line in np.ndindex(full.shape[:-1]):
                live = full[line][state[line] > 0]
                if direction == "fwd":
                    expected[line][: len(live)] = live
                else:
                    expected[line][expected.shape[-1] - len(live) :] = live
            np.testing.assert_array_equal(lines(ours, direction, layout), expected)
            if layout["downcast_smem_data"]:
                assert ours.dtype == np.min_scalar_type(-int(ours.max()) - 1), name


def lines(table, direction, layout):
    """The table with the axis that shrinks at its end: [heads, q shards, lines, entries]."""
    rows, height, width = table.shape
    shards = layout["q_seq_shards"]
    slabs = table.reshape(rows, shards, height // shards, width)
    return slabs if direction == "fwd" else slabs.swapaxes(2, 3)


@DIRECTIONS
def test_shrinking_heads_is_jax_s_shrinking(direction):
    """Two masks of equal elements, which JAX tells apart, have the tables of one, twice."""
    window = jax_masks.make_local_attention_mask((64, 64), (9, 2))
    expected, _ = JAX[direction](jax_masks.MultiHeadMask([jax_masks.NumpyMask(window)]), (8, 8))
    heads = splash.MultiHeadMask([splash.NumpyMask(window), splash.LocalMask((64, 64), (9, 2))])
    info, _ = OURS[direction](heads, (8, 8), shrink_grid="heads")
    plain, _ = OURS[direction](heads, (8, 8))
    assert plain.block_mask.shape == (2, 8, 8)
    np.testing.assert_array_equal(info.block_mask, np.repeat(expected.block_mask, 2, 0))
    np.testing.assert_array_equal(info.partial_mask_blocks, expected.partial_mask_blocks)
    if direction == "fwd":  # dkv's walk goes through both heads before it turns
        assert info.data_next.shape == (2, *expected.data_next.shape[1:])
        live = info.block_mask[0] > 0
        for head in range(2):
            np.testing.assert_array_equal(info.data_next[head][live], expected.data_next[0][live])


def test_shrinking_is_one_of_three():
    with pytest.raises(ValueError, match="shrink_grid: expected True, False or 'heads', got 'all'"):
        splash.process_mask(
            splash.MultiHeadMask([splash.FullMask((8, 8))]), (4, 4), shrink_grid="all"
        )


@DIRECTIONS
def test_fjformer_stores_windows_as_int32(direction):
    """FJFormer does not compute windows: its tables are those of the dense mask."""
    window = jax_masks.make_local_attention_mask((64, 64), (20, 3))
    expected, _ = JAX[direction](jax_masks.MultiHeadMask([jax_masks.NumpyMask(window)]), (8, 16))
    mask = splash.MultiHeadMask([splash.LocalMask((64, 64), (20, 3))])
    info, function = OURS[direction](
        mask, (8, 16), computable=False, partial_mask_blocks_dtype=np.int32
    )
    assert function is None
    blocks = expected.partial_mask_blocks.astype(np.int32)
    assert_same_info(info, expected._replace(partial_mask_blocks=blocks))


@DIRECTIONS
@pytest.mark.parametrize("dtype", [np.bool_, np.int32])
def test_a_plan_has_every_field(direction, dtype):
    """`Plan.splash` for a loaded and for a recomputed mask."""
    per_head = [Causal() | Prefix(9), Local(5, 0)]
    plan = compile_mask(per_head[0], q_len=32, heads=2, block_q=8, block_kv=4, head_shards=2)
    heads = splash.MultiHeadMask([splash.ExpressionMask((32, 32), per_head[0])] * 2)
    dense = jax_masks.MultiHeadMask([jax_masks.NumpyMask(heads[0, :, :])] * 2)
    expected, _ = JAX[direction](dense, (8, 4), head_shards=2)
    expected = expected._replace(partial_mask_blocks=expected.partial_mask_blocks.astype(dtype))
    assert_same_info(plan.splash(direction, partial_dtype=dtype), expected)
    ours, _ = OURS[direction](heads, (8, 4), head_shards=2, partial_mask_blocks_dtype=dtype)
    assert_same_info(ours, expected)
    plan = compile_mask(per_head[1], q_len=32, block_q=8, block_kv=4)
    expected, _ = JAX[direction](
        jax_masks.MultiHeadMask([jax_masks.LocalMask((32, 32), (5, 0), 0)]), (8, 4)
    )
    assert_same_info(plan.splash(direction, computable=True), expected)


def test_a_user_s_mask_without_few_intervals_is_read_as_bits():
    """More intervals per row than a strip form is worth: every other key of 64."""
    mask = subclass(splash)((64, 64), 2)
    twin = subclass(jax_masks)((64, 64), 2)
    ours, _ = splash.process_mask(splash.MultiHeadMask([mask]), (16, 8), computable=False)
    dense = jax_masks.NumpyMask(twin[0:64, 0:64])
    expected, _ = jax_info.process_mask(jax_masks.MultiHeadMask([dense]), (16, 8))
    assert_same_info(ours, expected)


def test_jax_s_kernel_runs_on_our_tables():
    """Forward and gradients in interpret mode, over heads that differ and are shrunk."""
    shape, tile = (512, 512), (128, 128)
    window = splash.CausalMask(shape) & splash.LocalMask(shape, (60, None))
    sinks = splash.ExpressionMask(shape, Rectangle(kv_stop=3))
    mask = splash.MultiHeadMask([splash.LocalMask(shape, (100, 0)), window | sinks])
    fwd, function = splash.process_mask(mask, tile, shrink_grid="heads")
    dkv, _ = splash.process_mask_dkv(mask, tile, shrink_grid="heads")
    assert fwd.block_mask.shape == (2, 4, 3)
    fwd, dkv = (jax.tree.map(jnp.asarray, info) for info in (fwd, dkv))
    attend = jax_kernel.SplashAttentionKernel(
        fwd, fwd, dkv, block_sizes=jax_kernel.BlockSizes(*[128] * 8), mask_function=function,
        is_mqa=False, save_residuals=False, mask_value=-1e30, attn_logits_soft_cap=None,
        residual_checkpoint_name=None, interpret=True,
    )  # fmt: skip
    q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 512, 128)).astype(np.float32)
    q *= 0.1

    @jax.jit
    def run(q, k, v):
        out, pullback = jax.vjp(attend, q, k, v)
        return out, pullback(dout)

    out, gradients = run(q, k, v)
    expected = dense_oracle(q[None], k[None], v[None], mask[:, :, :], 1.0, dout[None])
    assert_near(out, expected.out[0], 1e-5, "out")
    for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
        assert_near(gradient, getattr(expected, name)[0], 1e-5, name)
