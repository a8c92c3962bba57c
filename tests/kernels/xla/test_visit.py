import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Empty, Full
from maskc_kernels import BlockTable
from maskc_kernels.xla.visit import masked, visit


def trace(table, row, columns):
    """Which blocks `visit` gives, in which order, and their masks."""

    def step(carry, block, mask):
        count, blocks, masks = carry
        allowed = jnp.ones(masks.shape[1:], bool) if mask is None else mask
        return count + 1, blocks.at[count].set(block), masks.at[count].set(allowed)

    start = (
        jnp.int32(0),
        jnp.full(columns, -1, jnp.int32),
        jnp.zeros((columns, table.block_q, table.block_kv), bool),
    )
    count, blocks, masks = jax.jit(lambda row: visit(table, row, step, start))(row)
    return np.asarray(blocks)[:count], np.asarray(masks)[:count]


@pytest.mark.parametrize("mask", [Causal(), Full(), Empty()])
def test_a_row_gives_its_full_blocks_then_its_partial_ones(mask):
    plan = compile_mask(mask, q_len=30, kv_len=44, block_q=8, block_kv=11)
    table, dense = BlockTable.from_lists(plan.fwd), np.pad(plan.to_dense(), ((0, 2), (0, 0)))
    blocks = dense.reshape(4, 8, 4, 11).swapaxes(1, 2)
    for row in range(4):
        full = [j for j in range(4) if blocks[row, j].all()]
        partial = [j for j in range(4) if blocks[row, j].any() and j not in full]
        found, masks = trace(table, row, 4)
        np.testing.assert_array_equal(found, full + partial)
        np.testing.assert_array_equal(masks, blocks[row, full + partial])


def test_masked_forbids_every_folded_head_alike():
    mask = jnp.asarray(np.random.default_rng(0).random((3, 5)) < 0.5)
    scores = jnp.zeros((2, 6, 5))
    expected = np.where(np.tile(mask, (2, 1)), 0, -np.inf)
    np.testing.assert_array_equal(masked(scores, mask), np.stack([expected] * 2))
    assert masked(scores, None) is scores
