"""Keys are names of meanings: random rewrites of a tree keep its key, other meanings have others.

Of a tree of strip leaves any rewrite keeps it; of any other tree, those that the rules promise.
"""

import functools

import numpy as np
from dense_oracle import dense
from hypothesis import given
from hypothesis import strategies as st

from maskc import (
    And,
    Causal,
    Chunked,
    ChunkedCausal,
    CompileRequest,
    Dense,
    Documents,
    Empty,
    Full,
    Intervals,
    Keys,
    Kron,
    Local,
    Not,
    Or,
    Prefix,
    Queries,
    Random,
    Rectangle,
    Remap,
    Segments,
    Shift,
    Transpose,
    Xor,
    strategies,
    zoo,
)
from maskc.canonical import canonical
from maskc.rules_moves import shift_lengths, shift_region
from maskc.strips import Strips

SMALL = st.integers(1, 8)  # so short that no row has more than 8 intervals
SHAPES = st.tuples(SMALL, SMALL)


# --- trees of strip leaves ----------------------------------------------------------------------


@functools.cache
def strip_leaves(shape):
    return strategies.leaves(*shape).filter(lambda leaf: not isinstance(leaf, Dense | Random))


@st.composite
def strip_trees(draw, shape, depth=2):
    kinds = ["leaf"] + (["operator"] * 3 + ["shift", "transpose", "kron"]) * bool(depth)
    kind = draw(st.sampled_from(kinds))

    def inside(shape):
        return draw(strip_trees(shape, depth - 1))

    if kind == "leaf":
        return draw(strip_leaves(shape))
    if kind == "operator":
        operator = draw(st.sampled_from([And, Or, Xor, Not]))
        return Not(inside(shape)) if operator is Not else operator((inside(shape), inside(shape)))
    if kind == "transpose":
        return Transpose(inside(shape[::-1]))
    if kind == "shift":
        lengths = draw(SHAPES)
        at = [draw(st.integers(-n, outer)) for n, outer in zip(lengths, shape, strict=True)]
        return Shift(inside(lengths), *at, *lengths)
    inner = tuple(draw(st.integers(1, length)) for length in shape)
    outer = tuple(-(-length // step) for length, step in zip(shape, inner, strict=True))
    grids = ((a, b) for a, b in zip(outer, inner, strict=True))
    return Kron((inside(outer), inside(inner)), *grids)


# --- rewrites -----------------------------------------------------------------------------------


@st.composite
def rewritten(draw, mask, shape, other):
    """Another writing of the same mask.

    Args:
        draw: given by hypothesis.
        mask: the mask.
        shape: its lengths.
        other: a strategy of masks to bring in, of the lengths that it is given.
    """

    def again(part, shape=shape):
        return draw(rewritten(part, shape, other))

    match mask:
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            mask = regrouped(draw, type(mask), [again(part) for part in masks])
        case Not(mask=inner):
            mask = Not(again(inner))
        case Transpose(mask=inner):
            mask = Transpose(again(inner, shape[::-1]))
        case Shift(mask=inner) if shift_region(mask, shape):
            lengths = shift_lengths(mask, shape)
            mask = Shift(again(inner, lengths), mask.q, mask.kv, *lengths)
    writings = [mask, *anywhere(draw(other(shape)), mask, shape), *leaf_writings(mask, shape)]
    return draw(st.sampled_from(writings))


def regrouped(draw, kind, masks):
    """Operands in another order and in other groups; De Morgan both ways."""
    masks = draw(st.permutations(masks))
    cut = draw(st.integers(1, len(masks) - 1))
    groups = [
        group[0] if len(group) == 1 else kind(tuple(group)) for group in (masks[:cut], masks[cut:])
    ]
    if kind is Xor:
        return draw(
            st.sampled_from([Xor(groups), Xor(map(Not, groups)), ~Xor((~groups[0], groups[1]))])
        )
    dual = Or if kind is And else And
    return draw(st.sampled_from([kind(groups), ~dual(map(Not, groups))]))


def anywhere(other, mask, shape):
    """What any mask equals, `other` being any other mask."""
    return [
        ~~mask,
        mask & mask,
        mask | mask,
        mask & Full(),
        mask | Empty(),
        mask ^ Empty(),
        ~(mask ^ Full()),
        mask ^ other ^ other,
        other ^ mask ^ other,
        Transpose(Transpose(mask)),
        Shift(mask),
        Shift(Shift(mask, 2, 3, *shape), -2, -3, shape[0] + 2, shape[1] + 3),
        Remap(mask, np.arange(shape[0]), np.arange(shape[1])),
        Kron((mask,), (shape[0],), (shape[1],)),
        Kron((Full(), mask), (1, shape[0]), (1, shape[1])),
    ]


def absorbing(other, mask):
    """What any strip mask equals, `other` being any other one."""
    return [
        mask & (mask | other),
        mask | (mask & other),
        (mask & other) | (mask - other),
        (mask | other) - (other - mask),
        mask ^ other ^ (mask & other) ^ (other - mask),
    ]


def leaf_writings(mask, shape):
    """Other leaves of the same meaning."""
    q_len, kv_len = shape
    longest = max(shape)
    match mask:
        case Causal(offset=offset, align=align):
            offset += kv_len - q_len if align == "bottom_right" else 0
            return [Local(None, offset), Causal(offset), ~Local(-offset - 1, None)]
        case Local(left=left, right=right, offset=offset, align=align):
            return [
                Local(left, None, offset, align) & Local(None, right, offset, align),
                ~(~Local(left, None, offset, align) | ~Local(None, right, offset, align)),
                Transpose(Transpose(mask)),
            ]
        case Chunked(chunk=chunk, offset=0):
            cu = np.append(np.arange(0, longest, chunk), longest)
            ids = np.arange(longest) // chunk
            return [
                zoo.batchify(Full(), chunk),
                zoo.blockwise(Local(0, 0), chunk),
                Segments(ids[:q_len], ids[:kv_len]),
                Documents(np.minimum(cu, q_len), np.minimum(cu, kv_len)),
            ]
        case ChunkedCausal(chunk=chunk, offset=0):
            return [zoo.batchify(Causal(), chunk), Chunked(chunk) - Local(-1, None)]
        case Documents(cu_seqlens=q, kv_cu_seqlens=kv):
            pairs = zip((q, q if kv is None else kv), shape, strict=True)
            return [Segments(*(numbers(cu.array, length) for cu, length in pairs))]
        case Prefix(length=length):
            return [
                Rectangle(kv_stop=length),
                Keys(np.arange(length)),
                Intervals([0] * q_len, [length] * q_len),
            ]
        case Queries(positions=positions):
            return [Transpose(Keys(positions)), Keys(positions) ^ Keys(positions) ^ mask]
        case Rectangle(q_start=q0, q_stop=q1, kv_start=k0, kv_stop=k1):
            q, kv = (np.arange(n)[a:b] for n, a, b in ((q_len, q0, q1), (kv_len, k0, k1)))
            return [Queries(q) & Keys(kv), Transpose(Rectangle(k0, k1, q0, q1))]
    return []


def numbers(cu, length):
    out = np.full(length, -1)
    out[: cu[-1]] = np.repeat(np.arange(len(cu) - 1), np.diff(cu))
    return out


# --- properties ---------------------------------------------------------------------------------


def key(mask, shape):
    return CompileRequest(mask, q_len=shape[0], kv_len=shape[1]).key


@given(st.data())
def test_any_writing_of_a_strip_tree_has_its_key(data):
    shape = data.draw(SHAPES)
    mask = data.draw(strip_trees(shape))
    other = data.draw(strip_trees(shape))
    writing = data.draw(rewritten(mask, shape, strip_trees))
    writing = data.draw(st.sampled_from([writing, *absorbing(other, writing)]))
    assert key(writing, shape) == key(mask, shape)
    assert isinstance(canonical(mask, *shape), Strips | Full | Empty)


@given(st.data())
def test_a_rewritten_tree_of_any_leaves_has_its_key(data):
    shape = data.draw(SHAPES)
    mask = data.draw(strategies.masks(*shape))
    writing = data.draw(
        rewritten(mask, shape, lambda shape: strategies.masks(*shape, max_leaves=2))
    )
    assert key(writing, shape) == key(mask, shape)


@given(st.data())
def test_equal_meaning_is_equal_key_for_strip_trees_both_ways(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    trees = data.draw(st.lists(strip_trees(shape), min_size=2, max_size=12))
    pairs = {(key(tree, shape), dense(tree, *shape).tobytes()) for tree in trees}
    assert len({name for name, _ in pairs}) == len({meaning for _, meaning in pairs}) == len(pairs)


@given(st.data())
def test_trees_of_different_meaning_never_share_a_key(data):
    shape = data.draw(SHAPES)
    trees = data.draw(st.lists(strategies.masks(*shape), min_size=2, max_size=4))
    pairs = {(key(tree, shape), dense(tree, *shape).tobytes()) for tree in trees}
    assert len({name for name, _ in pairs}) == len(pairs)
