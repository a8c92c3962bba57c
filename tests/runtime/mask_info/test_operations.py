"""Every operation, alone and composed, against its dense definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_info_oracle import DenseInfo, dense_of_plan

from maskc.expr import Causal
from maskc_runtime import ArgumentShapeError, MaskInfo

LENGTH = 9
IDS = np.array([[0, 0, 0, 2, 2, 2, 2, -1, -1], [-7, 3, 3, 3, 3, 1, 1, 0, 0]])
TYPES = np.array([[0, 1, 1, 2, 1, 1, 0, 1, 1], [1, 1, 0, 2, 2, 2, 0, -3, 0]])
INFO = MaskInfo.from_segments(IDS)


def same(info, dense):
    mask, whole = np.broadcast_arrays(info.attention_mask, dense.whole)  # heads may be alike
    np.testing.assert_array_equal(mask, whole)


# --- compositions -------------------------------------------------------------------------------

offsets = st.integers(-3, 3) | st.tuples(st.integers(-3, 3), st.integers(-3, 3))
sides = st.none() | st.integers(0, 5)


def token_types(draw):
    return np.random.default_rng(draw(st.integers(0, 99))).integers(-1, 3, (2, LENGTH))


@st.composite
def steps(draw):
    """An operation that keeps the lengths: what to do to a MaskInfo, and to its definition."""
    offset = draw(offsets)
    array = np.array(offset) if isinstance(offset, tuple) else offset
    match draw(st.sampled_from(["causal", "window", "chunks", "types", "materialize"])):
        case "causal":
            return lambda i: i.apply_causal(array), lambda d: d.apply_causal(offset)
        case "window":
            window = draw(st.tuples(sides, sides) | st.integers(0, 5))
            return (
                lambda i: i.apply_sliding_window(window, offset=array),
                lambda d: d.apply_sliding_window(window, offset),
            )
        case "chunks":
            chunk = draw(st.integers(1, 10))
            return lambda i: i.apply_chunked(chunk, array), lambda d: d.apply_chunked(chunk, offset)
        case "types":
            types = token_types(draw)
            combine = draw(st.sampled_from(["union", "intersect", "replace"]))
            zero = draw(st.sampled_from(["q", "kv", "both", "none"]))
            update = None if combine == "union" else draw(st.none() | st.booleans())
            options = {"combine": combine, "zero_policy": zero}
            return (
                lambda i: i.apply_token_type_ids(types, update_segment_ids=update, **options),
                lambda d: d.apply_token_type_ids(
                    types, **options, update=combine != "union" if update is None else update
                ),
            )
    return lambda i: i.materialize_attention_mask(), lambda _: None


@st.composite
def cuts(draw):
    """An operation that keeps some queries or keys."""
    two = st.lists(st.integers(0, LENGTH), min_size=2, max_size=2)
    match draw(st.sampled_from(["lengths", "decode", "prefill"])):
        case "lengths":
            lengths = draw(two)
            options = {
                "q_len": draw(st.sampled_from([4, LENGTH])),
                "sliding_window": draw(st.sampled_from([None, 4, LENGTH + 2])),
                "end_index": draw(st.none() | two),
            }
            arrays = options | {
                "end_index": options["end_index"] and np.array(options["end_index"])
            }
            return (
                lambda i: i.apply_kv_lengths(np.array(lengths), **arrays),
                lambda d: d.apply_kv_lengths(lengths, **options),
            )
        case "decode":
            window = draw(st.sampled_from([(1, 2), (3, 0), (7, 7)]))
            index = draw(st.lists(st.integers(0, LENGTH - 1), min_size=2, max_size=2))
            return (
                lambda i: i.apply_sliding_window(window, mode="decode", index=np.array(index)),
                lambda d: d.decode(window, index),
            )
    window = draw(st.sampled_from([4, (1, 2), (7, 7)]))
    return lambda i: i.apply_sliding_window(window, mode="prefill"), lambda d: d.prefill(window)


@st.composite
def starts(draw):
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    ids = np.sort(rng.integers(-1, 3, (2, LENGTH)), axis=1)
    if draw(st.booleans()):
        return MaskInfo.from_segments(ids), DenseInfo(ids)
    mask = rng.random((2, 2, LENGTH, LENGTH)) < 0.6
    mask[0, :, 4] = False
    valid = mask.any((1, 3)), mask.any((1, 2))
    dense = DenseInfo(*(np.where(x, 0, -1) for x in valid), mask)
    return MaskInfo.from_attention_mask(mask), dense


@settings(max_examples=40)
@given(starts(), st.lists(steps(), max_size=3), st.none() | cuts(), st.integers(1, 10))
def test_compositions_same_as_their_definition(start, operations, cut, block):
    info, dense = start
    for on_info, on_dense in [*operations, *([cut] if cut else [])]:
        info = on_info(info)
        on_dense(dense)
    same(info, dense)
    plan = info.plan(blocks=block)
    np.testing.assert_array_equal(dense_of_plan(plan, 2, info.heads), info.attention_mask)


# --- traced values ------------------------------------------------------------------------------

TRACED = {
    "ids": (
        lambda ids, _: MaskInfo.from_segments(ids).apply_causal().apply_chunked(4),
        lambda d, _: (d.apply_causal(), d.apply_chunked(4)),
    ),
    "offsets": (
        lambda ids, rows: MaskInfo.from_segments(ids).apply_causal(rows).apply_chunked(4, rows),
        lambda d, rows: (d.apply_causal(rows), d.apply_chunked(4, rows)),
    ),
    "window": (
        lambda ids, rows: MaskInfo.from_segments(ids).apply_sliding_window((2, None), offset=rows),
        lambda d, rows: d.apply_sliding_window((2, None), rows),
    ),
    "union": (
        lambda ids, _: INFO.apply_causal().apply_token_type_ids(ids),
        lambda d, _: (d.apply_causal(), d.apply_token_type_ids(d.q, "union", "q")),
    ),
    "intersect": (
        lambda ids, rows: MaskInfo.from_segments(ids).apply_token_type_ids(
            ids + rows[:, None], combine="intersect", zero_policy="none"
        ),
        lambda d, rows: d.apply_token_type_ids(d.q + rows[:, None], "intersect", "none"),
    ),
    "lengths": (
        lambda ids, rows: (
            MaskInfo.from_segments(ids)
            .apply_causal()
            .apply_kv_lengths(rows, q_len=2, sliding_window=3)
        ),
        lambda d, rows: (d.apply_causal(), d.apply_kv_lengths(rows, 2, 3)),
    ),
    "end index": (
        lambda ids, rows: (
            MaskInfo.from_segments(ids)
            .apply_chunked(4)
            .apply_kv_lengths(rows, q_len=2, end_index=rows - 1)
        ),
        lambda d, rows: (d.apply_chunked(4), d.apply_kv_lengths(rows, 2, end_index=rows - 1)),
    ),
    "decode": (
        lambda ids, rows: (
            MaskInfo.from_segments(ids)
            .apply_causal()
            .apply_sliding_window((2, 1), mode="decode", index=rows)
        ),
        lambda d, rows: (d.apply_causal(), d.decode((2, 1), rows)),
    ),
}


@pytest.mark.parametrize("name", TRACED)
def test_with_traced_ids_and_numbers(name):
    build, define = TRACED[name]
    rows = np.array([3, 8])
    dense = DenseInfo(IDS)
    define(dense, rows)
    with jax.checking_leaks():
        mask = jax.jit(lambda ids, rows: build(ids, rows).attention_mask)(IDS, rows)
    np.testing.assert_array_equal(mask, dense.whole)
    info = jax.jit(build)(IDS, rows)  # as a result of jit, too
    np.testing.assert_array_equal(info.attention_mask, dense.whole)


def test_vmap_over_stacked_batches():
    stacked = np.stack([IDS, IDS[::-1]])

    def build(ids):
        return (
            MaskInfo.from_segments(ids).apply_causal().apply_kv_lengths(jnp.array([7, 6]), q_len=3)
        )

    infos = jax.vmap(build)(stacked)
    masks = jax.vmap(lambda info: info.attention_mask)(infos)
    for ids, mask in zip(stacked, masks, strict=True):
        np.testing.assert_array_equal(mask, build(ids).attention_mask)


def test_a_gradient_passes_through_what_the_mask_selects():
    info = INFO.apply_causal()
    loss = lambda x: jnp.where(info.attention_mask, x, 0.0).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(jnp.ones((2, 1, LENGTH, LENGTH)))
    np.testing.assert_array_equal(gradient, info.attention_mask.astype(float))


@pytest.mark.parametrize("size", [-1, 0, 1, 4, 100])
def test_a_traced_chunk_size(size):
    mask = jax.jit(lambda n: INFO.apply_chunked(n, 2).attention_mask)(size)
    dense = DenseInfo(IDS)
    if size < 1:
        dense.mask[:] = False
    else:
        dense.apply_chunked(size, 2)
    np.testing.assert_array_equal(mask, dense.whole)


# --- quirks of the original that are not repeated -----------------------------------------------


def test_decoding_with_a_single_query_keeps_the_window_around_the_index():
    info = MaskInfo.from_segments(np.zeros((1, 1), int), np.arange(16)[None] * 0)
    step = info.apply_sliding_window((3, 3), mode="decode", index=10)
    assert step.shape == (1, 1, 7)
    assert step.attention_mask.all()  # keys 7 to 13
    first = info.apply_sliding_window((3, 3), mode="decode", index=1)
    assert (
        first.attention_mask[0, 0, 0].tolist() == [True] * 5 + [False] * 2
    )  # keys 0 to 4 of 0 to 6
    numbered = info.replace(kv_positions=np.arange(16)[None])
    moved = numbered.apply_sliding_window((3, 3), mode="decode", index=10)
    assert moved.kv_positions.tolist() == [list(range(7, 14))]


def test_one_row_becomes_as_many_as_offsets():
    info = MaskInfo.from_segments(IDS[:1]).apply_causal(np.array([0, 1, 2]))
    assert info.shape == (3, LENGTH, LENGTH)
    assert info.q_segment_ids.shape == (3, LENGTH)
    dense = DenseInfo(IDS[[0, 0, 0]])
    dense.apply_causal([0, 1, 2])
    same(info, dense)


def test_documents_survive_chunks_and_types():
    info = INFO.apply_chunked(4)
    np.testing.assert_array_equal(info.q_segment_ids, IDS)
    typed = INFO.apply_token_type_ids(TYPES, combine="intersect")
    q, kv = typed.q_segment_ids, typed.kv_segment_ids
    np.testing.assert_array_equal(  # the ids alone say it
        MaskInfo.from_segments(q, kv).attention_mask, typed.attention_mask
    )
    assert not (typed.attention_mask & ~INFO.attention_mask).any()


def test_a_union_adds_no_padding_and_no_other_document():
    info = INFO.apply_causal().apply_token_type_ids(np.ones((2, LENGTH), int))
    np.testing.assert_array_equal(info.attention_mask, INFO.attention_mask)
    mask = np.zeros((1, 1, 4, 4), bool)
    mask[..., 1:, :3] = np.tri(3, dtype=bool)
    raw = MaskInfo(_attention_mask=mask).apply_token_type_ids(np.ones((1, 4), int))
    expected = np.zeros_like(mask)
    expected[..., 1:, :3] = True  # row 0 and column 3 are padding
    np.testing.assert_array_equal(raw.attention_mask, expected)


def test_positions_are_sliced_with_what_they_number():
    info = INFO.replace(q_positions=np.arange(18).reshape(2, 9), kv_positions=IDS)
    cut = info.apply_kv_lengths(np.array([5, 8]), q_len=2, sliding_window=4)
    assert cut.q_positions.tolist() == [[3, 4], [15, 16]]
    np.testing.assert_array_equal(cut.kv_positions, [IDS[0, 1:5], IDS[1, 4:8]])


def test_an_array_of_one_offset_is_an_expression():
    assert INFO.apply_causal(np.array([2])) == INFO.apply_causal(2)
    assert INFO.apply_causal()._term.masks == (Causal(),)


# --- refusals -----------------------------------------------------------------------------------

REFUSED = {
    "negative window": (lambda: INFO.apply_sliding_window(-1), ValueError, "sides >= 0"),
    "three sides": (lambda: INFO.apply_sliding_window((1, 2, 3)), ValueError, "left, right"),
    "mode": (lambda: INFO.apply_sliding_window(1, mode="x"), ValueError, "'decode' or 'prefill'"),
    "no index": (lambda: INFO.apply_sliding_window(1, mode="decode"), ValueError, "index"),
    "index beyond": (
        lambda: INFO.apply_sliding_window(1, mode="decode", index=9),
        ArgumentShapeError,
        "index: expected 0 to 8, got 9",
    ),
    "open decode": (
        lambda: INFO.apply_sliding_window((None, 0), mode="decode", index=0),
        ValueError,
        "two known bounds",
    ),
    "chunk": (lambda: INFO.apply_chunked(0), ValueError, "chunk_size"),
    "no q_len": (lambda: INFO.apply_kv_lengths(np.array([1, 2])), ValueError, "q_len"),
    "q_len": (lambda: INFO.apply_kv_lengths(np.array([1, 2]), q_len=10), ValueError, "1 to 9"),
    "end": (
        lambda: INFO.apply_kv_lengths(np.array([1, 2]), q_len=1, end_index=10),
        ArgumentShapeError,
        "end_index: expected at most the 9 queries",
    ),
    "combine": (lambda: INFO.apply_token_type_ids(TYPES, combine="x"), ValueError, "union"),
    "zeros": (lambda: INFO.apply_token_type_ids(TYPES, zero_policy="x"), ValueError, "none"),
    "union ids": (
        lambda: INFO.apply_token_type_ids(TYPES, update_segment_ids=True),
        ValueError,
        "no segment ids",
    ),
    "types": (lambda: INFO.apply_token_type_ids(TYPES[:, :4]), ArgumentShapeError, r"\(2, 4\)"),
    "rows": (lambda: INFO.apply_causal(np.zeros(3, int)), ArgumentShapeError, "1 or 2 rows"),
    "empty": (lambda: MaskInfo().apply_causal(), ArgumentShapeError, "known shape"),
    "float": (lambda: INFO.apply_causal(0.5), TypeError, "expected integers, got float64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        call()


def test_nothing_is_written_into_an_object():
    info = INFO.apply_causal()
    before = info.tree_flatten()
    jax.eval_shape(lambda: (info.attention_mask, info.q_position_ids, info.cu_seqlens_q, info.bias))
    functools.reduce(lambda i, _: i.materialize_attention_mask(), range(2), info)
    assert all(a is b for a, b in zip(before[0], info.tree_flatten()[0], strict=True))
    with pytest.raises(AttributeError):
        info.q_positions = None
