"""Every index of a plan is inside its array, and every invariant is checked."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from maskc import Empty, compile_mask
from maskc_cache import PlanCorruptError, PlanError, RowBounds, check_ranges, encode, verify


def changed(plan, section, change):
    """The plan with one array replaced."""
    owner, _, field = section.rpartition(".")
    if not owner:
        return dataclasses.replace(plan, **{field: change(plan.head_mask.copy())})
    part = getattr(plan, owner)
    value = getattr(part, field)
    value = change(value.copy() if isinstance(value, np.ndarray) else value)
    part = dataclasses.replace(part, **{field: value})
    return dataclasses.replace(plan, **{owner: part})


def put(at, value):
    def change(array):
        (array if isinstance(at, tuple) else array.flat)[at] = value
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
        ("head_mask", lambda a: np.array(a[0]), r"head_mask: expected shape \[any\], got \[\]"),
        ("head_mask", lambda a: a.astype(np.int8), "head_mask: expected dtype int32, got int8"),
        ("fwd.full_ptr", put(0, 1), "fwd.full_ptr: expected offsets that rise from 0 to"),
        ("fwd.full_ptr", put(-1, 99), "fwd.full_ptr: expected offsets that rise"),
        ("fwd.full_ptr", put(2, -4), "fwd.full_ptr: expected offsets that rise"),
        ("fwd.full_ptr", lambda a: a[:-1], r"fwd.full_ptr: expected shape \[7\], got \[6\]"),
        ("fwd.full_idx", put(0, 5), r"values from 0 to 4, got 5 at 0 \(mask 0, row 1\)"),
        ("fwd.full_idx", put(-1, -1), "fwd.full_idx: expected values from 0 to 4, got -1"),
        ("fwd.full_idx", lambda a: a.astype(np.int64), "expected dtype int8, int16, int32"),
        ("dkv.partial_idx", put(0, 5), "dkv.partial_idx: expected values from 0 to 4"),
        ("dq.partial_id", put(0, 100), "dq.partial_id: expected values from 0 to"),
        ("fwd.partial_id", lambda a: a[:-1], "fwd.partial_id: expected shape"),
        ("fwd.partial_blocks", lambda a: a[:, :-1], "fwd.partial_blocks: expected shape"),
        (
            "fwd.partial_blocks",
            lambda a: np.array(a[0, 0, 0]),
            "fwd.partial_blocks: expected shape",
        ),
        (
            "fwd.partial_blocks",
            lambda a: a[:0],
            r"fwd.partial_id: expected no values, got 10 at 17",
        ),
        ("splash_fwd.block_mask", put(0, 3), "splash_fwd.block_mask: expected values from 0 to 2"),
        ("splash_fwd.data_next", put(0, 5), "splash_fwd.data_next: expected values from 0 to 4"),
        ("splash_dkv.data_next", put(0, -1), "splash_dkv.data_next: expected values from 0"),
        ("splash_dkv.mask_next", put(0, 100), "splash_dkv.mask_next: expected values from 0"),
        ("splash_dkv.mask_next", lambda a: a[..., :-1], "splash_dkv.mask_next: expected shape"),
        ("splash_fwd.data_next", put(-1, 9), r"got 9 at \[1, 2, 4\]"),
        ("splash_fwd.block_mask", lambda a: a[:, :1], "does not fit 3 x 5 blocks"),
        ("splash_fwd.block_mask", lambda a: a[..., :0], "does not fit 3 x 5 blocks"),
        ("splash_fwd.block_mask", lambda a: a[..., [0] * 6], "does not fit 3 x 5 blocks"),
        ("row_bounds.q", put((0, 1, 19), 21), r"row_bounds.q: .* 0 to 20, got 21 at \[0, 1, 19\]"),
        ("row_bounds.kv", put((1, 0, 3), -1), r"got -1 at \[1, 0, 3\]"),
        ("row_bounds.kv", put((1, 0, 2), 19), "interval 0 of mask 1, row 2 stops before it starts"),
        ("row_bounds.q", lambda a: a[:, :, :-1], r"expected shape \[2, 2, 20\], got \[2, 2, 19\]"),
        ("row_bounds.q", lambda a: a[:, [0, 1, 0, 1]], r"expected shape \[2, 2, 20\]"),
        ("row_bounds.q", lambda a: a.astype(np.int16), "row_bounds.q: expected dtype int32"),
        ("row_bounds.kv", lambda _: None, "row_bounds.kv: present iff rows have up to 2 intervals"),
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
        ("shared", "splash_fwd.mask_next", lambda _: None, "present iff something is partial"),
        ("shared", "splash_fwd.block_mask", put(0, 2), r"row 0: not the blocks of mask 0 \(full"),
        ("shared", "splash_fwd.data_next", put(4, 1), r"row 0: not the blocks of mask 0 \(full"),
        ("shared", "splash_dkv.data_next", put(-1, 0), r"row 0: not the blocks of mask 0 \(par"),
        ("small", "splash_fwd.mask_next", put(0, 1), r"row 0: not the blocks of mask 0 \(mask_n"),
        ("small", "row_bounds.q", put((1, 1, 4), 4), r"mask 1, row 4 is \[1, 4\], .* fwd's blocks"),
        ("small", "row_bounds.kv", put((0, 0, 7), 6), r"mask 0, row 7 is \[6, 20\], .* dkv's"),
        ("small", "row_bounds.q", put((0, slice(None), 0), 3), r"mask 0, row 0 is \[3, 3\]"),
        ("bounds", "row_bounds.q", put((0, slice(2), 0), 16), r"row 0 is \[16, 16, 15, 16\]"),
        ("bounds", "row_bounds.q", lambda a: a[:, [2, 3, 0, 1]], "which is not what fwd's blocks"),
        ("bounded keys", "row_bounds.kv_intervals", lambda _: 0, "up to 0 intervals, but .* to 1"),
        ("bounded keys", "row_bounds.q_intervals", lambda _: 5, "5 intervals, but those of fwd's"),
        ("sharded", "splash_dkv.data_next", put(0, 1), "not the blocks of mask 0"),
        ("ragged", "fwd.partial_blocks", put((2, 7, 0), 255), "attends beyond q_len=20"),
        ("ragged", "fwd.partial_blocks", put((1, 0, 0), 127), "attends beyond kv_len=13"),
    ],
)
def test_a_broken_invariant_is_refused(plans, name, section, change, message):
    plan = changed(plans[name], section, change)
    with pytest.raises(PlanCorruptError, match=message):
        verify(plan)


def test_a_full_block_beyond_the_lengths_is_refused(plans):
    plan = dataclasses.replace(plans["full"], kv_len=6, splash_fwd=None, splash_dkv=None)
    with pytest.raises(PlanCorruptError, match=r"fwd.full_idx: a block attends beyond kv_len=6"):
        verify(plan)


def test_heads_must_split_into_their_shards(plans):
    plan = dataclasses.replace(plans["sharded"], head_shards=3)
    with pytest.raises(PlanCorruptError, match="in each of 3 equal shards, got 4"):
        check_ranges(plan)


@pytest.mark.parametrize(
    ("direction", "copy"),
    [
        ("dq", lambda plan: dataclasses.replace(plan.fwd)),
        (
            "dkv",
            lambda plan: dataclasses.replace(
                plan.dkv, partial_blocks=plan.dkv.partial_blocks.copy()
            ),
        ),
    ],
)
def test_equal_parts_are_one_object(plans, direction, copy):
    plan = dataclasses.replace(plans["shared"], **{direction: copy(plans["shared"])})
    with pytest.raises(PlanCorruptError, match=f"{direction}: a copy of fwd"):
        verify(plan)
    with pytest.raises(PlanError, match=r"a copy.*; it must be the same object"):
        encode(plan)


def test_a_change_after_the_digest_was_computed_is_seen(plans):
    plan = dataclasses.replace(plans["no splash"], splash_fwd=plans["shared"].splash_fwd)
    plan = changed(plan, "splash_fwd.data_next", lambda array: array)
    assert plan.digest
    spare = plan.splash_fwd.block_mask == 0
    plan.splash_fwd.data_next.flags.writeable = True
    plan.splash_fwd.data_next[spare] = 1  # a place that no invariant speaks of
    with pytest.raises(PlanCorruptError, match="digest: an array was changed"):
        verify(plan)


def test_long_lengths_in_a_short_file_take_no_memory():
    """Lengths are only numbers in a header: nothing may be allocated by them."""
    plan = compile_mask(Empty(), q_len=4, kv_len=4, block_q=4, block_kv=4, splash=False)
    wide = np.dtype(np.int32)
    lists = dataclasses.replace(
        plan.fwd,
        block_kv=1,
        full_idx=plan.fwd.full_idx.astype(wide),
        partial_idx=plan.fwd.partial_idx.astype(wide),
        partial_blocks=np.zeros((0, 4, 1), np.uint8),
    )
    plan = dataclasses.replace(plan, kv_len=2**31 - 1, fwd=lists, dq=lists)
    with pytest.raises(PlanCorruptError, match=r"dkv.full_ptr: expected shape"):
        verify(plan)
    plan = dataclasses.replace(plan, dkv=dataclasses.replace(plan.dkv, block_kv=2**31 - 1))
    blocks = np.zeros((0, 4, 2**28), np.uint8)
    plan = dataclasses.replace(plan, dkv=dataclasses.replace(plan.dkv, partial_blocks=blocks))
    bounded = dataclasses.replace(plan, row_bounds=RowBounds(3, 3, None, None))
    tracemalloc.start()
    verify(plan)
    with pytest.raises(PlanCorruptError, match=r"up to 3 intervals, but those of .* up to 0"):
        verify(bounded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
