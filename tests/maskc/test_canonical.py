"""Canonical forms: meaning kept, idempotent, and one form for masks that are plainly equal."""

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
    Not,
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
    strategies,
    zoo,
)
from maskc.canonical import canonical, encode
from maskc.strips import Strips

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(st.data())
def test_keeps_the_meaning_and_is_idempotent(data):
    shape = data.draw(SHAPES)
    mask = data.draw(strategies.masks(*shape))
    form = canonical(mask, *shape)
    np.testing.assert_array_equal(dense(form, *shape), dense(mask, *shape))
    assert canonical(form, *shape) == form


@given(st.data())
def test_bytes_are_equal_exactly_for_equal_trees(data):
    a, b = data.draw(strategies.masks(6)), data.draw(strategies.masks(6))
    a, b = canonical(a, 6, 6), canonical(b, 6, 6)
    assert (encode(a) == encode(b)) == (a == b)


@given(st.data())
def test_laws_of_the_algebra_share_one_form(data):
    a, b, c = (data.draw(strategies.masks(8, 9, max_leaves=3)) for _ in "abc")

    def same(left, right):
        assert canonical(left, 8, 9) == canonical(right, 8, 9)

    same(a & b, b & a)
    same(a | b, b | a)
    same(a ^ b, b ^ a)
    same((a & b) & c, a & (b & c))
    same(a & a, a)
    same(a | a, a)
    same(a ^ a, Empty())
    same(a & Full(), a)
    same(a | Empty(), a)
    same(a ^ Full(), ~a)
    same(a - b, a & ~b)


@given(st.data())
def test_laws_of_the_complement_share_one_form(data):
    a, b = data.draw(strategies.leaves(8, 9)), data.draw(strategies.leaves(8, 9))

    def same(left, right):
        assert canonical(left, 8, 9) == canonical(right, 8, 9)

    same(~~a, a)
    same(a & ~a, Empty())
    same(a | ~a, Full())
    same(~a ^ b, ~(a ^ b))
    same(a & (~a | b), a & b)
    same(a | (a & b), a)


LENGTH = 32
EQUAL = [
    (Causal(), Local(None, 0)),
    (Causal(3), Local(None, 0, offset=3)),
    (Causal() & Local(7, 7), Local(7, 0)),
    (Causal() & Local(7, 0) & Local(5, None), Local(5, 0)),
    (Causal() | Local(0, 4), Local(None, 4)),
    (Causal(LENGTH), Full()),
    (Causal(-LENGTH), Empty()),
    (Local(LENGTH, LENGTH), Full()),
    (~Causal(), Local(-1, None)),
    (~(Causal() | Prefix(4)), ~Causal() & ~Prefix(4)),
    (ChunkedCausal(LENGTH), Causal()),
    (ChunkedCausal(5 * LENGTH), Causal()),
    (Prefix(4), Rectangle(kv_stop=4)),
    (Prefix(0), Empty()),
    (Prefix(4) | Prefix(9), Prefix(9)),
    (Rectangle(2, 9) & Rectangle(4, 12), Rectangle(4, 9)),
    (Rectangle(q_stop=9) | Rectangle(q_start=9), Full()),
    (Segments([7] * 20 + [3] * 12), Documents([0, 20, 32])),
    (Segments([0] * LENGTH), Full()),
    (Segments([-1] * LENGTH), Empty()),
    (Documents([0, 10, 10, 32]), Documents([0, 10, 32])),
    (Documents([0, 10]), Segments([5] * 10 + [-3] * 22)),
    (Segments([0, 1] * 16, [0, 2] * 16), Segments([4, -1] * 16, [4, -9] * 16)),
    (Dense(np.ones((LENGTH, LENGTH), bool)), Full()),
    (Blocks(np.zeros((2, 2), bool), 16), Empty()),
    (Blocks(np.eye(4, dtype=bool), 8), Blocks(np.eye(4, dtype=bool), 8, 8)),
    (Random(0), Full()),
    (Random(1.0), Empty()),
    (Causal() & (Causal() | Prefix(3)), Causal()),
    (Causal(align="bottom_right"), Causal()),
    (zoo.batchify(Causal(), 8), ChunkedCausal(8)),
    (zoo.batchify(Causal(), 12), ChunkedCausal(12)),
    (zoo.block_causal(8), Causal() | Chunked(8)),
    (Kron((Full(), Full(), Causal()), (2, 2, 8)), Kron((Full(), Causal()), (None, 8))),
    (
        Shift(Chunked(8), 4, 8),
        Segments(
            [-1] * 4 + [0] * 8 + [1] * 8 + [2] * 8 + [3] * 4, [-1] * 8 + [0] * 8 + [1] * 8 + [2] * 8
        ),
    ),
    (
        Shift(Documents([0, 8, 16]), 0, 3, 16, 16),
        Rectangle(0, 8, 3, 11) | Rectangle(8, 16, 11, 19),
    ),
    (Shift(Intervals(np.arange(40), np.arange(40) + 4), -8, -8, 40, 48), Local(0, 3)),
    (
        Transpose(zoo.flamingo([0] * 4, [8, 16, 24, 32], 8)),
        Intervals([0] * 32, np.repeat([8, 16, 24, 32], 8)),
    ),
    (Strided(16), Local(0, 0) | Local(16, -16) | Local(-16, 16)),
    (Diagonals([0, 5]), Local(0, 0) | Local(5, -5)),
    (Queries([3, 4]), Rectangle(3, 5)),
    (Remap(Segments([0, 1] * 16), [*range(0, 32, 2), *range(1, 32, 2)]), Documents([0, 16, 32])),
]


