"""The walk against grids of block states."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskc import Causal, compile_mask, strategies
from maskc.walk import next_flagged, walk
from maskc_cache.plan import BlockState


@st.composite
def walks(draw):
    """Lists, their grids of states and ids [rows, columns], lines to walk and a window."""
    q_len, kv_len = draw(strategies.lengths(40)), draw(strategies.lengths(40))
    blocks = {name: draw(strategies.block_sizes(8)) for name in ("block_q", "block_kv")}
    mask = draw(strategies.masks(q_len, kv_len))
    plan = compile_mask(mask, q_len=q_len, kv_len=kv_len, **blocks, splash=False)
    direction = draw(st.sampled_from(["fwd", "dkv"]))
    rows, columns = plan.grid(direction)
    states, ids = plan.lists(direction).states(rows, columns)
    lines = st.lists(st.integers(0, rows - 1), min_size=1, max_size=2 * rows)
    order = draw(st.just(list(range(rows))) | lines)
    start = draw(st.integers(0, columns - 1))
    window = draw(st.none() | st.just(range(start, draw(st.integers(start + 1, columns)))))
    return plan.lists(direction), states[0], ids[0], np.array(order), window


@given(walks())
def test_a_walk_is_the_blocks_of_its_lines_in_order(case):
    lists, states, ids, order, window = case
    columns = slice(None) if window is None else slice(window.start, window.stop)
    states, ids = states[order, columns], ids[order, columns]
    blocks = walk(lists, order, window)
    live = states > 0
    np.testing.assert_array_equal(blocks.counts, live.sum(axis=1))
    np.testing.assert_array_equal(blocks.full, np.nonzero(states == BlockState.FULL)[1])
    line, column = np.nonzero(states == BlockState.PARTIAL)
    np.testing.assert_array_equal(blocks.partial, column)
    np.testing.assert_array_equal(blocks.line, line)
    np.testing.assert_array_equal(blocks.number, ids[line, column])
    np.testing.assert_array_equal(blocks.place, np.flatnonzero(states[live] == BlockState.PARTIAL))


@given(st.lists(st.none() | st.integers(0, 9), max_size=12))
def test_next_flagged_is_the_value_at_or_after_each_position(values):
    flagged = [i for i, v in enumerate(values) if v is not None]
    found = next_flagged(
        np.array(flagged, np.intp), np.array([values[i] for i in flagged], np.int8), len(values)
    )
    expected = [
        values[min((p for p in flagged if p >= i), default=flagged[0])] if flagged else 0
        for i in range(len(values))
    ]
    assert found.tolist() == expected
    assert found.dtype == np.int8


def test_a_walk_in_list_order_copies_no_list():
    lists = compile_mask(Causal(), q_len=64, block_q=4, block_kv=4).fwd
    blocks = walk(lists, np.arange(16))
    assert np.shares_memory(blocks.full, lists.full_idx)
    assert np.shares_memory(blocks.number, lists.partial_id)
