"""Requests and keys: what decides a plan, and nothing else."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskc import Causal, CompileRequest, Full, Local, MaskArgumentError, MultiHead, strategies
from maskc.canonical import canonical

PINNED = CompileRequest(Causal() & Local(100, None), q_len=1024, heads=8)


def test_defaults():
    request = CompileRequest(Causal(), q_len=300)
    assert (request.kv_len, request.heads) == (300, 1)
    assert (request.block_q, request.block_kv) == (300, 300)
    request = CompileRequest(MultiHead([Causal(), Full()]), q_len=4096, kv_len=100, block_q=256)
    assert (request.heads, request.block_q, request.block_kv) == (2, 256, 100)
    assert (request.block_q_dkv, request.block_kv_dq) == (256, 100)


def test_the_key_of_one_request_is_pinned():
    """Keys are promises to caches on disk: this one changes only together with the epoch."""
    assert PINNED.key == "229c3b026d6385680922dc3e3498c5f9"


@pytest.mark.parametrize("seed", ["0", "1", "12345"])
def test_the_key_is_the_same_in_every_process(seed):
    program = (
        "from maskc import *; import numpy as np;"
        "masks = [Causal() & Local(100, None), Documents([0, 70, 300]) | Random(0.25, 3),"
        "         Segments(np.arange(300) // 7) ^ Dense(np.tri(300, dtype=bool))];"
        "print([CompileRequest(m, q_len=300, heads=8).key for m in masks])"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    scope = {}
    exec(program.replace("print(", "keys = list("), scope)  # noqa: S102
    assert run.stdout.strip() == str(scope["keys"])


@given(st.data())
def test_equal_requests_have_equal_keys_and_others_do_not(data):
    a = data.draw(strategies.requests(max_length=12))
    b = data.draw(strategies.requests(max_length=12))
    assert (a.key == b.key) == (a.canonical == b.canonical)


def test_equal_masks_of_many_heads_are_brought_to_one_form_once(monkeypatch):
    seen = []

    def counted(mask, *lengths):
        seen.append(mask)
        return canonical(mask, *lengths)

    monkeypatch.setattr("maskc.request.canonical", counted)
    shared = Causal() & Local(7, None)
    heads = [shared, Local(3, 0), shared, Local(3, 0), Local(7, 0), Full()]
    masks, head_mask = CompileRequest(MultiHead(heads), q_len=64).unique_masks
    assert seen == [shared, Local(3, 0), Local(7, 0), Full()]
    assert len(masks) == 3
    assert head_mask.tolist() == [0, 1, 0, 1, 0, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"q_len": 2048},
        {"kv_len": 2048},
        {"heads": 4},
        {"block_q": 128},
        {"block_kv": 128},
        {"block_q_dq": 128},
        {"block_kv_dq": 128},
        {"block_q_dkv": 128},
        {"block_kv_dkv": 128},
        {"head_shards": 2},
        {"q_seq_shards": 2},
        {"splash": False},
        {"shrink_grid": False},
        {"downcast_smem_data": False},
        {"prefetch": "keep"},
        {"row_bounds": True},
        {"mask": Causal()},
    ],
    ids=str,
)
def test_every_parameter_is_part_of_the_key(change):
    given_parameters = {"mask": Causal() & Local(100, None), "q_len": 1024, "heads": 8}
    assert CompileRequest(**(given_parameters | change)).key != PINNED.key


def test_how_splash_tables_look_does_not_matter_without_them():
    keys = {
        CompileRequest(Causal(), q_len=64, splash=False, shrink_grid=shrink).key
        for shrink in (True, False)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mask": 3}, "mask: expected a mask expression, got 3"),
        ({"q_len": 0}, "q_len: expected an integer >= 1, got 0"),
        ({"q_len": None}, "q_len: expected an integer, got None"),
        ({"q_len": 2.0}, r"q_len: expected an integer, got 2\.0"),
        ({"block_kv_dkv": -1}, "block_kv_dkv: expected an integer >= 1"),
        ({"splash": 1}, "splash: expected True or False, got 1"),
        ({"row_bounds": "auto"}, "row_bounds: expected True or False, got 'auto'"),
        ({"prefetch": "all"}, "prefetch: expected 'jax' or 'keep', got 'all'"),
        ({"heads": 6, "head_shards": 4}, "head_shards: expected a divisor of heads=6, got 4"),
        ({"q_seq_shards": 3}, "q_seq_shards: expected whole blocks in every shard, got q_len=64"),
        ({"mask": MultiHead([Full()] * 2), "heads": 3}, "heads: expected 2, one for each mask"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(MaskArgumentError, match=message):
        CompileRequest(**({"mask": Causal(), "q_len": 64} | parameters))
