"""The mask language: operators, equality, printing, argument checks."""

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import given
from hypothesis import strategies as st

from maskc import (
    And,
    Blocks,
    Causal,
    Chunked,
    ChunkedCausal,
    Dense,
    Diagonals,
    Documents,
    Empty,
    Full,
    Intervals,
    Keys,
    Kron,
    Local,
    MaskArgumentError,
    MultiHead,
    Neighborhood,
    Or,
    Prefix,
    Queries,
    Random,
    Rectangle,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
    expr,
    per_batch,
    strategies,
)

NAMES = {name: getattr(expr, name) for name in expr.__all__}


@given(strategies.masks(9, 7))
def test_prints_as_the_python_that_builds_it(mask):
    built = eval(repr(mask), dict(NAMES))  # noqa: S307
    assert built == mask
    assert hash(built) == hash(mask)


@given(strategies.multi_head_masks(5, 6))
def test_multi_head_prints_as_python_too(mask):
    assert eval(repr(mask), dict(NAMES)) == mask  # noqa: S307


def test_arrays_print_in_short_when_long():
    assert repr(Segments(np.zeros(5000, int))).startswith("Segments(q_ids=<int32[5000] sha256:")


@given(st.data())
def test_operators_mean_what_they_say(data):
    a, b = data.draw(strategies.masks(8, 11)), data.draw(strategies.masks(8, 11))
    x, y = dense(a, 8, 11), dense(b, 8, 11)
    for mask, expected in [
        (a & b, x & y),
        (a | b, x | y),
        (a ^ b, x ^ y),
        (a - b, x & ~y),
        (~a, ~x),
    ]:
        np.testing.assert_array_equal(dense(mask, 8, 11), expected)


def test_nested_operators_of_one_kind_are_joined():
    a, b, c = Causal(), Prefix(3), Full()
    assert (a & b) & c == a & (b & c) == And((a, b, c))
    assert (a | b) | c == Or((a, b, c))
    assert (a ^ b) ^ c == Xor((a, b, c))


def test_multi_head_works_head_by_head():
    heads = MultiHead([Causal(), Full()])
    assert heads & Prefix(2) == MultiHead([Causal() & Prefix(2), Full() & Prefix(2)])
    assert Prefix(2) | heads == MultiHead([Prefix(2) | Causal(), Prefix(2) | Full()])
    assert ~heads == MultiHead([~Causal(), ~Full()])
    assert heads - heads == MultiHead([Causal() - Causal(), Full() - Full()])
    with pytest.raises(MaskArgumentError, match="as many heads, got 2 and 3"):
        heads & MultiHead([Full()] * 3)
    with pytest.raises(MaskArgumentError, match="a mask of a single head"):
        MultiHead([heads])


def test_per_batch_is_row_by_row_and_head_by_head():
    heads = MultiHead([Causal(), Full()])
    folded = MultiHead([Prefix(2), Prefix(2), Causal(), Full()])
    assert per_batch([Prefix(2), heads]) == folded
    assert per_batch(iter([Prefix(2), heads]), 2) == folded
    assert per_batch([Prefix(2), Full()]) == MultiHead([Prefix(2), Full()])
    assert per_batch([Prefix(2)], heads=2) == MultiHead([Prefix(2)] * 2)


def test_arrays_are_private_copies():
    ids = np.array([0, 0, 1])
    mask = Segments(ids)
    ids[0] = 5
    assert mask == Segments([0, 0, 1])
    with pytest.raises(ValueError, match="read-only"):
        mask.q_ids.array[0] = 5


def test_equality_is_by_content_and_type():
    assert Segments([0, 1]) == Segments(np.array([0, 1], np.int64))
    assert Dense(np.eye(3, dtype=bool)) == Dense(np.eye(3, dtype=bool))
    assert Dense(np.eye(3, dtype=bool)) != Dense(np.eye(4, dtype=bool))
    assert Blocks(np.eye(2, dtype=bool), 4) != Blocks(np.eye(2, dtype=bool), 4, 8)
    assert Full() != Empty()
    assert len({Causal(), Causal(0), Causal(np.int64(0)), Causal(1)}) == 2


def test_a_mask_has_no_truth_value():
    with pytest.raises(TypeError, match="not and/or/not"):
        bool(Causal())


