"""Every index of a plan is inside its array, and every invariant is checked."""

import dataclasses

import numpy as np
import pytest

from maskc_cache import PlanCorruptError, check_ranges, verify


def changed(plan, section, change):
    """The plan with one array replaced."""
    owner, _, field = section.rpartition(".")
    if not owner:
        return dataclasses.replace(plan, **{field: change(plan.head_mask.copy())})
    part = getattr(plan, owner)
    part = dataclasses.replace(part, **{field: change(getattr(part, field).copy())})
    return dataclasses.replace(plan, **{owner: part})


def put(at, value):
    def change(array):
        array.flat[at] = value
        return array

    return change


def test_real_plans_hold(plans):
    for plan in plans.values():
        verify(plan)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("head_mask", put(0, 1), "head_mask: masks are not numbered by first use"),
        ("head_mask", lambda a: a[:0], "head_mask: expected one head or more"),
        ("head_mask", lambda a: a.astype(np.int8), "head_mask: expected dtype int32, got int8"),
        ("fwd.full_ptr", put(0, 1), "fwd.full_ptr: expected offsets that rise from 0 to"),
        ("fwd.full_ptr", put(-1, 99), "fwd.full_ptr: expected offsets that rise"),
        ("fwd.full_ptr", put(2, -4), "fwd.full_ptr: expected offsets that rise"),
        ("fwd.full_ptr", lambda a: a[:-1], r"fwd.full_ptr: expected shape \[7\], got \[6\]"),
        ("fwd.full_idx", put(0, 5), "fwd.full_idx: expected values from 0 to 4, got 5 at 0"),
        ("fwd.full_idx", put(-1, -1), "fwd.full_idx: expected values from 0 to 4, got -1"),
        ("fwd.full_idx", lambda a: a.astype(np.int64), "expected dtype int8, int16, int32"),
        ("dkv.partial_idx", put(0, 5), "dkv.partial_idx: expected values from 0 to 4"),
        ("dq.partial_id", put(0, 100), "dq.partial_id: expected values from 0 to"),
        ("fwd.partial_id", lambda a: a[:-1], "fwd.partial_id: expected shape"),
        ("fwd.partial_blocks", lambda a: a[:, :-1], "fwd.partial_blocks: expected shape"),
        ("splash_fwd.block_mask", put(0, 3), "splash_fwd.block_mask: expected values from 0 to 2"),
        ("splash_fwd.data_next", put(0, 5), "splash_fwd.data_next: expected values from 0 to 4"),
        ("splash_dkv.data_next", put(0, -1), "splash_dkv.data_next: expected values from 0"),
        ("splash_dkv.mask_next", put(0, 100), "splash_dkv.mask_next: expected values from 0"),
        ("splash_dkv.mask_next", lambda a: a[..., :-1], "splash_dkv.mask_next: expected shape"),
        ("splash_fwd.block_mask", lambda a: a[:, :1], "does not fit 3 x 5 blocks"),
        ("splash_fwd.block_mask", lambda a: a[0], r"expected \[heads or head_shards, ...\]"),
    ],
)
def test_an_index_outside_its_array_is_refused(plans, section, change, message):
    plan = plans["small"]
    if section.startswith("dq"):
        plan = dataclasses.replace(plan, dq=dataclasses.replace(plan.dq))
    with pytest.raises(PlanCorruptError, match=message):
        check_ranges(changed(plan, section, change))


def swap(array):
    array[[0, 1]] = array[[1, 0]]
    return array


@pytest.mark.parametrize(
    ("name", "section", "change", "message"),
    [
        ("shared", "fwd.full_idx", put(2, 0), "fwd.full_idx: not ascending at 1"),
        ("shared", "fwd.partial_idx", put(1, 0), "lists a block as full and partial"),
        ("shared", "fwd.full_idx", lambda a: a.astype(np.int16), "fwd.full_idx: expected int8"),
        ("shared", "fwd.partial_id", lambda a: a.astype(np.int16), "int16 is not the smallest"),
        ("small", "fwd.partial_blocks", put(slice(0, 8), 0), "fwd.partial_blocks: block 0 is not"),
        ("small", "fwd.partial_blocks", put(slice(0, 8), 15), "block 0 is not partial"),
        ("small", "fwd.partial_blocks", put(0, 255), "bits set beyond the 4 keys of a block"),
        ("small", "fwd.partial_blocks", lambda a: a[[0, 0, *range(2, len(a))]], "stored twice"),
        ("small", "fwd.partial_blocks", swap, "dq.partial_blocks: not the same blocks as fwd's"),
        ("small", "fwd.partial_id", swap, "fwd.partial_id: not numbered by first appearance"),
        ("shared", "dkv.full_idx", put(-1, 0), "dkv"),
        ("shared", "splash_fwd.mask_next", lambda _: None, "mask_next is present iff"),
    ],
)
def test_a_broken_invariant_is_refused(plans, name, section, change, message):
    plan = changed(plans[name], section, change)
    with pytest.raises(PlanCorruptError, match=message):
        verify(plan)