@pytest.mark.parametrize(("left", "right"), EQUAL, ids=lambda mask: repr(mask)[:40])
def test_spellings_of_one_mask_share_one_form(left, right):
    assert canonical(left, LENGTH, LENGTH) == canonical(right, LENGTH, LENGTH)


def test_alignment_is_bound_to_the_lengths():
    assert canonical(Causal(align="bottom_right"), 10, 30) == canonical(Causal(20), 10, 30)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Segments([0] * 5), r"Segments.q_ids: expected q_len=8 ids, got 5"),
        (Segments([0] * 8), r"Segments.kv_ids: expected kv_len=9 ids, got 8 \(pass kv_ids where"),
        (Documents([0, 9]), "Documents.cu_seqlens: the documents end at 9, past the length 8"),
        (Dense(np.ones((9, 8), bool)), r"Dense.mask: expected shape \(8, 9\), got \(9, 8\)"),
        (
            Blocks(np.ones((2, 2), bool), 4),
            r"Blocks.pattern: expected shape \(2, 3\), got \(2, 2\)",
        ),
    ],
)
def test_arrays_must_fit_the_lengths(mask, message):
    with pytest.raises(MaskArgumentError, match=message):
        canonical(Causal() & mask, 8, 9)


def test_multi_head_has_a_form_per_head():
    with pytest.raises(TypeError, match="one canonical form per head"):
        canonical(MultiHead([Causal()]), 4, 4)


COMBINATORS = Kron | Remap | Shift | Transpose


def nodes(mask):
    yield mask
    inner = getattr(mask, "masks", None) or ([mask.mask] if hasattr(mask, "mask") else [])
    for part in inner if not isinstance(mask, Dense) else ():
        yield from nodes(part)


@given(st.data())
def test_leaves_of_few_intervals_are_strip_forms_wherever_they_stand(data):
    """So evaluation knows no other leaves than these, also inside products and reorderings."""
    shape = data.draw(SHAPES)
    form = canonical(data.draw(strategies.masks(*shape)), *shape)
    leaves = Full | Empty | Strips | Strided | Diagonals | Segments | Dense | Blocks | Random
    assert all(isinstance(m, leaves | And | Or | Xor | Not | COMBINATORS) for m in nodes(form))


@pytest.mark.parametrize(
    "leaf",
    [
        Causal(1), Local(3, 2), Rectangle(2, 5), Chunked(3), ChunkedCausal(3), Prefix(3),
        Intervals([0, 2, 1, 3], [4, 3, 4, 4]), Queries([1]), Keys([2]), Documents([0, 1, 4]),
        Segments([0, 1, 0, 1]), Blocks(np.eye(2, dtype=bool), 2),
    ],
    ids=lambda leaf: type(leaf).__name__,
)  # fmt: skip
@pytest.mark.parametrize(
    ("wrap", "shape"),
    [
        (lambda m: Kron((Dense(np.tri(3, dtype=bool)), m), (3, 4)), (12, 12)),
        (lambda m: Kron((m, Strided(2)), (4, 3)), (12, 12)),
        (lambda m: Remap(m, [3, 0, -1, 2, 1], q_len=4, kv_len=4), (5, 5)),
        (lambda m: Shift(Transpose(m), 1, 2, 4, 4), (7, 7)),
        (lambda m: Transpose(Remap(m, [3, 0, -1, 2, 1], q_len=4, kv_len=4)), (5, 5)),
    ],
    ids=["inner axis", "outer axis", "remap", "shift", "transpose"],
)
def test_each_leaf_of_few_intervals_is_one_inside_a_combinator(leaf, wrap, shape):
    inside = list(nodes(canonical(wrap(leaf), *shape)))
    allowed = Full | Empty | Strips | Strided | Segments | Dense | Blocks
    leaves = [m for m in inside if not isinstance(m, And | Or | Xor | Not | COMBINATORS)]
    assert leaves
    assert all(isinstance(m, allowed) for m in leaves)
