"""Every configuration that is offered compiles for real TPUs, and stays within their memories.

libtpu's compiler needs no TPU. It runs in a process of its own, because it reads its settings once.
"""

import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tpu_compile
from tpu_compile import Case

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="NOT COMPILED FOR ANY TPU: libtpu is not installed (pip install 'maskc[test]')",
    ),
    pytest.mark.xdist_group("libtpu"),
]

MIB = 2**20
USUAL = {"v5e:2x2": "v5e", "v6e:2x2": "v6e"}
OTHERS = {"v5p:2x2x1": "v5p", "tpu7x:2x2x1": "tpu7x"}

CASES = [
    Case("plain"),
    Case("1M tokens", length=2**20, heads=1),
    Case("4M tokens", length=2**22, heads=1, block_q=1024, block_kv=1024, gradients=False),
    Case("cap, sinks, masks per head", soft_cap=30.0, sinks=True, masks=2, batch=2),
    Case("float32, ragged", dtype="float32", length=1000, block_q=128, block_kv=256),
    *(
        Case(f"head_dim {dim}", head_dim=dim, v_head_dim=v_dim, length=2048)
        for dim, v_dim in ((64, 64), (80, 80), (96, 96), (192, 128), (256, 256))
    ),
]
VMEM = 16 * MIB  # what v5e gives a kernel by default, the least of the four
SMEM = MIB // 16  # whatever the length; all of it is 1 MiB
TEXT = 100_000


@functools.cache
def results(topology):
    """Compile all cases for one topology; prints the table of what they use."""
    cases = json.dumps([dataclasses.asdict(case) for case in CASES])
    run = subprocess.run(
        [sys.executable, Path(tpu_compile.__file__), topology],
        input=cases, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line[7:] for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == len(CASES), run.stdout + run.stderr[-4000:]
    return {result["name"]: result for result in map(json.loads, lines)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "topology", [*USUAL, *(pytest.param(x, marks=pytest.mark.long) for x in OTHERS)]
)
def test_everything_compiles_within_the_memories(topology):
    for case in CASES:
        result = results(topology)[case.name]
        print(f"{topology} {case.name}: HLO text {result['text']:,} bytes")
        assert result["text"] < TEXT
        backward = {"maskc_backward_dq", "maskc_backward_dkv"} if case.gradients else set()
        assert set(result["kernels"]) == {"maskc_forward"} | backward
        for kernel, used in result["kernels"].items():
            print(f"  {kernel}: VMEM {used['vmem'] / MIB:.2f} MiB, SMEM {used['smem']:,} bytes")
            assert 0 < used["vmem"] < VMEM
            assert 0 < used["smem"] < SMEM


def test_the_program_does_not_grow_with_the_mask():
    few, many = (results("v6e:2x2")[name]["text"] for name in ("plain", "1M tokens"))
    assert many < 1.1 * few
