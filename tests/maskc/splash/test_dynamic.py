"""Tables of masks that are data, against JAX's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splash_twins import assert_same_info, jax_info

from maskc import splash

CASES = [  # shape, blocks, head shards, q shards, downcast
    ((1, 8, 12), (4, 2), 1, 1, True),
    ((4, 8, 6), (2, 2), 2, 2, True),
    ((2, 4, 8), (2, 4), 1, 2, False),
    ((2, 6, 400), (2, 1), 2, 1, True),
]


@functools.cache
def of_jax(name, blocks, **layout):
    """JAX's arrays, compiled once for each case."""
    return jax.jit(lambda mask: getattr(jax_info, name)(mask, blocks, **layout)[0][:4])


@pytest.mark.parametrize("name", ["process_dynamic_mask", "process_dynamic_mask_dkv"])
@given(st.sampled_from(CASES), st.integers(0, 999))
def test_tables_are_those_of_jax(name, case, seed):
    shape, blocks, head_shards, q_seq_shards, downcast = case
    layout = {
        "head_shards": head_shards,
        "q_seq_shards": q_seq_shards,
        "downcast_smem_data": downcast,
    }
    random = np.random.default_rng(seed)
    state = random.random((shape[0], shape[1] // blocks[0], shape[2] // blocks[1]))
    state = state.repeat(blocks[0], 1).repeat(blocks[1], 2)
    mask = (random.random(shape) < 0.5) & (state > 0.3) | (state > 0.7)
    ours, function = getattr(splash, name)(mask, blocks, **layout)
    assert function is None
    theirs = map(np.asarray, of_jax(name, blocks, **layout)(mask))
    assert_same_info(ours, jax_info.MaskInfo(*theirs, None, is_dynamic_mask=True))


def test_they_take_arrays_of_jax_and_widen_by_count():
    """128 kv blocks are int16 here, where the largest value 127 would fit int8; as in JAX."""
    mask = jnp.ones((1, 4, 128), bool)
    info, _ = splash.process_dynamic_mask(mask, (4, 1), shrink_grid=False)
    assert info.data_next.dtype == np.int16
    assert info.is_dynamic_mask is True


@pytest.mark.parametrize("name", ["process_dynamic_mask", "process_dynamic_mask_dkv"])
@pytest.mark.parametrize("library", [splash, jax_info], ids=["ours", "jax"])
@pytest.mark.parametrize(
    ("shape", "dtype", "blocks"),
    [((4, 4), bool, (2, 2)), ((1, 4, 4), int, (2, 2)), ((1, 4, 4), bool, (3, 2))],
)
def test_masks_are_refused_as_in_jax(name, library, shape, dtype, blocks):
    with pytest.raises(ValueError, match=r"\w"):
        getattr(library, name)(jnp.zeros(shape, dtype), blocks)


def test_a_traced_mask_is_sent_to_the_runtime():

    def tables(mask):
        return splash.process_dynamic_mask(mask, (2, 2))[0].block_mask

    with pytest.raises(TypeError, match=r"a traced one; .* maskc\.runtime\.plan_of_mask"):
        jax.jit(tables)(np.ones((1, 4, 4), bool))
