"""Strip form: the sweeps, the normal form, and blocks found without drawing them."""

import math

import numpy as np
import pytest
from dense_oracle import dense, strip_rows
from hypothesis import given
from hypothesis import strategies as st
from strip_strategies import SHAPES, arrays, read

from maskc import (
    Blocks,
    Causal,
    ChunkedCausal,
    Documents,
    Empty,
    Full,
    Intervals,
    Local,
    Prefix,
    Rectangle,
    Segments,
    Transpose,
)
from maskc.canonical import canonical
from maskc.strips import (
    AND,
    NOT,
    OR,
    XOR,
    Strips,
    combine,
    moved,
    product,
    transposed,
)

pytestmark = pytest.mark.usefixtures("loops")

SMALL = st.tuples(st.integers(1, 4), st.integers(1, 4))
OPERATORS = {
    AND: np.logical_and,
    OR: np.logical_or,
    XOR: np.logical_xor,
    NOT: lambda a, _: ~a,
}


@given(st.data())
def test_rows_come_back(data):
    mask = data.draw(arrays(data.draw(SHAPES)))
    np.testing.assert_array_equal(strip_rows(read(mask)), mask)


@given(st.data())
def test_operators_are_exact_and_stay_in_normal_form(data):
    shape = data.draw(SHAPES)
    a, b = data.draw(arrays(shape)), data.draw(arrays(shape))
    for table, operator in OPERATORS.items():
        assert combine(table, read(a), read(b)) == read(operator(a, b))


@given(st.data())
def test_transposition_is_exact_and_stays_in_normal_form(data):
    mask = data.draw(arrays(data.draw(SHAPES)))
    assert transposed(read(mask)) == read(mask.T)


def test_a_transposition_of_too_many_intervals_is_no_strip_form():
    stops = np.random.default_rng(0).permutation(128)
    assert transposed(read(np.arange(128) < stops[:, None])) is None
    assert transposed(read(np.arange(128) < np.sort(stops)[:, None])) is not None


@given(st.data())
def test_moves_are_exact_and_stay_in_normal_form(data):
    mask = data.draw(arrays(data.draw(SHAPES)))
    shape = data.draw(SHAPES)
    at = tuple(
        data.draw(st.integers(1 - n, outer - 1)) for n, outer in zip(mask.shape, shape, strict=True)
    )
    seen = np.zeros(np.add(shape, 28), bool)
    seen[14 + at[0] :, 14 + at[1] :][: mask.shape[0], : mask.shape[1]] = mask
    assert moved(read(mask), at, shape) == read(seen[14:-14, 14:-14])


@given(st.data())
def test_products_are_exact_and_stay_in_normal_form(data):
    small = st.tuples(st.integers(1, 5), st.integers(1, 4))  # never more than 8 intervals in a row
    outer, inner = (data.draw(arrays(data.draw(small))) for _ in range(2))
    whole = np.kron(outer, inner)
    found = product(read(outer), read(inner))
    assert found == read(whole)


def test_a_product_of_too_many_intervals_is_no_strip_form():
    comb = read(np.arange(40)[None] % 2 == 0)
    line = read(np.array([[True, False]]))
    assert product(read(np.ones((1, 8), bool)), line) is not None
    assert product(comb, line) is None


