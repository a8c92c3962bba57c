"""The plan's records: identity, sharing, reading back."""

import dataclasses

import numpy as np
import pytest

from maskc import Causal, Local, compile_mask
from maskc_cache import Plan, PlanError, blocks_along, smallest_dtype


def test_smallest_dtype_is_splash_s_downcast_rule():
    assert [smallest_dtype(n) for n in (0, 127, 128, 32767, 32768)] == [
        np.int8, np.int8, np.int16, np.int16, np.int32,
    ]  # fmt: skip
    with pytest.raises(PlanError, match="2,147,483,648 does not fit int32; use larger blocks"):
        smallest_dtype(2**31)


def test_blocks_along_counts_a_ragged_last_block():
    assert [blocks_along(n, 8) for n in (1, 8, 9, 16)] == [1, 1, 2, 2]


def test_plans_compare_by_content(plans):
    again = compile_mask(Local(None, 0), q_len=64, block_q=16, block_kv=16)
    assert again == plans["shared"]
    assert hash(again) == hash(plans["shared"])
    assert len({plan.digest for plan in plans.values()}) == len(plans)
    renamed = dataclasses.replace(again, compiler="another")
    assert renamed.digest == again.digest


def test_the_digest_sees_every_array(small_plan):
    for name, array in small_plan.arrays():
        changed = array.copy()
        changed.flat[-1] ^= 1
        owner, _, field = name.rpartition(".")
        if owner:
            part = dataclasses.replace(getattr(small_plan, owner), **{field: changed})
            other = dataclasses.replace(small_plan, **{owner: part})
        else:
            other = dataclasses.replace(small_plan, head_mask=changed)
        assert other.digest != small_plan.digest, name


def test_arrays_are_read_only(small_plan):
    for name, array in small_plan.arrays():
        assert not array.flags.writeable, name


def test_shared_parts_are_one_array(plans):
    names = [name for name, _ in plans["shared"].arrays()]
    assert not [name for name in names if name.startswith("dq.")]
    assert "dkv.partial_blocks" not in names
    names = [name for name, _ in plans["dq like dkv"].arrays()]
    assert "dq.partial_blocks" in names
    assert "dkv.partial_blocks" not in names


def test_to_dense_reads_one_head_back(small_plan):
    q, kv = np.arange(20)[:, None], np.arange(20)
    np.testing.assert_array_equal(small_plan.to_dense(0), kv <= q)
    inside = (q < 9) == (kv < 9)
    np.testing.assert_array_equal(small_plan.to_dense(1), (kv >= q - 3) & (kv <= q + 1) & inside)
    with pytest.raises(IndexError, match="out of bounds"):
        small_plan.to_dense(2)


def test_wrong_directions_are_refused(plans):
    with pytest.raises(ValueError, match="expected 'fwd', 'dq' or 'dkv', got 'forward'"):
        plans["small"].lists("forward")
    with pytest.raises(ValueError, match="expected 'fwd' or 'dkv', got 'dq'"):
        plans["small"].splash("dq")
    with pytest.raises(PlanError, match="compile it with splash=True"):
        plans["no splash"].splash()


def test_row_bounds_are_part_of_the_identity(plans):
    plan = plans["shared"]
    bounded = compile_mask(Causal(), q_len=64, block_q=16, block_kv=16, row_bounds=True)
    assert (bounded.row_intervals, plan.row_intervals) == ((1, 1), None)
    assert bounded != plan
    other = dataclasses.replace(bounded.row_bounds, q_intervals=0)
    assert dataclasses.replace(bounded, row_bounds=other) != bounded
    names = [name for name, _ in plans["bounded keys"].arrays()]
    assert ("row_bounds.q" in names, "row_bounds.kv" in names) == (False, True)


def test_repr_says_what_it_is(small_plan):
    assert repr(small_plan).startswith(f"<Plan {small_plan.key[:12]} q_len=20 kv_len=20 heads=2")
    assert isinstance(small_plan, Plan)


def test_causal_is_the_smallest_plan():
    plan = compile_mask(Causal(), q_len=2048, block_q=128, block_kv=128)
    assert len(plan.fwd.partial_blocks) == 1
    assert len(plan.fwd.full_idx) == 16 * 15 // 2
