"""Attention over a mesh: the checks of `eight_devices`, and what is refused on one device."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import maskc
from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_runtime import (
    ArgumentShapeError,
    ArgumentTypeError,
    ArgumentValueError,
    load_plan,
    shard_plan,
    sharded_attention,
)

SCRIPT = Path(__file__).parents[1] / "support/eight_devices.py"
CHECKS = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.decorator_list and node.name != "alone"
]


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CHECKS)
def test_the_same_as_on_one_device(found, name):
    assert found[name] == "passed", found[name]


def test_every_check_ran(found):
    assert list(found) == CHECKS
    assert len(CHECKS) > 8


PLAN = load_plan(compile_mask(Causal(), q_len=24, heads=4, block_q=8, block_kv=8))


@pytest.mark.parametrize(
    ("shards", "text"),
    [
        ((3, 1), "head_shards: expected a divisor of the plan's 4 heads, got 3"),
        ((0, 1), "head_shards: expected a divisor of the plan's 4 heads, got 0"),
        ((1, 0), "q_seq_shards: expected a positive number, got 0"),
        ((1, 2), r"q_seq_shards: .* q_len=24 in 2 shards of block_q=8 in the fwd pass"),
    ],
)
def test_shards_that_do_not_fit(shards, text):
    with pytest.raises(ArgumentValueError, match=text):
        shard_plan(PLAN, *shards)


def test_a_traced_plan_cannot_be_cut():
    with pytest.raises(ArgumentTypeError, match="is traced, and only a plan that is known can be"):
        jax.jit(shard_plan)(PLAN)


@pytest.mark.parametrize(
    ("q", "arguments", "kind", "text"),
    [
        (
            (2, 4, 24, 8),
            {"batch_axis": "nobody"},
            ArgumentValueError,
            "batch_axis: .*axes of the me",
        ),
        ((4, 24, 8), {}, ArgumentShapeError, r"q: expected \[batch, heads, q_len, head_dim\], got"),
        (
            (2, 4, 24, 8),
            {"plan": shard_plan(PLAN, 2)},
            ArgumentValueError,
            r"plan: expected \[1, 1\]",
        ),
    ],
)
def test_what_is_refused(q, arguments, kind, text):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(kind, match=text):
        sharded_attention(
            *[np.zeros(q, np.float32)] * 3, **({"plan": PLAN, "mesh": mesh} | arguments)
        )


def test_the_script_is_of_this_checkout():
    assert Path(maskc.__file__).is_relative_to(SCRIPT.parents[2])
