"""What the shipped configurations compile to, for real architectures, on a machine without one.

A part of them is compiled in every run, and all with `--hypothesis-profile=sweep`. With Triton
3.8, the newest for Python 3.11, that is a smaller part.
"""

import itertools
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from maskc.compile import compile_mask
from maskc.expr import Causal, Full, Local
from maskc_kernels.gpu.config import TileKey, tile_table

offline = pytest.importorskip("maskc_kernels.gpu.offline", reason="the GPU kernels need maskc[gpu]")

SHARED = {80: 166912, 90: 232448, 100: 232448}
"""Bytes of shared memory that a program can have (CUDA programming guide, technical specs)."""

CAUSAL = Causal()
STACK = 32
"""Bytes per thread that may lie in local memory, and outside of loops only."""


def compiled(
    recorded, architecture, bits, width, kernel, mask=CAUSAL, length=1024, bounds=False, **options
):
    dtype = {16: "bfloat16", 32: "float32"}[bits]
    plan = compile_mask(mask, q_len=length, heads=8, block_q=128, block_kv=128, row_bounds=bounds)
    q, kv = (1, 8, length, width), (1, 2, length, width)
    launches = recorded(architecture, plan, q, kv, kv, dtype, **options)
    return offline.compile_offline(launches[kernel], architecture)


def check(report, architecture, stack=STACK, spills=0):
    assert report.warnings == ()  # above all no serialised WGMMA
    assert report.shared <= SHARED[architecture]
    assert report.stack <= stack
    assert report.spills_in_loops <= spills


LONG = settings.get_current_profile_name() != "default"


NEW_TRITON = tuple(map(int, metadata.version("triton").split(".")[:2])) >= (3, 9)


def in_every_run(key):
    if key.bits == 16 and key.architecture != 100:
        return key.width <= 128 or NEW_TRITON
    return NEW_TRITON and key in {TileKey(90, 32, 128, "fwd"), TileKey(100, 16, 128, "fwd")}


KEYS = [key for key in sorted(tile_table()) if LONG or in_every_run(key)]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: "-".join(map(str, key)))
def test_every_shipped_configuration(key, recorded):
    report = compiled(recorded, *key)
    check(report, key.architecture)
    assert (report.tensor_core > 0) == (key.bits == 16)
    assert len(report.loops) == 2
    full, partial = report.loops
    assert full < partial


IDS = np.zeros((1, 1024), np.int32)
OPTIONS = {
    "bias": {"bias": (1, 8, 1024, 1024)},
    "bias of keys": {"bias": (1, 1, 1, 1024)},
    "soft cap": {"logits_soft_cap": 30.0},
    # Sinks are behind the loops, ragged edges in the partial one.
    "sinks, full blocks only": {"sinks": (8,), "mask": Full()},
    "ragged, partial blocks only": {"length": 1000, "mask": Local(left=3, right=0)},
    "padded": {"width": 80},
    "segments": {"q_segment_ids": IDS, "kv_segment_ids": IDS},
}
CASES = [(90, name, "fwd") for name in (OPTIONS if NEW_TRITON else ("bias", "segments"))]
if LONG:
    CASES = list(itertools.product(SHARED, OPTIONS, ("fwd", "dq", "dkv")))
SPILLS = {(80, "bias", "dkv"): 4}
"""Instructions per iteration that have no room for their registers, even in half the tile."""
STACKS = {(100, "ragged, partial blocks only", "dkv"): 64}
"""Bytes outside of loops, in place of `STACK`; half the tile needs hardly less."""


@pytest.mark.parametrize(("architecture", "name", "kernel"), CASES)
def test_every_option(architecture, name, kernel, recorded):
    options = {"width": 128} | OPTIONS[name]
    report = compiled(recorded, architecture, 16, kernel=kernel, **options)
    case = architecture, name, kernel
    check(report, architecture, STACKS.get(case, STACK), SPILLS.get(case, 0))
    assert report.tensor_core > 0
    # A list that a plan has no use for is compiled away.
    assert len(report.loops) == (1 if "only" in name else 2)


HOLE = Causal() & ~(Causal(offset=-300) & ~Causal(offset=-600))
BOUNDS = {"1 interval": Causal(), "2 intervals": HOLE}
BOUNDED = [(90, "fwd", "2 intervals"), (90, "dkv", "1 interval")]
if LONG:
    BOUNDED = list(itertools.product(SHARED, ("fwd", "dq", "dkv", "dbias"), BOUNDS))


@pytest.mark.parametrize(("architecture", "kernel", "name"), BOUNDED)
def test_row_bounds(architecture, kernel, name, recorded):
    bias = {"bias": (1, 1, 1, 1024)} if kernel == "dbias" else {}
    report = compiled(recorded, architecture, 16, 128, kernel, BOUNDS[name], bounds=True, **bias)
    check(report, architecture)
    assert report.tensor_core > 0
    assert len(report.loops) == 2


@pytest.mark.parametrize("architecture", [80, 90] if LONG else [90])
@pytest.mark.parametrize("shape", [(1, 8, 1024, 1024), (1, 1, 1, 1024)])
def test_the_gradient_of_a_bias(shape, architecture, recorded):
    report = compiled(recorded, architecture, 16, 128, "dbias", bias=shape)
    check(report, architecture)
    assert report.tensor_core > 0


DQ_KEYS = [key for key in KEYS if key.direction == "dq"]


@pytest.mark.parametrize(
    "key", DQ_KEYS if LONG else DQ_KEYS[-1:], ids=lambda key: "-".join(map(str, key))
)
def test_delta_in_the_tiles_of_dq(key, recorded):
    report = compiled(recorded, key.architecture, key.bits, key.width, "delta")
    check(report, key.architecture)
    assert report.stack == 0
    assert report.loops == ()


GOALS = [(90, 128, ("words",))]
if LONG:
    GOALS = list(itertools.product(SHARED, (64, 128), [("words", "1 interval", "2 intervals")]))


@pytest.mark.parametrize(("architecture", "head_dim", "masks"), GOALS)
def test_a_step_takes_hardly_more_instructions_than_without_a_mask(
    architecture, head_dim, masks, monkeypatch
):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    from gpu_compile import ours, peer

    found = [ours(architecture, "bfloat16", head_dim, 128, name)["fwd"] for name in masks]
    plain = min(
        offline.compile_offline(peer(found[0], stepped=stepped), architecture).loops[0]
        for stepped in (False, True)
    )
    for launch in found:
        full, partial = offline.compile_offline(launch, architecture).loops
        assert full <= 1.02 * plain
        assert partial <= 1.35 * plain
