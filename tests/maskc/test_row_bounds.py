"""Row bounds against the dense oracle, both ways, by whatever road they were found."""

import dataclasses

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import given

from maskc import (
    Causal,
    Dense,
    Documents,
    Empty,
    Full,
    Keys,
    Local,
    MultiHead,
    Strided,
    compile_mask,
    compile_request,
    row_bounds,
    strategies,
    zoo,
)
from maskc_cache import verify

CU = [0, 5, 6, 19, 40, 48]


def drawn(bounds, columns):
    """Bool [masks, rows, columns], by the rule that kernels follow."""
    masks, _, rows = bounds.shape
    out, at = np.zeros((masks, rows, columns), bool), np.arange(columns)
    for start, stop in zip(bounds[:, ::2].swapaxes(0, 1), bounds[:, 1::2].swapaxes(0, 1)):  # noqa: B905
        out |= (start[:, :, None] <= at) & (at < stop[:, :, None])
    return out


def most(masks):
    """The most runs of True along the last axis."""
    edges = np.diff(np.pad(masks, ((0, 0), (0, 0), (1, 1))).astype(int))
    return int((edges == 1).sum(axis=2).max())


@given(strategies.requests(max_length=40))
def test_bounds_are_the_mask_both_ways(request):
    plan = compile_request(dataclasses.replace(request, row_bounds=True))
    mask = request.mask
    per_head = mask.masks if isinstance(mask, MultiHead) else (mask,) * plan.heads
    heads = np.unique(plan.head_mask, return_index=True)[1]
    masks = np.stack([dense(per_head[h], plan.q_len, plan.kv_len) for h in heads])
    bounds = plan.row_bounds
    for intervals, array, side in (
        (bounds.q_intervals, bounds.q, masks),
        (bounds.kv_intervals, bounds.kv, masks.swapaxes(1, 2)),
    ):
        assert intervals == most(side)
        if intervals > 2:
            assert array is None
            continue
        assert array.shape == (len(masks), 2 * max(intervals, 1), side.shape[1])
        np.testing.assert_array_equal(drawn(array, side.shape[2]), side)
    verify(plan)


@pytest.mark.parametrize(
    ("mask", "intervals"),
    [
        (Empty(), (0, 0)),
        (Full(), (1, 1)),
        (Causal(), (1, 1)),
        (Documents(CU) & Causal(), (1, 1)),
        (zoo.sink_window(4, 9), (2, 1)),
        (Full() - Documents(CU), (2, 2)),
        (zoo.block_diffusion(24, 4), (2, 2)),
        (Keys([1, 4, 9]), (3, 1)),
        (zoo.sparse_transformer_fixed(8, 2), (5, 1)),
        (Causal() & Strided(20), (3, 3)),
        (MultiHead([Causal(), zoo.sink_window(4, 9), Keys([0])]), (2, 1)),
        (MultiHead([Causal(), Dense(np.eye(48, dtype=bool)[::-1])]), (1, 1)),
    ],
    ids=str,
)
def test_each_side_has_as_few_as_fit(mask, intervals):
    plan = compile_mask(mask, q_len=48, block_q=16, block_kv=8, row_bounds=True)
    assert plan.row_intervals == intervals
    for most_, array in zip(intervals, (plan.row_bounds.q, plan.row_bounds.kv), strict=True):
        shape = None if array is None else array.shape
        assert shape == (None if most_ > 2 else (plan.masks, 2 * max(most_, 1), 48))


def test_layout_of_the_ends():
    """Half-open, ascending, [0, 0) where there is none, neighbors side by side."""
    plan = compile_mask(zoo.sink_window(1, 2), q_len=4, kv_len=6, row_bounds=True)
    assert plan.row_bounds.q.tolist() == [
        [[0, 0, 0, 0], [1, 2, 3, 1], [0, 0, 0, 2], [0, 0, 0, 4]],
    ]
    assert plan.row_bounds.kv.tolist() == [[[0, 1, 2, 3, 0, 0], [4, 3, 4, 4, 0, 0]]]
    assert plan.row_bounds.q.flags.c_contiguous


def test_two_writings_of_one_mask_have_one_plan():
    """A mask without a strip form is read back from its blocks, to the same bounds."""
    parameters = {"q_len": 48, "block_q": 16, "block_kv": 8, "row_bounds": True}
    for mask in (zoo.sink_window(4, 9), Documents(CU), Local(3, 5), Keys([1, 4, 9])):
        bits = Dense(dense(mask, 48, 48))
        assert compile_mask(bits, **parameters) == compile_mask(mask, **parameters)


def test_strip_masks_are_never_read_back(monkeypatch):
    """A million rows cost what writing them costs."""

    def refuse(*_):
        raise AssertionError("read block lists")

    for name in ("most_intervals", "read_bounds"):
        monkeypatch.setattr(row_bounds, name, refuse)
    mask = zoo.sink_window(4, 4096)
    plan = compile_mask(mask, q_len=1 << 20, block_q=4096, block_kv=4096, row_bounds=True)
    assert plan.row_intervals == (2, 1)
    assert plan.row_bounds.q[0, :, -1].tolist() == [0, 4, (1 << 20) - 4096, 1 << 20]


def test_left_out_unless_asked_for():
    assert compile_mask(Causal(), q_len=8).row_bounds is None
    assert compile_mask(Causal(), q_len=8).row_intervals is None
