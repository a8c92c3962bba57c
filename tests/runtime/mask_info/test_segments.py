"""Segment ids to masks and back."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc_runtime import (
    ArgumentShapeError,
    ArgumentTypeError,
    NotSegmentsError,
    TracedMaskError,
    mask_to_segment_ids,
    segment_ids_to_mask,
    segment_ids_to_qkv_masks,
)
from maskc_runtime.mask_info import _positions_from_segments_2d

IDS = np.array([[0, 0, 5, 5, -1, 5], [-3, 1, 1, 0, 0, 0]])
KV = np.array([[5, 0, 0, -1], [1, 0, 7, -2]])


def dense(q, kv):
    return (q[..., :, None] == kv[..., None, :]) & (q[..., :, None] >= 0)


def test_equal_and_not_negative():
    np.testing.assert_array_equal(segment_ids_to_mask((IDS, KV))[:, 0], dense(IDS, KV))
    np.testing.assert_array_equal(segment_ids_to_mask(IDS, np.float32)[:, 0], dense(IDS, IDS))
    q, kv, both = segment_ids_to_mask((IDS, KV), bool, True)
    np.testing.assert_array_equal(q, IDS >= 0)
    np.testing.assert_array_equal(kv, KV >= 0)
    assert all(map(np.array_equal, (q, kv, both), segment_ids_to_qkv_masks(IDS, KV)))
    assert segment_ids_to_qkv_masks(IDS)[2].shape == (2, 1, 6, 6)


def test_ids_per_head():
    heads = np.stack([IDS, IDS[:, ::-1]], axis=1)
    np.testing.assert_array_equal(segment_ids_to_mask(heads), dense(heads, heads))
    q, kv = mask_to_segment_ids(dense(heads, heads), per_head=True)
    np.testing.assert_array_equal(segment_ids_to_mask((q, kv)), dense(heads, heads))
    with pytest.raises(NotSegmentsError, match="per_head=True if heads differ"):
        mask_to_segment_ids(dense(heads, heads))


ids_or_padding = jax.jit(functools.partial(mask_to_segment_ids, inexact="padding"))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_ids_of_a_mask_give_it_back_and_other_masks_are_refused(seed):
    random = np.random.default_rng(seed)
    q, kv = (random.integers(-1, 4, (2, n)) for n in (6, 4))
    mask = dense(q, kv)
    found = mask_to_segment_ids(mask)
    np.testing.assert_array_equal(dense(*map(np.asarray, found)), mask)
    noise = mask ^ (random.random(mask.shape) < 0.1)
    a, b = noise[:, :, None, :], noise[:, None, :, :]
    segments = (~(a & b).any(-1) | (a == b).all(-1)).all()  # alike, or nothing in common
    try:
        found = mask_to_segment_ids(noise)
    except NotSegmentsError:
        assert not segments
    else:
        assert segments
        np.testing.assert_array_equal(dense(*map(np.asarray, found)), noise)
    found = ids_or_padding(noise)
    assert (dense(*map(np.asarray, found)) >= noise).all()  # sound, whatever the mask


def test_numbered_by_first_query():
    q, kv = mask_to_segment_ids(dense(np.array([7, -1, 3, 7]), np.array([3, 7, 9])))
    assert (q.tolist(), kv.tolist()) == ([0, -1, 1, 0], [1, 0, -1])


def test_what_cannot_round_trip_is_refused():
    causal = np.tri(4, dtype=bool)
    with pytest.raises(NotSegmentsError, match="batch row 0, head 0 is not made of segments"):
        mask_to_segment_ids(causal)
    q, kv = mask_to_segment_ids(causal, inexact="padding")
    assert (q.tolist(), kv.tolist()) == ([0] * 4, [0] * 4)
    with pytest.raises(TracedMaskError, match="inexact='padding'"):
        jax.jit(mask_to_segment_ids)(causal)
    with pytest.raises(ArgumentShapeError, match="rank 2, 3 or 4"):
        mask_to_segment_ids(causal[0])
    with pytest.raises(ValueError, match="inexact"):
        mask_to_segment_ids(causal, inexact="x")
    with pytest.raises(ArgumentTypeError, match="additive bias"):
        mask_to_segment_ids(np.where(causal, 0, -np.inf))
    with pytest.raises(ArgumentTypeError, match="tuple"):
        segment_ids_to_mask([IDS, KV])


def test_the_anti_diagonal_stays_one():
    mask = np.eye(5, dtype=bool)[::-1]
    q, kv = (np.asarray(x) for x in mask_to_segment_ids(mask))
    np.testing.assert_array_equal(dense(q, kv), mask)


def test_positions_begin_anew_at_each_change():
    found = _positions_from_segments_2d(IDS, pad_value=99)
    assert found.tolist() == [[0, 1, 0, 1, 99, 0], [99, 0, 1, 0, 1, 2]]
    heads = _positions_from_segments_2d(IDS[:, None], pad_value=99)
    np.testing.assert_array_equal(heads[:, 0], found)
    with pytest.raises(ArgumentTypeError, match="integers"):
        _positions_from_segments_2d(IDS * 0.5, pad_value=0)