@pytest.mark.parametrize("other", [None, 3, np.ones((2, 2), bool), "causal"])
def test_operators_refuse_what_is_not_a_mask(other):
    for combine in (lambda: Causal() & other, lambda: Causal() - other, lambda: other | Causal()):
        with pytest.raises(TypeError, match=r"unsupported operand|does not support ufuncs"):
            combine()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Causal(1.5), r"Causal\.offset: expected an integer, got 1\.5 \(float\)"),
        (lambda: Causal(True), r"Causal\.offset: expected an integer, got True \(bool\)"),
        (lambda: Causal(align="left"), "Causal.align: expected 'top_left' or 'bottom_right'"),
        (lambda: Local("x"), "Local.left: expected an integer or None, got 'x'"),
        (lambda: ChunkedCausal(0), "ChunkedCausal.chunk: expected an integer >= 1, got 0"),
        (lambda: Prefix(-1), "Prefix.length: expected an integer >= 0, got -1"),
        (lambda: Rectangle(q_stop=-1), "Rectangle.q_stop: expected an integer >= 0"),
        (lambda: Segments([[0]]), "Segments.q_ids: expected a non-empty 1-D array of integers"),
        (lambda: Segments([0.5]), "Segments.q_ids: expected a non-empty 1-D array of integers"),
        (lambda: Segments([2**31]), "Segments.q_ids: expected integers that fit int32"),
        (lambda: Documents([1, 2]), r"Documents.cu_seqlens: expected offsets \[0, ...\]"),
        (lambda: Documents([0, 3, 2]), "Documents.cu_seqlens: expected offsets"),
        (lambda: Documents([0, 3], [0, 2, 3]), "kv_cu_seqlens: expected 2 offsets like cu_seqlens"),
        (
            lambda: Dense(np.ones((2, 2))),
            r"Dense.mask: expected a non-empty 2-D bool array, got fl",
        ),
        (lambda: Dense(np.ones((0, 2), bool)), "Dense.mask: expected a non-empty 2-D bool array"),
        (lambda: Blocks([[True]], 0), "Blocks.block_q: expected an integer >= 1"),
        (lambda: Random(1.5), "Random.sparsity: expected a number from 0 to 1"),
        (lambda: Random(0.5, 2**63), r"Random.seed: expected an integer below 2\*\*63"),
        (lambda: Chunked(0), "Chunked.chunk: expected an integer >= 1, got 0"),
        (lambda: Strided(0), "Strided.stride: expected an integer >= 1, got 0"),
        (lambda: Intervals([0], [0, 1]), "Intervals.stops: expected 1 like starts, got 2"),
        (lambda: Intervals([], []), "Intervals.starts: expected a non-empty 1-D array of integers"),
        (lambda: Queries([0, -1]), "Queries.positions: expected positions >= 0"),
        (lambda: Keys([0.5]), "Keys.positions: expected a 1-D array of integers"),
        (lambda: Diagonals(["a"]), "Diagonals.distances: expected a 1-D array of integers"),
        (lambda: Neighborhood((), 3), "Neighborhood.shape: expected one size per axis"),
        (lambda: Neighborhood("88", 3), "Neighborhood.shape: expected one size per axis"),
        (lambda: Neighborhood((8, None), 3), "Neighborhood.shape: expected an integer, got None"),
        (lambda: Neighborhood((8, 8), (3,)), "kernel: expected one value, or 2 like the axes"),
        (lambda: Neighborhood((8,), 5, 2), r"kernel: expected kernel \* dilation <= the axis's 8"),
        (lambda: Neighborhood((8,), 3, stride=4), "stride: expected at most the kernel 3, got 4"),
        (lambda: Neighborhood((8,), 3, causal=1), "causal: expected True or False, got 1"),
        (lambda: Shift(3), "Shift: expected a mask of a single head, got 3"),
        (lambda: Shift(Full(), 1.5), "Shift.q: expected an integer, got 1.5"),
        (lambda: Shift(Full(), q_len=0), "Shift.q_len: expected an integer >= 1, got 0"),
        (lambda: Transpose(MultiHead([Full()])), "Transpose: expected a mask of a single head"),
        (lambda: Remap(Full(), [[0]]), "Remap.q_positions: expected a non-empty 1-D array"),
        (lambda: Remap(Full(), [0, 5], q_len=3), "Remap.q_len: expected an integer >= 6, got 3"),
        (lambda: Kron((), (2,)), "Kron.masks: expected one mask or more"),
        (lambda: Kron(Full(), (2,)), "Kron.masks: expected one mask or more"),
        (lambda: Kron((Full(), 3), (2, 2)), "Kron: expected a mask of a single head, got 3"),
        (lambda: Kron((Full(),), (2, 2)), "Kron.q_shape: expected 1 sizes like the masks"),
        (lambda: Kron((Full(), Full()), (2, None)), "Kron.q_shape: expected an integer, got None"),
        (lambda: And((Full(),)), "And.masks: expected two or more masks"),
        (lambda: Or((Full(), 3)), "Or: expected a mask of a single head, got 3"),
        (lambda: MultiHead([]), "MultiHead.masks: expected one mask or more"),
        (lambda: per_batch([]), "per_batch.rows: expected one mask or more"),
        (lambda: per_batch([3]), "MultiHead: expected a mask of a single head, got 3"),
        (lambda: per_batch([Full()], 0), "per_batch.heads: expected an integer >= 1, got 0"),
        (
            lambda: per_batch([MultiHead([Full()] * 2), MultiHead([Full()])]),
            "per_batch.rows: expected a MultiHead of heads=2 masks, got 1 in row 1",
        ),
    ],
)
def test_arguments_are_checked_when_a_node_is_built(build, message):
    with pytest.raises(MaskArgumentError, match=message):
        build()


def test_random_keeps_the_asked_share_and_extends():
    mask = Random(0.75, seed=7)
    small, large = dense(mask, 40, 50), dense(mask, 60, 70)
    np.testing.assert_array_equal(large[:40, :50], small)
    assert abs(large.mean() - 0.25) < 0.03
