"""Hypothesis strategies for masks, lengths and blockings: for your property tests and for ours.

    from hypothesis import given
    from maskc import compile_mask, strategies

    @given(strategies.requests())
    def test_my_kernel(request):
        plan = compile_request(request)

Needs `hypothesis`, which the extra `maskc[test]` brings.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from maskc.expr import (
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
    Mask,
    MultiHead,
    Neighborhood,
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
)
from maskc.request import CompileRequest

__all__ = [
    "block_sizes",
    "combinators",
    "leaves",
    "lengths",
    "masks",
    "multi_head_masks",
    "requests",
]

ALIGNMENTS = st.sampled_from(["top_left", "bottom_right"])


_reused = functools.lru_cache(maxsize=1024)  # building a strategy costs more than drawing from it


def lengths(max_length: int = 64) -> st.SearchStrategy[int]:
    """Sequence lengths from 1 to `max_length`."""
    return st.integers(1, max_length)


def block_sizes(max_block: int = 24) -> st.SearchStrategy[int]:
    """Block sizes from 1 to `max_block`, not only powers of two; lengths need not fit them."""
    return st.one_of(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, max_block))


def _offsets(q_len: int, kv_len: int) -> st.SearchStrategy[int]:
    """Small offsets most of the time, and some beyond every edge."""
    return st.one_of(st.integers(-4, 4), st.integers(-q_len - 2, kv_len + 2))


@st.composite
def _cu_seqlens(draw: st.DrawFn, documents: int, length: int) -> list[int]:
    cuts = draw(st.lists(st.integers(0, length), min_size=documents, max_size=documents))
    return [0, *sorted(cuts)]


@st.composite
def _documents(draw: st.DrawFn, q_len: int, kv_len: int) -> Documents:
    count = draw(st.integers(1, 6))
    cu = draw(_cu_seqlens(count, min(q_len, kv_len)))
    if q_len == kv_len and draw(st.booleans()):
        return Documents(cu)
    return Documents(cu, draw(_cu_seqlens(count, kv_len)))


@st.composite
def _segments(draw: st.DrawFn, q_len: int, kv_len: int) -> Segments:
    ids = st.integers(-1, 4)
    q_ids = draw(st.lists(ids, min_size=q_len, max_size=q_len))
    if q_len == kv_len and draw(st.booleans()):
        return Segments(q_ids)
    return Segments(q_ids, draw(st.lists(ids, min_size=kv_len, max_size=kv_len)))


@st.composite
def _bits(draw: st.DrawFn, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A bool matrix from one integer seed and a density, so that large ones stay cheap to draw."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random((rows, columns)) < draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))


@st.composite
def _blocks(draw: st.DrawFn, q_len: int, kv_len: int) -> Blocks:
    tile_q, tile_kv = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return Blocks(draw(_bits(-(-q_len // tile_q), -(-kv_len // tile_kv))), tile_q, tile_kv)


@st.composite
def _intervals(draw: st.DrawFn, q_len: int, kv_len: int) -> Intervals:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    starts, stops = random.integers(-2, kv_len + 3, (2, q_len))
    if draw(st.booleans()):  # as real ones: ends that never fall
        starts, stops = np.sort(starts), np.sort(stops)
    return Intervals(starts, stops)


@_reused
def _grids(length: int) -> list[tuple[int, ...]]:
    """Every grid of up to three axes with `length` tokens."""
    sizes = [n for n in range(2, length + 1) if length % n == 0]
    pairs = [(n, length // n) for n in sizes[:-1]]
    triples = [(a, b, n // b) for a, n in pairs for b in range(2, n) if n % b == 0]
    return [(length,), *pairs, *triples]


@st.composite
def _neighborhood(draw: st.DrawFn, length: int) -> Neighborhood:
    shape = draw(st.sampled_from(_grids(length)))
    kernel, dilation, stride, causal = [], [], [], []
    for tokens in shape:
        dilation.append(draw(st.integers(1, min(3, tokens))))
        kernel.append(draw(st.integers(1, tokens // dilation[-1])))
        stride.append(draw(st.integers(1, kernel[-1])))
        causal.append(draw(st.booleans()))
    return Neighborhood(shape, tuple(kernel), tuple(dilation), tuple(stride), tuple(causal))


@_reused
def leaves(q_len: int, kv_len: int) -> st.SearchStrategy[Mask]:
    """Every leaf of the mask language, with arguments that fit the lengths or lie beyond them.

    A `Neighborhood` needs as many keys as queries.
    """
    offset = _offsets(q_len, kv_len)
    side = st.one_of(st.none(), st.integers(-3, max(q_len, kv_len) + 2))
    position = st.integers(0, max(q_len, kv_len) + 2)
    return st.one_of(
        st.just(Full()),
        st.just(Empty()),
        st.builds(Causal, offset, ALIGNMENTS),
        st.builds(Local, side, side, offset, ALIGNMENTS),
        st.builds(Chunked, st.integers(1, max(q_len, kv_len) + 2), offset),
        st.builds(ChunkedCausal, st.integers(1, max(q_len, kv_len) + 2), offset),
        st.builds(Strided, st.integers(1, q_len + kv_len), offset),
        st.builds(Diagonals, st.lists(offset, max_size=8)),
        st.builds(Queries, st.lists(position, max_size=6)),
        st.builds(Keys, st.lists(position, max_size=6)),
        _intervals(q_len, kv_len),
        *([_neighborhood(q_len)] if q_len == kv_len else []),
        st.builds(Prefix, position),
        st.builds(Rectangle, position, st.none() | position, position, st.none() | position),
        _segments(q_len, kv_len),
        _documents(q_len, kv_len),
        st.builds(Dense, _bits(q_len, kv_len)),
        _blocks(q_len, kv_len),
        st.builds(Random, st.floats(0, 1, width=32), st.integers(0, 2**63 - 1)),
    )


@st.composite
def _inside(draw: st.DrawFn, q_len: int, kv_len: int, depth: int) -> Mask:
    """What a combinator holds: now and then an operator or another combinator."""
    kinds = [leaves(q_len, kv_len)] * 3 + [_negated(q_len, kv_len, depth)]
    if depth:
        kinds.append(combinators(q_len, kv_len, depth=depth - 1))
    return draw(st.one_of(kinds))


@_reused
def _negated(q_len: int, kv_len: int, depth: int) -> st.SearchStrategy[Mask]:
    leaf = leaves(q_len, kv_len)
    kinds = [leaf] if depth == 0 else [leaf, combinators(q_len, kv_len, depth=0)]
    return st.one_of(
        st.builds(Not, leaf),
        *(st.builds(kind, st.tuples(leaf, st.one_of(kinds))) for kind in (And, Or, Xor)),
    )


@st.composite
def _shift(draw: st.DrawFn, q_len: int, kv_len: int, depth: int) -> Shift:
    at, lengths = [], []
    for outer in (q_len, kv_len):
        at.append(draw(st.integers(-4, outer + 1)))
        given = draw(st.none() | st.integers(1, outer + 6))
        lengths.append(given)
    sides = zip((q_len, kv_len), at, lengths, strict=True)
    inner = [max(outer - start, 1) if n is None else n for outer, start, n in sides]
    return Shift(draw(_inside(inner[0], inner[1], depth)), *at, *lengths)


@st.composite
def _remap(draw: st.DrawFn, q_len: int, kv_len: int, depth: int) -> Remap:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.integers(1, q_len + 3)), draw(st.integers(1, kv_len + 3))
    if q_len == kv_len and draw(st.booleans()):
        positions = random.permutation(q_len)
        return Remap(draw(_inside(q_len, q_len, depth)), positions)
    at = [random.integers(-2, n, outer) for n, outer in zip(lengths, (q_len, kv_len), strict=True)]
    if draw(st.booleans()):
        at = [np.sort(positions) for positions in at]
    return Remap(draw(_inside(*lengths, depth)), at[0], at[1], *lengths)


@st.composite
def _kron(draw: st.DrawFn, q_len: int, kv_len: int, depth: int) -> Kron:
    axes = draw(st.integers(1, 3))
    sizes = [draw(st.tuples(st.integers(1, 5), st.integers(1, 5))) for _ in range(axes - 1)]
    if draw(st.booleans()):
        sizes = [(n, n) for n, _ in sizes]
    rest = [int(np.prod([pair[side] for pair in sizes])) for side in (0, 1)]
    sizes.insert(0, (-(-q_len // rest[0]), -(-kv_len // rest[1])))
    masks = [draw(_inside(*size, max(depth - 1, 0))) for size in sizes]
    shapes = [[pair[side] for pair in sizes] for side in (0, 1)]
    open_ended: list[list[int | None]] = [[None, *shape[1:]] for shape in shapes]
    return Kron(masks, *(tuple(shape) for shape in (open_ended if draw(st.booleans()) else shapes)))


@_reused
def combinators(q_len: int, kv_len: int, *, depth: int = 1) -> st.SearchStrategy[Mask]:
    """Shift, Transpose, Remap and Kron over masks of the lengths that they see.

    Args:
        q_len: number of queries.
        kv_len: number of keys.
        depth: how many further combinators may stand inside.
    """
    return st.one_of(
        _shift(q_len, kv_len, depth),
        st.builds(Transpose, _inside(kv_len, q_len, depth)),
        _remap(q_len, kv_len, depth),
        _kron(q_len, kv_len, depth),
    )


@_reused
def masks(q_len: int, kv_len: int | None = None, *, max_leaves: int = 6) -> st.SearchStrategy[Mask]:
    """Mask expressions of a single head: leaves, combinators and operators.

    Args:
        q_len: number of queries.
        kv_len: number of keys; None is `q_len`.
        max_leaves: an upper bound on the leaves of one expression.
    """

    def combined(inner: st.SearchStrategy[Mask]) -> st.SearchStrategy[Mask]:
        operands = st.lists(inner, min_size=2, max_size=3).map(tuple)
        return st.one_of(
            st.builds(Not, inner),
            st.builds(And, operands),
            st.builds(Or, operands),
            st.builds(Xor, operands),
        )

    kv_len = q_len if kv_len is None else kv_len
    atoms = st.one_of(leaves(q_len, kv_len), leaves(q_len, kv_len), combinators(q_len, kv_len))
    return st.recursive(atoms, combined, max_leaves=max_leaves)


@_reused
def multi_head_masks(
    q_len: int, kv_len: int | None = None, *, max_heads: int = 4
) -> st.SearchStrategy[MultiHead]:
    """One mask per head, drawn from a pool of up to three so that heads share masks."""
    pool = st.lists(masks(q_len, kv_len), min_size=1, max_size=3)
    return pool.flatmap(
        lambda some: st.lists(st.sampled_from(some), min_size=1, max_size=max_heads)
    ).map(lambda heads: MultiHead(tuple(heads)))


@st.composite
def requests(draw: st.DrawFn, *, max_length: int = 64, multi_head: bool = True) -> CompileRequest:
    """Whole compile requests: ragged lengths, blocks per direction, several heads, row bounds.

    Args:
        draw: given by hypothesis.
        max_length: longest q_len and kv_len.
        multi_head: draw `MultiHead` masks too.
    """
    q_len, kv_len = draw(lengths(max_length)), draw(lengths(max_length))
    kinds = [masks(q_len, kv_len)] + ([multi_head_masks(q_len, kv_len)] if multi_head else [])
    mask = draw(st.one_of(kinds))
    blocks: dict[str, Any] = {name: draw(block_sizes()) for name in ("block_q", "block_kv")}
    for name in ("block_q_dq", "block_kv_dq", "block_q_dkv", "block_kv_dkv"):
        if draw(st.booleans()):
            blocks[name] = draw(block_sizes())
    bounded = draw(st.booleans())
    return CompileRequest(mask, q_len=q_len, kv_len=kv_len, row_bounds=bounded, **blocks)
