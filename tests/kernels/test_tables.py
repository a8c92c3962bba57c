import jax
import numpy as np

from maskc.compile import compile_mask
from maskc.expr import Causal, Full, MultiHead
from maskc_kernels import BlockTable


def test_from_lists_shares_every_array():
    lists = compile_mask(Causal(), q_len=20, block_q=8, block_kv=8).fwd
    table = BlockTable.from_lists(lists)
    assert (table.block_q, table.block_kv) == (8, 8)
    for name in ("full_ptr", "full_idx", "partial_ptr", "partial_idx", "partial_id"):
        assert getattr(table, name) is getattr(lists, name)
    assert table.partial_blocks is lists.partial_blocks


def test_block_sizes_are_static_and_arrays_are_leaves():
    table = BlockTable.from_lists(compile_mask(Causal(), q_len=20, block_q=8, block_kv=8).fwd)
    leaves, structure = jax.tree.flatten(table)
    assert len(leaves) == 6
    again = jax.tree.unflatten(structure, leaves)
    assert (again.block_q, again.block_kv) == (8, 8)
    other = BlockTable.from_lists(compile_mask(Causal(), q_len=20, block_q=4, block_kv=8).fwd)
    assert jax.tree.structure(other) != structure


def test_masks_are_counted_from_the_row_offsets():
    plan = compile_mask(MultiHead((Causal(), Full(), Causal())), q_len=20, block_q=8, block_kv=8)
    table = BlockTable.from_lists(plan.fwd)
    assert table.masks(3) == 2
    np.testing.assert_array_equal(plan.head_mask, [0, 1, 0])
