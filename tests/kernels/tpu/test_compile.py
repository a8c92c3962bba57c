"""Every configuration that is offered compiles for real TPUs, and stays within their memories.

libtpu's compiler needs no TPU. It runs in a process of its own, because it reads its settings once.
"""

import dataclasses
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
CASES = [
    Case("1M tokens", length=2**20, heads=1),
    Case("4M tokens", length=2**22, heads=1, block_q=1024, block_kv=1024, backward=()),
    Case("head_dim 64, float32", 1000, 128, 256, head_dim=64, v_head_dim=64, dtype="float32"),
    Case("head_dim 80, cap, sinks", 2048, soft_cap=30.0, sinks=True, head_dim=80, v_head_dim=80),
    Case("head_dim 96, segments", 2048, batch=2, segments=True, head_dim=96, v_head_dim=96),
    Case("head_dim 192, values 128, masks per head, bounds", 2048, masks=2, head_dim=192,
         row_bounds=True),
    Case("head_dim 256, float32", 4096, head_dim=256, v_head_dim=256, dtype="float32"),
    Case("bounds, segments", 2048, batch=2, segments=True, row_bounds=True),
    WIDE := Case("head_dim 256, wide blocks", 4096, 512, 1024, head_dim=256, v_head_dim=256),
    WIDEST := Case("head_dim 256, widest blocks", 4096, 1024, 1024, head_dim=256, v_head_dim=256,
                   backward=("fused",)),
]  # fmt: skip
GROUPED = Case("1M tokens, grouped heads, segments", 2**20, batch=2, heads=4, kv_heads=2,
               segments=True)  # fmt: skip
LONGER = [
    dataclasses.replace(GROUPED, backward=("fused",)),
    dataclasses.replace(GROUPED, backward=("apart",)),
    dataclasses.replace(CASES[1], backward=("fused",)),
]
LONGEST = [*LONGER, WIDEST, dataclasses.replace(WIDE, backward=("apart",))]
KERNELS = {"fused": ["maskc_backward"], "apart": ["maskc_backward_dq", "maskc_backward_dkv"]}
USUAL, MORE = ["v5e:2x2", "v6e:2x2"], ["v5p:2x2x1", "tpu7x:2x2x1"]
VMEM = 13 * MIB  # scores and registers that did not suffice come on top
SMEM = MIB // 16  # whatever the length; all of it is 1 MiB
TEXT = 100_000  # characters of a program with one way to gradients; tables would be megabytes


def compile_all(topology, cases):
    """What every case takes."""
    run = subprocess.run(
        [sys.executable, Path(tpu_compile.__file__), topology],
        input=json.dumps([dataclasses.asdict(case) for case in cases]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line[7:] for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == len(cases), run.stdout + run.stderr[-4000:]
    return map(json.loads, lines)


def check(topology, cases):
    """Compile, print what every kernel uses (`pytest -s`), and hold it to the bounds."""
    for case, result in zip(cases, compile_all(topology, cases), strict=True):
        line = f"{topology}, {case.name}: program of {result['text']:,} characters"
        for kernel, used in sorted(result["kernels"].items()):
            line += f"; {kernel} VMEM {used['vmem'] / MIB:.2f} MiB, SMEM {used['smem']:,} bytes"
        sys.stdout.write(line + "\n")
        assert result["text"] < TEXT * max(1, len(case.backward)), case.name
        backward = [kernel for way in case.backward for kernel in KERNELS[way]]
        assert {*result["kernels"]} == {"maskc_forward", *backward}
        for kernel, used in result["kernels"].items():
            assert 0 < used["vmem"] < VMEM, kernel
            assert 0 < used["smem"] < SMEM, kernel


@pytest.fixture(scope="module")
def lowered():
    """The longest programs, and two of different lengths, before their compilation."""
    lengths = [Case(str(length), length, heads=1) for length in (2**13, 2**20)]
    cases = [dataclasses.replace(case, compile=False) for case in (*lengths, *LONGEST)]
    return [*compile_all("v6e:2x2", cases)]


def test_the_program_does_not_grow_with_the_mask(lowered):
    small, large = lowered[:2]
    assert small["frame"] == large["frame"]
    # In a kernel, larger numbers take a few bytes more.
    assert small["text"] < large["text"] < 1.02 * small["text"]


def test_every_program_is_short(lowered):
    for case, result in zip(LONGEST, lowered[2:], strict=True):
        assert result["text"] < TEXT, (case, result["text"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "topology", [*USUAL, *(pytest.param(name, marks=pytest.mark.long) for name in MORE)]
)
def test_compiles_within_the_memories(topology):
    check(topology, CASES)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("topology", [*USUAL, *MORE])
def test_long_lists_compile_within_the_memories(topology):
    # XLA for v5p gives the scatter of a long list to its sparse core, which has no room for it.
    # A chip of v5e has 16 GB, which two such batches do not fit.
    changes = {"v5p:2x2x1": {"sparse_core": False}, "v5e:2x2": {"batch": 1}}.get(topology, {})
    check(topology, [dataclasses.replace(case, **changes) for case in LONGER])
