"""What the shipped configurations compile to, for real architectures, on a machine without one."""

import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Full
from maskc_kernels.gpu.config import tile_table

offline = pytest.importorskip("maskc_kernels.gpu.offline", reason="the GPU kernels need maskc[gpu]")

SHARED = {80: 166912, 90: 232448, 100: 232448}
"""Bytes of shared memory that a program can have (CUDA programming guide, technical specs)."""

CAUSAL = Causal()
STACK = 32
"""Bytes per thread that may lie in local memory, and outside of loops only."""


def compiled(recorded, architecture, size, width, direction, mask=CAUSAL, **options):
    dtype = {2: "bfloat16", 4: "float32"}[size]
    plan = compile_mask(mask, q_len=1024, heads=8, block_q=128, block_kv=128)
    q, kv = (1, 8, 1024, width), (1, 2, 1024, width)
    launches = recorded(architecture, plan, q, kv, kv, dtype, **options)
    launch = launches[("fwd", "dq", "dkv").index(direction)]
    return offline.compile_offline(launch, architecture)


@pytest.mark.parametrize(("architecture", "size", "width", "direction"), sorted(TABLE))
def test_every_shipped_configuration(architecture, size, width, direction, recorded):
    report = compiled(recorded, architecture, size, width, direction)
    assert report.warnings == ()  # above all no serialised WGMMA
    assert report.shared <= SHARED[architecture]
    assert report.stack <= STACK
    assert report.spills_in_loops == 0
    assert (report.tensor_core > 0) == (size == 2)
    assert len(report.loops) == 2
    full, partial = report.loops
    assert full < partial


def test_a_list_that_a_plan_has_no_use_for_is_compiled_away(recorded):
    both = compiled(recorded, 90, 2, 64, "fwd")
    full = compiled(recorded, 90, 2, 64, "fwd", mask=Full())
    assert len(full.loops) == 1
    assert full.loops[0] <= both.loops[0]
