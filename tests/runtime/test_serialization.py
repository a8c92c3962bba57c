"""Exported programs take plans, masks and segment ids as arguments, in this process and another."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from jax import export

from maskc import expr
from maskc.compile import compile_mask
from maskc.strategies import masks
from maskc.strips import normal
from maskc_cache import write_plan
from maskc_cache.plan import pack
from maskc_runtime import (
    ArgumentTypeError,
    ArgumentValueError,
    CuSeqlens,
    MaskInfo,
    SegmentIds,
    SeqlenPairs,
    attention,
    load_plan,
    plan_of_mask,
    serialization,
    shard_plan,
    stack_plans,
)

N = 24
PLAN = load_plan(compile_mask(expr.Causal(), q_len=N, heads=2, block_q=8, block_kv=8))
IDS = np.repeat(np.arange(3, dtype=np.int32), 8)[None]
SEGMENTS = MaskInfo.from_segments(IDS)
PER_HEAD = expr.MultiHead([expr.Causal(), expr.Dense(np.eye(N, dtype=bool))])
ARGUMENTS = {
    "plan": PLAN,
    "stack": stack_plans([PLAN, PLAN]),
    "shards": shard_plan(PLAN, 2),
    "plan built on the device": plan_of_mask(np.eye(N, dtype=bool), block_q=8, block_kv=8),
    "segment ids": SegmentIds(IDS, IDS),
    "offsets": CuSeqlens([0, 3, 9]),
    "mask of segments": SEGMENTS,
    "of lengths": MaskInfo.from_cu_seqlens(SeqlenPairs([0, 5]), max_q_len=N),
    "of elements": MaskInfo.from_attention_mask(np.eye(N, dtype=bool)[None]),
    "of a plan": MaskInfo.from_plan(compile_mask(expr.Causal(), q_len=N)),
    "of heads": MaskInfo.from_mask(PER_HEAD, N),
    "and causal": SEGMENTS.apply_causal().replace(batch_axis_name="data"),
    "and a band": SEGMENTS.apply_causal(np.array([1, 2])),
    "and types": SEGMENTS.apply_causal().apply_token_type_ids(IDS),
    "and lengths": SEGMENTS.apply_causal().apply_kv_lengths(np.array([20]), q_len=1),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_program_takes_it_and_gives_it_back(name):
    """Structures are equal, so the program takes what it was exported with, and no other."""
    argument = ARGUMENTS[name]
    written = export.export(jax.jit(lambda x: (x, 1)))(argument).serialize()
    read = export.deserialize(written)
    result, _ = read.call(argument)
    assert jax.tree.structure(result) == jax.tree.structure(argument)
    jax.tree.map(np.testing.assert_array_equal, result, argument)
    with pytest.raises(ValueError, match="tree structure"):
        read.call(next(other for other in ARGUMENTS.values() if type(other) is not type(argument)))


def test_another_plan_is_refused():
    read = export.deserialize(export.export(jax.jit(lambda x: x))(PLAN).serialize())
    other = load_plan(compile_mask(expr.Full(), q_len=N, heads=2, block_q=8, block_kv=8))
    with pytest.raises(ValueError, match="tree structure"):
        read.call(other)


@given(masks(N, N))
def test_every_mask_of_the_language_is_read_back(mask):
    term = serialization.Static((mask,))
    assert serialization._read_static(serialization._static(term)) == term


def test_a_mask_of_no_public_node_is_refused():
    rows = np.arange(N + 1)
    info = MaskInfo.from_mask(normal(N, rows, rows, np.tile([0, 3, 0, 0], (N, 1))), N)
    exported = export.export(jax.jit(lambda x: x.q_segment_ids))(info)
    with pytest.raises(ArgumentTypeError, match="a mask of Strips cannot be exported as an argum"):
        exported.serialize()


def test_what_no_program_may_name():
    for name in ("per_batch", "Mask", "Node", "open"):
        data = pack([["node", name, {}]])
        with pytest.raises(ArgumentValueError, match=f"names no mask: '{name}'"):
            serialization._read_static(data)


READER = """
import sys
import jax
import numpy as np
from maskc import expr, runtime

program, plan, arrays = sys.argv[1:]
given = np.load(arrays)
ids = given["ids"]
plan, info = runtime.load_plan(plan), runtime.MaskInfo.from_segments(ids).apply_causal()
exported = jax.export.deserialize(open(program, "rb").read())
np.savez(arrays, exported.call(given["q"], plan, runtime.SegmentIds(ids, ids), info))
"""


def test_a_program_in_another_process(tmp_path, draw_qkv):
    q, *_ = draw_qkv((1, 2, N, 8), (1, 2, N, 8))

    def run(q, plan, segment_ids, info):
        out = attention(q, q, q, plan, segment_ids=segment_ids)
        return out + info.attention_mask.sum()

    given = q, PLAN, SegmentIds(IDS, IDS), SEGMENTS.apply_causal()
    exported = export.export(jax.jit(run))(*given)
    program, plan, arrays = (tmp_path / name for name in ("program", "causal.plan", "arrays.npz"))
    program.write_bytes(exported.serialize())
    write_plan(compile_mask(expr.Causal(), q_len=N, heads=2, block_q=8, block_kv=8), plan)
    np.savez(arrays, q=q, ids=IDS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", READER, *map(str, (program, plan, arrays))]
    subprocess.run(command, check=True, env=environment)
    found = np.load(arrays)["arr_0"]
    np.testing.assert_allclose(found, exported.call(*given), rtol=1e-6)
