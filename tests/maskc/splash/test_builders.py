"""The dense builders against JAX's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from splash_twins import jax_masks

from maskc import splash

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(sizes, st.integers(-9, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_builders_are_those_of_jax(shape, offset, chunk, seed, sparsity):
    ours, theirs = splash, jax_masks
    window = (None if chunk % 2 else offset, chunk)
    state = _global_state()
    for a, b in (
        (ours.make_causal_mask(shape, offset), theirs.make_causal_mask(shape, offset)),
        (
            ours.make_local_attention_mask(shape, window, offset=offset),
            theirs.make_local_attention_mask(shape, window, offset=offset),
        ),
        (
            ours.make_chunk_attention_mask(shape, chunk),
            theirs.make_chunk_attention_mask(shape, chunk),
        ),
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    random = ours.make_random_mask(shape, sparsity, seed)
    assert _global_state() == state
    np.testing.assert_array_equal(random, theirs.make_random_mask(shape, sparsity, seed))


def _global_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002  # the state that is to be left alone
