"""Partial blocks by row bounds: the same attention, and no words anywhere."""

import numpy as np
import pytest
from gpu_attention import Shape, bounded, segment_ids
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskc import zoo
from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Documents, Local, MultiHead

SHAPE = Shape(
    50, 70, 2, 1, 16, 8,
    {"block_q": 32, "block_kv": 32, "block_q_dkv": 64, "row_bounds": True},
    pattern=(1, 0),
)  # fmt: skip
HOLE = Causal() & ~(Causal(offset=-9) & ~Causal(offset=-40))
"""Two intervals for most queries and for most keys."""


def drawn_mask(seed, rows, columns, intervals):
    """Up to so many intervals of each row, near each other in rows that are neighbors."""
    rng = np.random.default_rng(seed)
    ends = np.repeat(rng.integers(-20, columns + 20, (-(-rows // 32), 2 * intervals)), 32, axis=0)
    ends = np.sort(ends[:rows] + rng.integers(-3, 4, (rows, 2 * intervals)), axis=1)
    at = np.arange(columns)
    return ((ends[:, ::2, None] <= at) & (at < ends[:, 1::2, None])).any(1)


@pytest.mark.parametrize(
    # Threads share rows on one architecture and not on the other.
    ("side", "architecture"),
    [("q", 100), ("kv", 90)],
)
def test_two_intervals_on_one_side_match_the_oracle(side, architecture, check, tables_of):
    rows, columns = (SHAPE.q_len, SHAPE.kv_len) if side == "q" else (SHAPE.kv_len, SHAPE.q_len)

    @settings(max_examples=2)
    @given(st.integers(0, 2**32))
    def holds(seed):
        drawn = [drawn_mask(seed + i, rows, columns, 2) for i in (0, 1)]
        plan = SHAPE.compile(*(Dense(mask if side == "q" else mask.T) for mask in drawn))
        bounds = plan.row_bounds
        found, other = (bounds.q, bounds.kv) if side == "q" else (bounds.kv, bounds.q)
        assume(found.shape == (2, 4, rows) and other is None)
        tables = bounded(plan, tables_of(plan, roomy=True))
        check(SHAPE, plan, tables, seed % 99, architecture=architecture)

    holds()


def test_one_interval_on_both_sides_matches_the_oracle(check, tables_of):
    windows = st.builds(
        lambda left, right, ends: Local(left=left, right=right) & Documents([0, *sorted(ends), 50]),
        st.integers(0, 60),
        st.integers(-5, 60),
        st.sets(st.integers(1, 49), max_size=3),
    )

    @settings(max_examples=3)
    @given(windows, windows, st.integers(0, 99))
    def holds(one, other, seed):
        plan = SHAPE.compile(one, other)
        assume(plan.masks > 1)
        assert plan.row_bounds.q.shape == (2, 2, 50)
        assert plan.row_bounds.kv.shape == (2, 2, 70)
        tables = bounded(plan, tables_of(plan, roomy=True))
        check(SHAPE, plan, tables, seed, architecture=90)

    holds()


def test_two_intervals_on_both_sides_with_everything_else(check, tables_of):
    plan = SHAPE.compile(HOLE, zoo.sink_window(3, 20))
    assert (plan.row_bounds.q_intervals, plan.row_bounds.kv_intervals) == (2, 2)
    bias = np.random.default_rng(3).standard_normal((1, 2, 50, 70)).astype(np.float32)
    bias[:, 1, 3:9] = bias[:, :, :, 60:] = -np.inf
    check(
        SHAPE, plan, bounded(plan, tables_of(plan, roomy=True)), bias=bias, soft_cap=5.0,
        sinks=True, segments=segment_ids(1, 1, 50, 70), architecture=90,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "by_bounds"),
    [
        (Causal(), {"fwd", "dq", "dkv", "dbias"}),
        (
            Local(left=3, right=0) | Dense(np.arange(256) % 2 == np.zeros((256, 1))),
            {"dkv", "dbias"},
        ),
    ],
    ids=["both sides", "keys only"],
)
def test_no_words_are_made_where_there_are_bounds(mask, by_bounds, recorded):
    plan = compile_mask(mask, q_len=256, heads=4, block_q=64, block_kv=64, row_bounds=True)
    shapes = [(1, heads, 256, 64) for heads in (4, 2, 2)]
    launches = recorded(90, plan, *shapes, bias=(1, 1, 1, 256))
    del launches["delta"]  # it reads no blocks
    for name, launch in launches.items():
        has_words = any(array.dtype == np.uint32 for array in launch.operands)
        assert has_words == (name not in by_bounds)
        assert (launch.constants["c"].intervals > 0) == (name in by_bounds)


def test_a_new_mask_with_bounds_is_new_data(recorded, tables_of):
    found = []
    for mask in (Local(left=77, right=5), MultiHead((Local(left=9, right=50),) * 4)):
        plan = compile_mask(mask, q_len=256, heads=4, block_q=64, block_kv=64, row_bounds=True)
        shapes = [(1, heads, 256, 64) for heads in (4, 2, 2)]
        launches = recorded(90, plan, *shapes, tables=bounded(plan, tables_of(plan, roomy=True)))
        found.append({name: launch.constants for name, launch in launches.items()})
    assert found[0] == found[1]
