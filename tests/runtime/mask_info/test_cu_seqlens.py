"""The two dialects of cumulative lengths: converted, told apart, refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc_runtime import (
    CuSeqlens,
    MaskInfo,
    NotSegmentsError,
    SeqlenPairs,
    SeqlensError,
    TracedMaskError,
    attention_mask_to_qkv_cu_seqlens,
    cu_seqlens_to_mask,
    qkv_cu_seqlens_to_attention_mask,
    qkv_cu_seqlens_to_qkv_masks,
    qkv_masks_to_cu_seqlens,
)
from maskc_runtime.mask_info import _segment_ids_to_cu_seqlens

VALID = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
PAIRS = [1, 4, 0, 5, 0, 0]
IDS = np.array([[4, 4, -1, 2, 2, 2], [2, 2, 0, 0, 0, -1]])
OFFSETS = [0, 2, 5, 7, 10]


def test_pairs_of_a_padding_mask_and_back():
    q, kv = qkv_masks_to_cu_seqlens(VALID, VALID[:, ::-1], out_dtype=jnp.int16)
    assert q == SeqlenPairs(np.int16(PAIRS))
    assert q.dtype == jnp.int16
    assert q.lengths.tolist() == [3, 5, 0]
    assert (kv.batch_size, kv[:2].tolist()) == (3, [1, 4])
    np.testing.assert_array_equal(cu_seqlens_to_mask(q, 5), VALID)
    back = jax.jit(lambda m: cu_seqlens_to_mask(qkv_masks_to_cu_seqlens(m)[0], 5))(VALID)
    np.testing.assert_array_equal(back, VALID)


def test_masks_of_queries_and_keys():
    q, kv = qkv_cu_seqlens_to_qkv_masks(
        SeqlenPairs(PAIRS), max_q_len=5, cu_seqlens_kv=SeqlenPairs([0, 2, 1, 3, 0, 3]), max_kv_len=3
    )
    np.testing.assert_array_equal(q, VALID)
    np.testing.assert_array_equal(kv, [[1, 1, 0], [0, 1, 1], [1, 1, 1]])
    pairs = qkv_cu_seqlens_to_attention_mask(
        SeqlenPairs(PAIRS), max_q_len=5, cu_seqlens_kv=SeqlenPairs([0, 2, 1, 3, 0, 3]), max_kv_len=3
    )
    np.testing.assert_array_equal(pairs[:, 0], VALID[:, :, None] & np.asarray(kv)[:, None, :])


def test_pairs_of_an_attention_mask():
    wide = (VALID[:, :, None] & VALID[:, None, :])[:, None]
    heads = np.concatenate([wide, wide & np.tri(5, k=-1, dtype=bool)], axis=1)
    of = attention_mask_to_qkv_cu_seqlens
    for q, kv in (of(VALID), of(wide[:, 0]), of(heads), of(heads, reduce_heads="first")):
        assert q == kv == SeqlenPairs(np.int32(PAIRS))
    q, kv = of(heads, reduce_heads="all")
    assert (q.array.tolist(), kv.array.tolist()) == ([2, 4, 1, 5, 0, 0], [1, 3, 0, 4, 0, 0])
    with pytest.raises(ValueError, match="reduce_heads"):
        of(heads, reduce_heads="x")
    with pytest.raises(ValueError, match="rank 2, 3 or 4"):
        of(VALID[0])


def test_offsets_of_documents():
    cu = _segment_ids_to_cu_seqlens(IDS)
    assert cu == CuSeqlens(np.int32(OFFSETS))
    assert cu.lengths.tolist() == [2, 3, 2, 3]
    traced = jax.jit(_segment_ids_to_cu_seqlens)(IDS)
    assert traced.array.tolist() == OFFSETS + [10] * 8
    few = jax.jit(lambda ids: _segment_ids_to_cu_seqlens(ids, max_segments=3))(IDS)
    assert few.array.tolist() == [-1] * 4  # no number of fewer documents
    with pytest.raises(SeqlensError, match="4 documents, got 3"):
        _segment_ids_to_cu_seqlens(IDS, max_segments=3)


def test_more_than_128_documents():
    ids = np.repeat(np.arange(300), 2)[None]
    cu = MaskInfo.from_segments(ids).cu_seqlens_q
    np.testing.assert_array_equal(cu, np.arange(301) * 2)
    info = MaskInfo.from_cu_seqlens(cu, max_q_len=600)
    np.testing.assert_array_equal(info.q_segment_ids, ids)


@pytest.mark.parametrize("plain", [PAIRS, [1, 4], [0, 5, 0, 7]])
def test_a_plain_array_that_is_only_pairs(plain):
    info = MaskInfo.from_cu_seqlens(plain, max_q_len=8)
    np.testing.assert_array_equal(
        info.q_segment_ids >= 0, cu_seqlens_to_mask(SeqlenPairs(plain), 8)
    )
    assert info.cu_seqlens_q == SeqlenPairs(plain)
    assert info.batch_size == len(plain) // 2


def test_a_plain_array_that_is_only_offsets():
    info = MaskInfo.from_cu_seqlens([0, 5, 9], max_q_len=10)
    assert info.q_segment_ids.tolist() == [[0] * 5 + [1] * 4 + [-1]]
    cross = MaskInfo.from_cu_seqlens(
        CuSeqlens([0, 2, 3]), max_q_len=4, cu_seqlens_kv=CuSeqlens([0, 1, 4]), max_kv_len=4
    )
    expected = np.zeros((4, 4), bool)
    expected[:2, :1] = expected[2:3, 1:4] = True
    np.testing.assert_array_equal(cross.attention_mask[0, 0], expected)


def test_one_row_of_one_document_is_the_same_in_both():
    infos = [
        MaskInfo.from_cu_seqlens(kind([0, 5]), max_q_len=7) for kind in (CuSeqlens, SeqlenPairs)
    ]
    plain = MaskInfo.from_cu_seqlens([0, 5], max_q_len=7)
    assert all(np.array_equal(plain.q_segment_ids, info.q_segment_ids) for info in infos)


REFUSED = {
    "either": (lambda: cu_seqlens_to_mask([0, 5, 9, 12], 12), "could be offsets .* or pairs"),
    "neither": (lambda: cu_seqlens_to_mask([3, 2, 1], 12), "is neither"),
    "floats": (lambda: cu_seqlens_to_mask([0.0, 5.0], 12), "is neither"),
    "square": (lambda: cu_seqlens_to_mask(np.zeros((2, 2), int), 12), "is neither"),
    "beyond": (lambda: MaskInfo.from_cu_seqlens([0, 5, 9], max_q_len=8), "tokens up to 8"),
    "length": (lambda: cu_seqlens_to_mask([0, 5, 9], -1), "max_len"),
    "falling": (lambda: CuSeqlens([0, 5, 3]), "CuSeqlens: expected offsets .* got .*5, 3"),
    "start": (lambda: CuSeqlens([1, 5]), "expected offsets"),
    "odd": (lambda: SeqlenPairs([0, 5, 6]), "SeqlenPairs: expected pairs"),
    "swapped": (lambda: SeqlenPairs([5, 0]), "expected pairs"),
    "kinds": (
        lambda: MaskInfo.from_cu_seqlens([0, 5, 9], max_q_len=9, cu_seqlens_kv=[1, 4]),
        "CuSeqlens of 3 like cu_seqlens_q, got SeqlenPairs of 2",
    ),
    "kinds of masks": (
        lambda: qkv_cu_seqlens_to_attention_mask([0, 5, 9], max_q_len=9, cu_seqlens_kv=[1, 4]),
        "CuSeqlens of 3, got SeqlenPairs of 2",
    ),
    "holes": (lambda: qkv_masks_to_cu_seqlens(np.array([[1, 0, 1]])), "row 0 has padding between"),
    "rank": (lambda: qkv_masks_to_cu_seqlens(VALID[0]), "expected .batch, len."),
    "pieces": (
        lambda: MaskInfo.from_segments(np.array([[0, 1, 0]])).cu_seqlens_q,
        "document 0 of row 0 comes in several pieces",
    ),
    "others": (
        lambda: MaskInfo.from_segments(np.array([[0, 1]]), np.array([[1, 0]])).cu_seqlens_q,
        "row 0 has other documents",
    ),
    "heads": (lambda: MaskInfo.from_segments(IDS[:, None]).cu_seqlens_q, "ids per head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        call()


def test_a_traced_plain_array_says_nothing_about_its_dialect():
    with pytest.raises(TracedMaskError, match="wrap it in CuSeqlens"):
        jax.jit(lambda cu: cu_seqlens_to_mask(cu, 5))(np.array(PAIRS))
    mask = jax.jit(lambda cu: cu_seqlens_to_mask(SeqlenPairs(cu), 5))(np.array(PAIRS))
    np.testing.assert_array_equal(mask, VALID)


def test_they_are_arrays_pytrees_and_values():
    cu = CuSeqlens(OFFSETS)
    assert jax.tree.map(lambda x: x, cu) == cu == CuSeqlens(cu)
    assert hash(cu) == hash(CuSeqlens(jnp.array(OFFSETS)))
    assert cu != SeqlenPairs([0, 2, 5, 7])
    assert np.asarray(cu).tolist() == jnp.asarray(cu).tolist() == OFFSETS
    assert (cu.shape, len(cu), cu[1]) == ((5,), 5, 2)


def test_lengths_of_what_has_no_ids():
    mask = (VALID[:, :, None] & VALID[:, None, :])[:, None]
    info = MaskInfo(_attention_mask=mask)
    assert info.get_or_compute_qkv_cu_seqlens() == (SeqlenPairs(np.int32(PAIRS)),) * 2
    holes = mask & ~np.eye(5, dtype=bool)[2] & ~np.eye(5, dtype=bool)[2][:, None]
    with pytest.raises(NotSegmentsError, match="padding between"):
        _ = MaskInfo(_attention_mask=holes).cu_seqlens_q
