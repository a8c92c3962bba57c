"""Lists cut by segment ids, against blocks of dense masks."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.compile import compile_mask
from maskc.expr import Full, Local, MultiHead
from maskc.strategies import masks
from maskc_kernels import BlockTable
from maskc_kernels.gpu.lists import row_lists
from maskc_kernels.gpu.segments import BlockIds, cut_lists

BLOCK = 16


def draw_ids(rng, batch, length):
    """Packed segments with padding at the end, or ids in any order."""
    if rng.random() < 0.5:
        return rng.integers(-1, 3, (batch, length))
    ids = np.sort(rng.integers(0, 4, (batch, length)), axis=1)
    ids[:, length - rng.integers(0, length + 1) :] = -7
    return ids


def visited(lists, batch, row, rows, masks):
    """Blocks of one row: {column: id or None for full}; each at most once."""
    at = batch * (masks * rows + 1) + row
    out = {}
    for ptr, idx, ids in (
        (lists.full_ptr, lists.full_idx, None),
        (lists.partial_ptr, lists.partial_idx, np.ravel(lists.partial_id)),
    ):
        start, stop = np.ravel(ptr)[at : at + 2]
        for entry in range(start, stop):
            column = int(np.ravel(idx)[entry])
            assert column not in out
            out[column] = None if ids is None else int(ids[entry])
    return out


@functools.partial(
    jax.jit,
    static_argnames=("rows", "transposed"),
    compiler_options={"xla_backend_optimization_level": 0},  # compiling costs more than running
)
def cut_down(table, rows, transposed, q_ids, kv_ids):
    blocks = BlockIds.of(q_ids, BLOCK), BlockIds.of(kv_ids, BLOCK)
    lists = row_lists(table, rows, transposed=transposed)
    return cut_lists(lists, *(blocks[::-1] if transposed else blocks))


def check(plan, direction, q_ids, kv_ids, tables_of):
    transposed = direction == "dkv"
    table = getattr(tables_of(plan, roomy=True), direction)
    rows, columns = plan.grid(direction)
    cut = cut_down(table, rows, transposed, q_ids, kv_ids)
    cut = type(cut)(*map(np.asarray, cut))
    assert cut.order.shape == (len(q_ids), plan.masks * rows)
    ones = len(cut.words) - 1
    assert (cut.words[ones] == 0xFFFFFFFF).all()
    states, numbers = plan.lists(direction).states(rows, columns)
    for batch, (mine, theirs) in enumerate(zip(q_ids, kv_ids, strict=True)):
        same = (mine[:, None] == theirs) & (mine[:, None] >= 0)
        for mask in range(plan.masks):
            for row in range(rows):
                found = visited(cut, batch, mask * rows + row, rows, plan.masks)
                for column in range(columns):
                    q, kv = (column, row) if transposed else (row, column)
                    block = same[q * BLOCK :, kv * BLOCK :][:BLOCK, :BLOCK]
                    state, number = states[mask, row, column], numbers[mask, row, column]
                    if not state or not block.any():
                        # Ranges that overlap may hold no equal ids; then a block of masks says so.
                        assert found.get(column, 0) is not None
                        assert state or column not in found
                    elif state == 2:
                        assert found[column] == (None if block.all() else ones)
                    else:
                        assert found[column] == number


@pytest.mark.parametrize("direction", ["fwd", "dkv"])
def test_cut_lists_have_the_blocks_where_ids_meet(direction, tables_of):
    @settings(max_examples=12)
    @given(masks(50, 70), st.integers(0, 2**32))
    def holds(mask, seed):
        rng = np.random.default_rng(seed)
        plan = compile_mask(mask, q_len=50, kv_len=70, block_q=BLOCK, block_kv=BLOCK)
        check(plan, direction, draw_ids(rng, 2, 50), draw_ids(rng, 2, 70), tables_of)

    holds()


def test_masks_per_head(tables_of):
    rng = np.random.default_rng(0)
    heads = MultiHead((Full(), Local(left=20, right=9), Full()))
    plan = compile_mask(heads, q_len=64, block_q=BLOCK, block_kv=BLOCK)
    for direction in ("fwd", "dkv"):
        check(plan, direction, draw_ids(rng, 3, 64), draw_ids(rng, 3, 64), tables_of)


def test_packed_segments_leave_only_their_own_blocks():
    plan = compile_mask(Full(), q_len=128, block_q=BLOCK, block_kv=BLOCK)
    ids = np.repeat(np.arange(4), 32)[None]
    cut = cut_down(BlockTable.from_lists(plan.fwd), 8, False, ids, ids)
    assert np.diff(cut.full_ptr[0]).tolist() == [2] * 8
    assert np.diff(cut.partial_ptr[0]).tolist() == [0] * 8
    assert len(cut.full_idx[0]) == 64  # the arrays keep their size: nothing is recompiled
