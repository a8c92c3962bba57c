"""The mask classes, held against JAX's own on every element; and what JAX's have not."""

import operator
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splash_twins import jax_masks, twins

from maskc import (
    Causal,
    CompileRequest,
    Documents,
    Empty,
    MultiHead,
    Prefix,
    Segments,
    splash,
)

SHAPE = (6, 8)
DENSE = np.random.default_rng(0).random(SHAPE) < 0.5
MASKS = [
    splash.FullMask(SHAPE),
    splash.CausalMask(SHAPE, 2),
    splash.LocalMask(SHAPE, (1, None), -1),
    splash.ChunkedCausalMask(SHAPE, 3),
    splash.NumpyMask(DENSE),
    splash.ExpressionMask(SHAPE, Causal() | Prefix(3)),
    splash.CausalMask(SHAPE) & splash.LocalMask(SHAPE, (2, 2)),
    splash.CausalMask(SHAPE) | splash.NumpyMask(DENSE),
    splash.CausalMask(SHAPE) ^ splash.FullMask(SHAPE),
    ~splash.CausalMask(SHAPE),
]
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def slices(draw, size):
    start = draw(st.none() | st.integers(0, size))
    stop = draw(st.none() | st.integers(start or 0, size))
    return slice(start, stop, draw(st.sampled_from([None, 1])))


@given(st.data(), sizes)
def test_elements_are_those_of_jax(data, shape):
    build = data.draw(twins(shape))
    ours, theirs = build(splash), build(jax_masks)
    assert ours.shape == theirs.shape
    whole = slice(0, shape[0]), slice(0, shape[1])
    idx = data.draw(st.tuples(*map(slices, shape)) | st.just(whole))
    np.testing.assert_array_equal(ours[idx], theirs[idx])
    assert ours[idx].dtype == np.bool_


@given(st.data(), sizes)
def test_masks_are_equal_where_jax_has_equal_ones(data, shape):
    pool = [data.draw(twins(shape)) for _ in range(2)]
    a, b = (data.draw(st.sampled_from(pool)) for _ in range(2))
    ours, theirs = (a(splash), b(splash)), (a(jax_masks), b(jax_masks))
    assert (ours[0] == ours[1]) == (theirs[0] == theirs[1])
    if ours[0] == ours[1]:
        assert hash(ours[0]) == hash(ours[1])


@pytest.mark.parametrize("mask", MASKS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    "idx",
    [
        np.s_[2, 3],
        np.s_[-1, :],
        np.s_[:, -8],
        np.s_[np.int64(4), 1:3],
        np.s_[-3:, :-2],
        np.s_[3:1, :],
        np.s_[2:2, 0],
        np.s_[: np.int32(2), :],
    ],
    ids=str,
)
def test_indices_mean_what_they_mean_in_numpy(mask, idx):
    expected = mask[:, :][idx]
    np.testing.assert_array_equal(mask[idx], expected)
    assert np.shape(mask[idx]) == expected.shape


@pytest.mark.parametrize(
    ("idx", "error"),
    [
        (np.s_[::2, :], AssertionError),
        (np.s_[::2, :], splash.MaskIndexError),
        (np.s_[0:7, :], AssertionError),
        (np.s_[:, 9:], IndexError),
        (np.s_[-7:, :], AssertionError),
        (np.s_[:, :-9], IndexError),
        (np.s_[6, :], IndexError),
        (np.s_[:, -9], IndexError),
        (np.s_[0:2], NotImplementedError),
        (3, NotImplementedError),
        (np.s_[:, :, :], NotImplementedError),
        (np.s_[[1, 2], :], NotImplementedError),
    ],
)
@pytest.mark.parametrize("mask", [*MASKS[:4], MASKS[5]], ids=lambda m: type(m).__name__)
def test_other_indices_are_refused(mask, idx, error):
    with pytest.raises(error, match=r"mask\["):
        mask[idx]


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (operator.and_, np.logical_and),
        (operator.or_, np.logical_or),
        (operator.xor, np.logical_xor),
        (operator.sub, lambda a, b: a & ~b),
    ],
)
@pytest.mark.parametrize("right", MASKS, ids=lambda m: type(m).__name__)
def test_operators_take_masks_arrays_and_expressions(apply, expected, right):
    left = splash.ChunkedCausalMask(SHAPE, 4)
    a, b = left[:, :], right[:, :]
    np.testing.assert_array_equal(apply(left, right)[:, :], expected(a, b))
    np.testing.assert_array_equal(apply(left, b)[:, :], expected(a, b))
    np.testing.assert_array_equal(apply(b, left)[:, :], expected(b, a))
    np.testing.assert_array_equal(apply(left, right.expression)[:, :], expected(a, b))
    np.testing.assert_array_equal(apply(right.expression, left)[:, :], expected(b, a))
    np.testing.assert_array_equal((~right)[:, :], ~b)