@given(st.data())
def test_grains(data):
    """Tiles are as large as they can be, and every operation is exact whatever they are."""
    small, tile = data.draw(arrays(data.draw(SMALL))), data.draw(SMALL)
    mask = np.kron(small, np.ones(tile, bool))
    fine, form = read(mask), read(mask).coarse
    np.testing.assert_array_equal(strip_rows(form), mask)
    assert form.grain == tuple(
        math.gcd(len(side), *(np.flatnonzero((side[1:] != side[:-1]).any(1)) + 1))
        for side in (mask, mask.T)
    )
    assert form == fine == product(read(small), read(np.ones(tile, bool)))
    for one, other in zip(form.fine.arrays, fine.arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    q, kv = np.arange(len(mask))[:, None], np.arange(mask.shape[1])
    np.testing.assert_array_equal(form.at(q, kv), mask)
    assert transposed(form) == read(mask.T)
    other = data.draw(arrays(mask.shape))
    for table, operator in OPERATORS.items():
        assert combine(table, form, read(other)) == read(operator(mask, other))
    above, below = data.draw(SMALL), data.draw(SMALL)
    around = np.pad(mask, list(zip(above, below, strict=True)))
    assert moved(form, above, around.shape) == read(around)


@given(st.data())
def test_elements_and_bounds(data):
    shape = data.draw(SHAPES)
    mask = data.draw(arrays(shape))
    strips = read(mask)
    q, kv = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    np.testing.assert_array_equal(strips.at(q, kv), mask)
    assert strips.value() == (True if mask.all() else None if mask.any() else False)


@st.composite
def trees(draw, shape):
    """Masks that have a strip form, written in any way."""
    length = max(shape)
    small = st.integers(-3, length + 1)
    position = st.integers(0, length)
    leaf = st.one_of(
        st.builds(Causal, small, st.sampled_from(["top_left", "bottom_right"])),
        st.builds(Local, st.none() | small, st.none() | small, st.integers(-2, 2)),
        st.builds(ChunkedCausal, st.integers(1, length)),
        st.builds(Prefix, position),
        st.builds(Rectangle, position, st.none() | position, position, st.none() | position),
        st.just(Full()),
        st.just(Empty()),
    )
    tree = draw(leaf)
    for _ in range(draw(st.integers(0, 4))):
        other = draw(leaf)
        tree = draw(
            st.sampled_from([tree & other, tree | other, tree ^ other, other - tree, ~tree])
        )
    return tree


@given(st.data())
def test_equal_meaning_is_equal_form(data):
    """Both ways: equal masks share a form, and masks that differ never do."""
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    a, b = data.draw(trees(shape)), data.draw(trees(shape))
    same = np.array_equal(dense(a, *shape), dense(b, *shape))
    assert (canonical(a, *shape) == canonical(b, *shape)) == same
    assert canonical(a, *shape) == canonical(read(dense(a, *shape)), *shape) or same_constant(
        canonical(a, *shape), dense(a, *shape)
    )


def same_constant(form, mask):
    return isinstance(form, Full if mask.all() else Empty) and (mask.all() or not mask.any())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (ChunkedCausal(64), Causal() & Documents([0, 64, 128, 192, 256])),
        (Causal() - Local(15, None), Local(None, -16)),
        (Local(7, 7) | Local(20, -8), Local(20, 7)),
        (Prefix(16) | Causal(), ~(~Causal() & Rectangle(kv_start=16))),
        (Segments([0, 1] * 128), Segments([1, 0] * 128)),
        (
            Transpose(Intervals(np.arange(256) // 2, np.full(256, 256))),
            Intervals([0] * 256, np.minimum(2 * np.arange(256) + 2, 256)),
        ),
        (
            Blocks(np.tri(4, dtype=bool), 64),
            ChunkedCausal(64) | Causal() | Documents([0, 64, 128, 192, 256]),
        ),
    ],
    ids=range(7),
)
def test_different_writings_of_one_mask_share_one_form(left, right):
    assert canonical(left, 256, 256) == canonical(right, 256, 256)


def test_a_hundred_thousand_documents_have_a_small_form():
    cu = np.arange(0, 1_000_001, 10)
    form = canonical(Causal() & Documents(cu), 1_000_000, 1_000_000)
    assert isinstance(form, Strips)
    assert len(form.rows) == len(cu)


def test_interleaved_segments_stay_ids():
    ids = np.arange(4096) % 2
    assert isinstance(canonical(Segments(ids), 4096, 4096), Segments)


def test_operators_of_longer_masks():
    random = np.random.default_rng(0)
    for _ in range(20):
        q, kv = np.arange(120)[:, None], np.arange(150)
        a, b = (
            (kv - q >= low) & (kv - q <= low + width) & (kv < stop)
            for low, width, stop in random.integers(1, 100, (2, 3)) - [[60, 0, 0], [60, 0, 0]]
        )
        for table, operator in OPERATORS.items():
            assert combine(table, read(a), read(b)) == read(operator(a, b))
