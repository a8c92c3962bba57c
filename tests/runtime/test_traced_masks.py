"""A plan built on the device is the plan that the compiler makes of the same dense mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.compile import compile_mask
from maskc.expr import Dense, MultiHead
from maskc_runtime import (
    ArgumentShapeError,
    ArgumentTypeError,
    ArgumentValueError,
    attention,
    plan_of_mask,
)

Q_LEN, KV_LEN, HEADS = 21, 26, 2
BLOCKS = {"block_q": 8, "block_kv": 6, "block_q_dkv": 4, "block_kv_dq": 13}


def blocks_of(table, masks, rows):
    """Every row's full blocks, and its partial ones with their bits."""
    found = []
    for row in range(masks * rows):
        full = slice(*np.asarray(table.full_ptr)[row : row + 2])
        partial = slice(*np.asarray(table.partial_ptr)[row : row + 2])
        bits = np.asarray(table.partial_blocks)[np.asarray(table.partial_id)[partial]]
        partial_idx = np.asarray(table.partial_idx)[partial].tolist()
        found.append((np.asarray(table.full_idx)[full].tolist(), partial_idx, bits.tolist()))
    return found


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([0, 0.02, 0.5, 0.98, 1]))
def test_the_lists_are_the_compilers(seed, density):
    rng = np.random.default_rng(seed)
    masks = rng.random((HEADS, Q_LEN, KV_LEN)) < density
    masks[:, : Q_LEN // 2] |= rng.random() < 0.5  # whole blocks
    masks[1, 0, 0] ^= np.array_equal(*masks)  # equal masks would be one mask to the compiler
    plan = compile_mask(
        MultiHead([Dense(mask) for mask in masks]), q_len=Q_LEN, kv_len=KV_LEN, **BLOCKS
    )
    tables = plan_of_mask(masks, **BLOCKS).tables
    np.testing.assert_array_equal(tables.head_mask, plan.head_mask)
    for name in ("fwd", "dq", "dkv"):
        rows = plan.grid(name)[0]
        expected = blocks_of(plan.lists(name), HEADS, rows)
        assert blocks_of(getattr(tables, name), HEADS, rows) == expected, name


def test_one_program_for_every_mask(draw_qkv):
    traces = []

    @jax.jit
    def run(mask, *qkv):
        traces.append(1)
        return attention(*qkv, plan_of_mask(mask, heads=4, block_q=8, block_kv=8))

    qkv = draw_qkv((2, 4, 24, 8), (2, 2, 24, 8))
    for seed in range(2):
        mask = np.random.default_rng(seed).random((24, 24)) < 0.3
        plan = compile_mask(Dense(mask), q_len=24, heads=4, block_q=8, block_kv=8)
        np.testing.assert_allclose(run(mask, *qkv), attention(*qkv, plan), atol=1e-6)
    assert len(traces) == 1


def test_blocks_are_128_which_every_backend_takes():
    shape = jax.eval_shape(plan_of_mask, jax.ShapeDtypeStruct((300, 40), jnp.bool_))
    assert shape.blocks == ((128, 128),) * 3
    assert (shape.heads, shape.q_len, shape.kv_len) == (1, 300, 40)


def test_its_bytes_are_an_eighth_of_the_mask_for_each_block_size():
    """Of whole blocks, and once for passes of equal blocks; the lists are small beside them."""

    def nbytes(**blocks):
        plan = jax.eval_shape(
            lambda mask: plan_of_mask(mask, **blocks),
            jax.ShapeDtypeStruct((2, 500, 500), jnp.bool_),
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan))

    bits = 2 * 512 * 512 // 8
    for number, blocks in enumerate(
        ({}, {"block_q_dq": 64}, {"block_q_dq": 64, "block_kv_dkv": 64})
    ):
        assert (number + 1) * bits < nbytes(**blocks) < (number + 1) * bits * 1.05


@pytest.mark.parametrize(
    ("mask", "arguments", "kind", "text"),
    [
        (np.ones((4, 4)), {}, ArgumentTypeError, r"mask: expected bool, got float.* \(4, 4\)"),
        (
            np.ones((1, 1, 4, 4), bool),
            {},
            ArgumentShapeError,
            r"mask: expected \[q_len, kv_len\] or",
        ),
        (np.ones((3, 4, 4), bool), {"heads": 2}, ArgumentShapeError, r"mask: expected \[2 or 1, "),
        (
            np.ones((4, 4), bool),
            {"block_q": 0},
            ArgumentValueError,
            "block_q: expected a positive integer, got 0",
        ),
        (
            np.ones((4, 4), bool),
            {"block_kv_dq": -8},
            ArgumentValueError,
            "block_kv_dq: expected a positive integer, got -8",
        ),
    ],
)
def test_what_is_refused(mask, arguments, kind, text):
    with pytest.raises(kind, match=text):
        plan_of_mask(mask, **arguments)
