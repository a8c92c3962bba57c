"""SMEM budgets: the thresholds found by compiling for TPUs, and the settings that messages name."""

import re

import numpy as np
import pytest

from maskc import Causal, Local, MaskArgumentError, MultiHead, compile_mask
from maskc.errors import SmemError
from maskc.export import tokamax
from maskc.smem import (
    SMEM_BYTES,
    require_splash,
    splash_problem,
    splash_smem,
    tokamax_smem,
    usable_smem,
)
from maskc_cache.errors import PlanError

CAUSAL = Causal()


def plan_of(blocks, mask=CAUSAL, block=512, **parameters):
    """A plan of `blocks` x `blocks` blocks."""
    shape = {"q_len": blocks * block, "block_q": block, "block_kv": block}
    return compile_mask(mask, **shape, **parameters)


@pytest.mark.parametrize(
    ("blocks", "fits", "bytes_taken"),
    [(512, True, 786_432), (640, False, 1_228_800), (1024, False, 3_145_728)],
)
@pytest.mark.parametrize("device", SMEM_BYTES)
def test_splash_thresholds(blocks, fits, bytes_taken, device):
    """JAX splash, causal and recomputed: 512 blocks a side compile, 640 and 1024 do not."""
    plan = plan_of(blocks)
    assert sum(splash_smem(plan, computable=True).values()) == bytes_taken
    assert (splash_problem(plan, device, computable=True) is None) == fits


@pytest.mark.parametrize(
    ("blocks", "fits"), [(256, True), (384, True), (512, False)]
)  # fmt: skip
def test_tokamax_thresholds(blocks, fits):
    """tokamax, causal and recomputed: 256 and 384 blocks a side compile, 512 do not."""
    info = tokamax.mask_info(plan_of(blocks), computable=True)
    taken = sum(tokamax_smem(info).values())
    assert taken == 13 * blocks * (blocks + 1) // 2
    assert (taken <= usable_smem()) == fits


def test_tokamax_bytes_are_those_of_one_device():
    plan = plan_of(64)
    whole = tokamax_smem(tokamax.mask_info(plan))
    assert set(whole) == {"active_rows", "active_cols", "block_mask", "mask_next", "bounds"}
    assert whole["bounds"] == 8 * 64 * 65 // 2
    parts = tokamax_smem(tokamax.mask_info(plan, q_seq_shards=4))
    assert parts["bounds"] == 8 * 16 * (49 + 64) // 2  # the last shard's list is the longest
    static = tokamax_smem(tokamax.mask_info(plan, "dkv", dynamic_grid=False))
    assert static == {"block_mask": 64 * 64, "mask_next": 64 * 64}


def test_splash_bytes_are_those_of_one_device_and_padded():
    assert splash_smem(plan_of(256)) == {
        "data_next": 2 * 65536,
        "block_mask": 65536,
        "mask_next": 65536,
    }
    assert splash_smem(plan_of(256, q_seq_shards=4))["block_mask"] == 16384
    assert splash_smem(plan_of(256, heads=4, head_shards=2))["block_mask"] == 65536
    narrow = plan_of(256, Causal() & Local(600, 0))
    assert narrow.splash_fwd.block_mask.shape == (1, 256, 3)
    assert splash_smem(narrow)["block_mask"] == 256 * 128


def test_the_message_names_the_settings_that_would_fit():
    plan = plan_of(640)
    problem = splash_problem(plan, "v6e")
    assert "the fwd splash tables take 1,638,400 B" in problem
    assert "data_next 819,200, block_mask 409,600, mask_next 409,600" in problem
    assert "v6e has 1,044,480 B" in problem
    assert problem.endswith("these would fit: block_q: 1024, block_kv: 1024; q_seq_shards: 2")
    assert splash_problem(plan_of(320, block=1024)) is None
    assert splash_problem(plan_of(640, q_seq_shards=2)) is None


def test_the_message_knows_shrinking_and_recomputing_and_head_shards():
    window = Causal() & Local(600, 0)
    problem = splash_problem(plan_of(640, window, shrink_grid=False))
    assert "shrink_grid: true" in problem
    assert splash_problem(plan_of(640, window)) is None
    assert "recomputes the mask" in splash_problem(plan_of(512))
    heads = MultiHead([Causal(), window] * 4)
    problem = splash_problem(plan_of(256, heads))
    shards = int(re.search(r"head_shards: (\d+)", problem)[1])
    assert splash_problem(plan_of(256, heads, head_shards=shards)) is None


def test_dkv_tables_are_judged_too():
    plan = plan_of(256, block_q_dkv=128, block_kv_dkv=128)
    problem = splash_problem(plan)
    assert problem.startswith("the dkv splash tables")
    assert "block_q_dkv: 512, block_kv_dkv: 512" in problem


def test_plans_that_do_not_fit_are_refused():
    require_splash(plan_of(64))
    with pytest.raises(SmemError, match="the fwd splash tables take"):
        require_splash(plan_of(640))


def test_plans_without_tables_have_no_problem_and_no_sizes():
    plan = plan_of(4, splash=False)
    assert splash_problem(plan) is None
    with pytest.raises(PlanError, match="no splash tables"):
        splash_smem(plan)


def test_unknown_devices_are_refused():
    with pytest.raises(MaskArgumentError, match="device: expected 'v4' or 'v5e' or"):
        usable_smem("v99")


def test_the_usable_size_is_what_was_found_by_compiling():
    assert usable_smem() == 261_120 * np.dtype(np.int32).itemsize
