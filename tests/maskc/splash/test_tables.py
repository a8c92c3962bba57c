"""`process_mask` and `process_mask_dkv` against JAX's own: every field, bit for bit."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from splash_twins import assert_same_info, fitting, jax_info, jax_masks, subclass

from maskc import Causal, Local, Prefix, compile_mask, splash

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