def test_operators_are_classes():
    a, b = MASKS[1:3]
    assert (a & b, a | b) == (splash.LogicalAnd(a, b), splash.LogicalOr(a, b))
    assert (a ^ b, ~a) == (splash.LogicalXor(a, b), splash.LogicalNot(a))
    assert a - b == splash.LogicalAnd(a, splash.LogicalNot(b))


@pytest.mark.parametrize("other", [3, "causal", MultiHead([Causal()])])
@pytest.mark.parametrize("apply", [operator.and_, operator.or_, operator.xor, operator.sub])
def test_operators_refuse_what_is_no_mask(apply, other):
    for operands in ((MASKS[0], other), (other, MASKS[0])):
        with pytest.raises(TypeError, match="unsupported operand"):
            apply(*operands)


@pytest.mark.parametrize("module", [splash, jax_masks], ids=["ours", "jax"])
def test_errors_of_the_constructors_are_those_of_jax(module):
    m = module
    other = m.CausalMask((8, 8))
    for build in (
        lambda: m.CausalMask((8, 8), shard_count=3),
        lambda: m.LocalMask((8, 8), (1, 1), 0, 3),
        lambda: m.ChunkedCausalMask((8, 8), 2, 3),
        lambda: m.ChunkedCausalMask((8, 8), 0),
        lambda: m.ChunkedCausalMask((8, 8), -1),
        lambda: m.FullMask([8, 8]),
        lambda: m.NumpyMask(np.ones((2, 2, 2), bool)),
        lambda: m.NumpyMask(np.ones((2, 2), int)),
        lambda: m.MultiHeadMask([]),
        lambda: m.MultiHeadMask([other, m.CausalMask((8, 4))]),
        lambda: m.MultiHeadMask([m.MultiHeadMask([other])]),
        lambda: m.MultiHeadMask([np.ones((8, 8), bool)]),
        lambda: m.LogicalAnd(other, m.CausalMask((8, 4))),
        lambda: m.LogicalOr(other, m.CausalMask((8, 4))),
        lambda: other & m.CausalMask((8, 4)),
        lambda: other | m.CausalMask((8, 4)),
        lambda: m.make_chunk_attention_mask((8, 8), 0),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            build()
    for call in (
        lambda: bool(other),
        lambda: m.Mask().shape,
        lambda: m.Mask()[0, 0],
        lambda: m._ComputableMask((8, 8), operator.ge) == other,
        lambda: hash(m._ComputableMask((8, 8), operator.ge)),
        lambda: m.MultiHeadMask([other])[0:1, 0:1],
        lambda: m.FullMask((8, 8))[0:1, 0:1, 0:1],
    ):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(TypeError):
        m.ChunkedCausalMask((8, 8), None)


@pytest.mark.parametrize(
    "build",
    [
        lambda: splash.CausalMask((8, 8), 1.5),
        lambda: splash.LocalMask((8, 8), (1, 2, 3)),
        lambda: splash.LocalMask((8, 8), "12"),
        lambda: splash.make_chunk_attention_mask((8, 8), None),
        lambda: splash.ExpressionMask((8, 8), MultiHead([Causal()])),
        lambda: splash.ExpressionMask((8, 8), splash.CausalMask((8, 8))),
        lambda: splash.LogicalAnd(np.ones((8, 8), bool), np.ones((8, 8), bool)),
        lambda: splash.LogicalNot(Causal()),
        lambda: splash.CausalMask((8, 8)) & splash.MultiHeadMask([splash.CausalMask((4, 8))]),
        lambda: splash.CausalMask((8, 8)) & np.ones((8, 8)),
        lambda: splash.MultiHeadMask([MASKS[0]] * 2) & splash.MultiHeadMask([MASKS[0]] * 3),
    ],
)
def test_bad_arguments_are_refused_with_a_reason(build):
    with pytest.raises(ValueError, match="expected"):
        build()


# --- heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [splash, jax_masks], ids=["ours", "jax"])
def test_heads_are_indexed_as_in_jax(module):
    masks = [module.CausalMask((4, 4), 1), module.FullMask((4, 4)), module.CausalMask((4, 4))]
    heads = module.MultiHeadMask(masks)
    assert heads.shape == (3, 4, 4)
    np.testing.assert_array_equal(heads[2, 0:4, 0:4], masks[2][0:4, 0:4])
    np.testing.assert_array_equal(heads[1:3, 0:2, 1:4], [mask[0:2, 1:4] for mask in masks[1:]])
    with pytest.raises(IndexError):
        heads[3, 0:1, 0:1]


def test_heads_take_more_indices_and_operators_than_in_jax():
    heads = splash.MultiHeadMask(MASKS[:3])
    whole = heads[:, :, :]
    for idx in (np.s_[-1, :, :], np.s_[np.int64(1), 2, :], np.s_[-2:, 3, 4], np.s_[2, 1, 1]):
        np.testing.assert_array_equal(heads[idx], whole[idx])
    with pytest.raises(AssertionError, match="inside shape"):
        heads[-4, :, :]
    both, narrow = heads & MASKS[3], MASKS[3] - heads
    np.testing.assert_array_equal(both[:, :, :], whole & MASKS[3][:, :])
    np.testing.assert_array_equal(narrow[:, :, :], MASKS[3][:, :] & ~whole)
    np.testing.assert_array_equal((heads ^ ~heads)[:, :, :], np.ones_like(whole))
    assert splash.MultiHeadMask(MASKS[:3]) == splash.MultiHeadMask(tuple(MASKS[:3]))


# --- identity -----------------------------------------------------------------------------------


def test_hashes_are_the_same_in_every_process():
    program = (
        "import numpy as np; from maskc import Causal, Prefix, splash as s; m = s.MultiHeadMask(["
        "s.CausalMask((8, 8), 2), s.LocalMask((8, 8), (1, None)) & s.ChunkedCausalMask((8, 8), 4), "
        "~s.NumpyMask(np.eye(8, dtype=bool)), s.FullMask((8, 8)) ^ s.FullMask((8, 8)), "
        "s.ExpressionMask((8, 8), Causal(align='bottom_right') | Prefix(3))]); print(hash(m))"
    )
    hashes = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1


def test_masks_that_differ_have_hashes_that_differ():
    masks = [*MASKS, splash.CausalMask((6, 9), 2), splash.CausalMask(SHAPE, 3)]
    masks += [splash.NumpyMask(~DENSE), splash.MultiHeadMask(MASKS[:1]), *map(operator.inv, MASKS)]
    permuted = splash.CausalMask(SHAPE, 2)
    permuted.q_sequence = permuted.q_sequence[::-1]
    assert permuted != MASKS[1]
    assert len({hash(mask) for mask in [*masks, permuted]}) == len(masks) + 1


# --- what JAX's masks lack ----------------------------------------------------------------------


def test_composites_stay_lazy():
    million = (1 << 20, 1 << 20)
    causal, window = splash.CausalMask(million), splash.LocalMask(million, (1023, 0))
    mask = causal & (window | ~window) & splash.FullMask(million)
    assert mask[-1, -3:].all()
    np.testing.assert_array_equal(mask.q_sequence, np.arange(1 << 20))
    q, kv = np.array([[5], [7]]), np.array([[6, 7]])
    np.testing.assert_array_equal(mask.mask_function(q, kv), q >= kv)
    keys = {CompileRequest(m, 1 << 20).key for m in (mask.expression, Causal())}
    assert len(keys) == 1


@pytest.mark.parametrize(
    "mask",
    [
        splash.CausalMask(SHAPE) & splash.NumpyMask(DENSE),
        ~splash.NumpyMask(DENSE),
        splash.FullMask(SHAPE) & splash.FullMask(SHAPE),
        splash.ExpressionMask(SHAPE, Causal()) | splash.CausalMask(SHAPE),
    ],
)
def test_composites_of_others_are_not_computable(mask):
    assert not hasattr(mask, "q_sequence")
    assert not hasattr(mask, "mask_function")


def test_composites_over_other_orders_of_queries_are_not_computable():
    permuted = splash.CausalMask(SHAPE)
    permuted.q_sequence = permuted.q_sequence[::-1].copy()
    assert not hasattr(permuted | splash.CausalMask(SHAPE), "mask_function")
    both = permuted & permuted
    np.testing.assert_array_equal(both.q_sequence, permuted.q_sequence)


def test_any_expression_is_a_splash_mask():
    documents = splash.ExpressionMask((12, 12), Causal() & Documents([0, 5, 12]))
    ids = np.array([0] * 5 + [1] * 7)
    np.testing.assert_array_equal(
        documents[:, :], splash.make_causal_mask((12, 12)) & (ids[:, None] == ids)
    )
    assert documents.expression == Causal() & Documents([0, 5, 12])
    assert not splash.ExpressionMask((4, 4), Empty())[:, :].any()
    padded = splash.ExpressionMask((3, 3), Segments([0, 0, -1]))
    assert padded[2, :].tolist() == [False] * 3


def test_an_expression_is_drawn_only_where_it_is_asked_for():
    mask = splash.ExpressionMask((1 << 30, 1 << 30), Causal())
    last = (1 << 30) - 1
    assert mask[last - 1 :, last - 1 :].tolist() == [[True, False], [True, True]]


def test_jax_is_not_imported():
    program = (
        "import sys; from maskc import splash; print('jax' in sys.modules, 'numba' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
