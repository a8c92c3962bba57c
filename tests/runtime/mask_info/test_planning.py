"""Masks as plans and back, operands of kernels, pictures; and no array of the mask's size."""

import resource
import tracemalloc

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_info_oracle import dense_of_plan

from maskc import compile_mask, strategies
from maskc.expr import Causal, Local, MultiHead, per_batch
from maskc_cache.store import Store
from maskc_runtime import ArgumentShapeError, MaskInfo, TracedMaskError

IDS = np.array([[0, 0, 1, 1, 1, -1, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0]])


def whole(info, heads=1):
    mask = np.asarray(info.attention_mask)
    return np.broadcast_to(mask, (len(mask), heads, *mask.shape[2:]))


def test_rows_that_differ_are_folded_into_heads():
    info = MaskInfo.from_segments(IDS).apply_causal()
    plan = info.plan(heads=3, blocks=(4, 2))
    assert (plan.heads, plan.fwd.blocks) == (6, (4, 2))
    np.testing.assert_array_equal(dense_of_plan(plan, 2, 3), whole(info, 3))


def test_rows_that_agree_share_a_plan():
    info = MaskInfo.from_segments(IDS[[0, 0]]).apply_causal()
    plan = info.plan(heads=3, block_q=4, block_kv_dkv=2, row_bounds=True)
    assert (plan.heads, plan.dkv.block_kv, plan.masks) == (3, 2, 1)
    assert plan.row_bounds is not None
    np.testing.assert_array_equal(dense_of_plan(plan, 2, 3), whole(info, 3))
    free = MaskInfo.from_segments(IDS[1:]).apply_causal().plan()
    assert free.key == compile_mask(Causal(), q_len=8).key  # ids that forbid nothing are not in it


def test_a_store_keeps_plans(tmp_path):
    info, store = MaskInfo.from_segments(IDS), Store(tmp_path)
    plan = info.plan(store=store)
    assert store.get(plan.key) == plan


@settings(max_examples=40)
@given(strategies.multi_head_masks(16, 12, max_heads=2), st.integers(1, 9))
def test_from_plan_and_back(mask, block):
    plan = compile_mask(mask, q_len=16, kv_len=12, block_q=7, block_kv=5)
    info = MaskInfo.from_plan(plan)
    assert info.plan() is plan
    assert info.plan(blocks=(7, 5)) is plan
    dense = np.stack([plan.to_dense(head) for head in range(plan.heads)])
    np.testing.assert_array_equal(info.attention_mask[0], dense)
    causal = info.apply_causal(1)
    other = causal.plan(blocks=block)  # out of the plan's blocks, in blocks of another size
    expected = dense & np.tri(plan.q_len, plan.kv_len, k=1, dtype=bool)
    np.testing.assert_array_equal(dense_of_plan(other, 1, plan.heads)[0], expected)


def test_from_a_plan_of_a_batch():
    rows = [MultiHead([Causal(), Local(1, 0)]), Local(0, 2)]
    plan = compile_mask(per_batch(rows, 2), q_len=6, block_q=4, block_kv=4)
    info = MaskInfo.from_plan(plan, batch_size=2, batch_axis_name="data")
    assert (info.shape, info.heads, info.batch_axis_name) == ((2, 6, 6), 2, "data")
    np.testing.assert_array_equal(info.attention_mask, dense_of_plan(plan, 2, 2))
    np.testing.assert_array_equal(dense_of_plan(info.plan(blocks=3), 2, 2), info.attention_mask)
    cut = info.apply_kv_lengths(np.array([4, 6]), q_len=2)
    np.testing.assert_array_equal(
        cut.attention_mask[0, :, :, :4], info.attention_mask[0, :, 2:4, :4]
    )
    np.testing.assert_array_equal(dense_of_plan(cut.plan(blocks=2), 2, 2), cut.attention_mask)
    with pytest.raises(ArgumentShapeError, match="divisor of the plan's 4 heads"):
        MaskInfo.from_plan(plan, batch_size=3)


def test_operands_leave_ids_to_run_time():
    info = MaskInfo.from_segments(IDS).apply_causal()
    plan, q, kv = info.operands(heads=2, blocks=4)
    assert plan.key == compile_mask(Causal(), q_len=8, heads=2, block_q=4, block_kv=4).key
    np.testing.assert_array_equal(q, IDS)
    np.testing.assert_array_equal(kv, IDS)
    plan, q, kv = MaskInfo.from_segments(IDS[1:]).apply_causal().operands()
    assert (q, kv) == (None, None)


def test_operands_under_jit():
    seen = []

    def run(ids, lengths):
        info = MaskInfo.from_segments(ids).apply_sliding_window((3, 0))
        info = info.apply_kv_lengths(lengths, q_len=8)
        operands = info.operands(blocks=4)
        seen.append(operands.plan)
        return operands.q_segment_ids, operands.kv_segment_ids, info.attention_mask

    q, kv, mask = jax.jit(run)(IDS, np.array([5, 8]))
    (plan,) = seen
    ids = (q[:, :, None] == kv[:, None, :]) & (q[:, :, None] >= 0)
    np.testing.assert_array_equal(ids & plan.to_dense(), mask[:, 0])


