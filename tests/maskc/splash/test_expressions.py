"""Splash masks in maskc's language, against their own elements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splash_twins import jax_masks, subclass, twins

from maskc import compile_mask, splash
from maskc.splash.expressions import expression_of

SHAPE = (6, 8)
DENSE = np.random.default_rng(0).random(SHAPE) < 0.5


@given(st.data(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_the_expression_is_the_same_mask(data, shape):
    mask = data.draw(twins(shape))(splash)
    plan = compile_mask(mask.expression, q_len=shape[0], kv_len=shape[1], block_q=4, block_kv=3)
    np.testing.assert_array_equal(plan.to_dense(), mask[0 : shape[0], 0 : shape[1]])


def test_a_subclass_of_a_known_class_is_read_as_it_says():
    class Flipped(splash.NumpyMask):
        def __getitem__(self, idx):
            return ~self.array[idx]

    mask = Flipped(DENSE)
    plan = compile_mask(mask.expression, q_len=6, kv_len=8)
    np.testing.assert_array_equal(plan.to_dense(), ~DENSE)


def test_a_mask_function_that_was_replaced_is_used():
    mask = splash.CausalMask(SHAPE)
    mask.mask_function = lambda q, kv: q == kv
    plan = compile_mask(mask.expression, q_len=6, kv_len=8)
    np.testing.assert_array_equal(plan.to_dense(), np.eye(6, 8, dtype=bool))


def test_masks_of_jax_are_read_too():
    mask = jax_masks.CausalMask((64, 64), 3) & subclass(jax_masks)((64, 64), 2)
    plan = compile_mask(expression_of(mask), q_len=64)
    np.testing.assert_array_equal(plan.to_dense(), mask[0:64, 0:64])


def test_elements_of_a_wrong_shape_are_refused():
    mask = subclass(splash)((6, 8), 2)
    mask.q_sequence = mask.q_sequence[:-1]
    with pytest.raises(ValueError, match=r"Diagonals\[0:6, 0:8\]: expected an array of shape"):
        _ = mask.expression


def test_a_mask_of_one_s_own_needs_no_hash_but_for_tables():
    mask = splash._ComputableMask((9, 9), lambda q, kv: (q - kv) % 3 == 0)
    plan = compile_mask(mask.expression, q_len=9)
    np.testing.assert_array_equal(plan.to_dense(), mask[:, :])


def test_a_mask_that_changed_is_read_again():
    mask = subclass(splash)((6, 8), 2)
    before = mask.expression
    mask.q_sequence = mask.q_sequence[::-1].copy()
    plan = compile_mask(mask.expression, q_len=6, kv_len=8)
    np.testing.assert_array_equal(plan.to_dense(), mask[:, :])
    assert before != mask.expression


def test_a_mask_is_read_once_for_all_its_tables():
    reads = []

    class Counted(splash.Mask):
        shape = (8, 8)

        def __getitem__(self, idx):
            reads.append(idx)
            return np.eye(8, dtype=bool)[idx]

    heads = splash.MultiHeadMask([Counted()] * 2)
    splash.process_mask(heads, (4, 4))
    splash.process_mask_dkv(heads, (2, 4))
    assert reads == [np.s_[0:8, 0:8]]
