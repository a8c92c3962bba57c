"""Lowering against the dense oracle: every block of every direction, bit for bit."""

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import given
from hypothesis import strategies as st

from maskc import Causal, Dense, Documents, Full, Local, MultiHead, Random, compile_mask, strategies
from maskc.compile import compile_request
from maskc.expr import Empty
from maskc_cache.check import verify
from maskc_cache.plan import BlockState


def classified(mask, grid):
    """Block states of a dense mask, by definition."""
    block_q, block_kv = grid
    nq, nk = -(-mask.shape[0] // block_q), -(-mask.shape[1] // block_kv)
    padded = np.zeros((nq * block_q, nk * block_kv), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    blocks = padded.reshape(nq, block_q, nk, block_kv).swapaxes(1, 2)
    some, every = blocks.any(axis=(2, 3)), blocks.all(axis=(2, 3))
    return np.where(every, BlockState.FULL, np.where(some, BlockState.PARTIAL, BlockState.EMPTY))


@given(strategies.requests())
def test_every_direction_is_the_oracle(request):
    plan = compile_request(request)
    verify(plan)
    heads = request.mask.masks if isinstance(request.mask, MultiHead) else [request.mask]
    for head, mask in enumerate(heads):
        expected = dense(mask, request.q_len, request.kv_len)
        for direction in ("fwd", "dq", "dkv"):
            np.testing.assert_array_equal(plan.to_dense(head, direction), expected)
            lists, (rows, columns) = plan.lists(direction), plan.grid(direction)
            state = lists.states(rows, columns)[0][plan.head_mask[head]]
            state = state.T if direction == "dkv" else state
            np.testing.assert_array_equal(state, classified(expected, lists.blocks))


@given(st.data())
def test_the_laws_of_the_algebra_hold_for_plans(data):
    """Both sides of each law are compiled, and their block lists read back."""
    a, b, c = (data.draw(strategies.masks(12, 10, max_leaves=3)) for _ in "abc")

    def same(left, right):
        plans = [
            compile_mask(mask, q_len=12, kv_len=10, block_q=4, block_kv=3) for mask in (left, right)
        ]
        assert plans[0] == plans[1]
        np.testing.assert_array_equal(plans[0].to_dense(), plans[1].to_dense())

    same(~(a & b), ~a | ~b)
    same(~(a | b), ~a & ~b)
    same(~~a, a)
    same(a & (b | c), (a & b) | (a & c))
    same(a | (b & c), (a | b) & (a | c))
    same(a ^ b, (a - b) | (b - a))
    same(a & (b ^ c), (a & b) ^ (a & c))
    same(a - (b | c), (a - b) & (a - c))
    same(a & (a | b), a)
    same(a & ~a, Empty())


def test_partial_blocks_are_stored_once_and_numbered_by_first_appearance():
    plan = compile_mask(Local(3, 0), q_len=64, block_q=8, block_kv=8)
    assert plan.fwd.partial_id[:4].tolist() == [0, 1, 0, 1]
    assert len(plan.fwd.partial_blocks) == 2
    assert plan.dkv.partial_blocks is plan.fwd.partial_blocks


def test_heads_with_equal_masks_share_their_lists():
    mask = MultiHead([Causal(), Local(None, 0), Causal() & Full(), Local(4, 0)])
    plan = compile_mask(mask, q_len=32, block_q=8, block_kv=8)
    assert plan.head_mask.tolist() == [0, 0, 0, 1]


def test_a_block_across_a_ragged_edge_is_never_full():
    plan = compile_mask(Full(), q_len=20, kv_len=20, block_q=8, block_kv=8)
    state = plan.fwd.states(3, 3)[0][0]
    assert state.tolist() == [[2, 2, 1], [2, 2, 1], [1, 1, 1]]


def test_an_empty_mask_has_no_blocks():
    plan = compile_mask(Empty(), q_len=20, block_q=8, block_kv=8)
    assert len(plan.fwd.full_idx) == len(plan.fwd.partial_idx) == len(plan.fwd.partial_blocks) == 0
    assert not plan.to_dense().any()


@pytest.mark.parametrize("mask", [Causal(), Causal() & Documents([0, 700, 1500]), Random(0.5, 3)])
def test_long_rows_are_lowered_strip_by_strip(mask, monkeypatch):
    whole = compile_mask(mask, q_len=2000, block_q=64, block_kv=32)
    monkeypatch.setattr("maskc.evaluated._CELLS", 100)
    monkeypatch.setattr("maskc.evaluated._BYTES", 2000)
    assert compile_mask(mask, q_len=2000, block_q=64, block_kv=32) == whole


def test_progress_reaches_the_end_and_never_falls():
    calls = []
    request = strategies.CompileRequest(
        Causal(), q_len=512, block_q=64, block_kv=64, block_q_dkv=32
    )
    compile_request(request, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (24, 24)
    assert calls == sorted(calls)


def test_heads_of_both_kinds_share_partial_blocks():
    dense_causal = Dense(np.tri(256, dtype=bool))
    plan = compile_mask(
        MultiHead([Causal(), dense_causal, Local(3, 0)]), q_len=256, block_q=32, block_kv=32
    )
    assert plan.masks == 3
    assert len(plan.fwd.partial_blocks) == 3
    turned = compile_mask(
        MultiHead([dense_causal, Local(3, 0), Causal()]), q_len=256, block_q=32, block_kv=32
    )
    assert len(turned.fwd.partial_blocks) == 3