def test_operands_refuse_what_only_a_plan_of_all_rows_says():
    info = MaskInfo.from_segments(IDS)
    with pytest.raises(ArgumentShapeError, match="conditions of their own for 2 batch rows"):
        info.apply_causal(np.array([0, 1])).operands()
    with pytest.raises(ArgumentShapeError, match="ids per head"):
        MaskInfo.from_segments(IDS[:, None]).operands()
    with pytest.raises(ArgumentShapeError, match="2 heads of its own, got heads=3"):
        MaskInfo.from_mask(MultiHead([Causal(), Local(1)]), 8).operands(heads=3)


def test_traced_values_are_named():
    with pytest.raises(TracedMaskError, match=r"MaskInfo.plan: .* traced segment ids .* \(2, 8\)"):
        jax.jit(lambda ids: MaskInfo.from_segments(ids).plan())(IDS)
    with pytest.raises(TracedMaskError, match=r"MaskInfo\.operands: .* traced offsets"):
        jax.jit(lambda n: MaskInfo.from_segments(IDS).apply_causal(n).operands())(1)
    with pytest.raises(TracedMaskError, match=r"MaskInfo\.visualize"):
        jax.jit(lambda ids: MaskInfo.from_segments(ids).visualize())(IDS)


def test_known_values_stay_known_under_jit():
    plans = []

    def run(x):
        info = MaskInfo.from_segments(IDS).apply_causal(np.array([0, 1]))
        info = info.apply_token_type_ids(IDS, combine="intersect").apply_kv_lengths(6, q_len=4)
        plans.append(info.plan(blocks=4))
        return x

    jax.jit(run)(1.0)
    assert plans[0].heads == 2


# --- pictures -----------------------------------------------------------------------------------


def test_a_picture():
    info = MaskInfo.from_segments(IDS).apply_causal()
    assert info.visualize(2, charset="ascii", return_str=True).splitlines() == [
        "Attention mask (batch=0, head=0) block=(2x2) mask_shape=(2, 1, 8, 8)",
        "         0001??02",
        "         ========",
        "     0 ||..      ||",
        "     1 ||  ..    ||",
        "   MIX ||  ....  ||",
        "     2 ||      ..||",
        "         ========",
        "full '##', partial '..', empty '  '",
        "left: segment ids of the queries, top: of the keys",
    ]


def test_a_picture_that_fits(capsys):
    info = MaskInfo.from_segments(IDS[1:])
    assert info.visualize((np.int64(2), 1), max_rows=2, max_cols=2, show_segments=False) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == ["  ====", "||████||", "||████||", "  ===="]
    causal = info.apply_causal().visualize(1, fit_in_screen=False, return_str=True)
    assert causal.count("██") == 8 * 9 // 2 + 1  # and in the legend
    for wrong in ({"batch": 1}, {"head": 1}, {"head": -1}):
        with pytest.raises(IndexError, match=next(iter(wrong))):
            info.visualize(**wrong)
    with pytest.raises(ValueError, match="charset"):
        info.visualize(charset="x")


# --- cost ---------------------------------------------------------------------------------------


def test_32k_tokens_without_an_array_of_the_mask_s_size():
    tokens = 32768
    lengths = np.diff(np.linspace(0, tokens, 34).astype(int))
    ids = np.repeat(np.arange(33), lengths)[None]
    MaskInfo.from_segments(ids[:, :64]).apply_causal().plan()  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    info = MaskInfo.from_segments(ids).apply_causal().apply_sliding_window((1024, 0))
    plan = info.plan(heads=8, blocks=512)
    positions = info.q_position_ids
    picture = info.visualize(512, return_str=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert peak < tokens**2 // 16  # one bit for each pair would be twice as much
    assert grown < tokens**2 // 4
    assert plan.heads == 8
    assert int(positions.max()) == lengths.max() - 1
    assert len(picture.splitlines()) == 1 + 1 + 32 + 2 + 2
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for q in (0, 5000, 20011, tokens - 1):  # rows of the plan against their definition
        row, start = q // 512, max(starts[np.searchsorted(starts, q, "right") - 1], q - 1024)
        lists = plan.fwd
        full = lists.full_idx[lists.full_ptr[row] : lists.full_ptr[row + 1]]
        found = np.zeros(tokens, bool)
        for block in full.tolist():
            found[block * 512 : (block + 1) * 512] = True
        own = slice(lists.partial_ptr[row], lists.partial_ptr[row + 1])
        for block, number in zip(
            lists.partial_idx[own].tolist(), lists.partial_id[own].tolist(), strict=True
        ):
            bits = lists.partial_blocks[number, q % 512]
            found[block * 512 : (block + 1) * 512] = np.unpackbits(bits, bitorder="little")
        np.testing.assert_array_equal(np.flatnonzero(found), np.arange(start, q + 1))
