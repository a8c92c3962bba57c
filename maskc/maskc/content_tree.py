"""Canonical masks without strip form -> parts with content classes.

Shift, Remap and Kron say at which positions of an inner mask each token stands. They are followed
down to the leaves, where those positions index a table, if the leaf fits one, or are looked up
element by element.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.blocking import BlockGrid
from maskc.content import ALL, Both, Constant, Ints, Inverse, Part, Turned
from maskc.content_elements import ElementPart
from maskc.content_leaves import ArrayPart, DiagonalPart, RandomPart, StripPart, TilePart
from maskc.content_tables import TablePart
from maskc.expr import (
    And,
    Blocks,
    Dense,
    Diagonals,
    Empty,
    Full,
    Kron,
    Mask,
    Not,
    Or,
    Random,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    Xor,
)
from maskc.packed import unpack
from maskc.rules_products import coordinates
from maskc.strip_blocks import find_blocks
from maskc.strips import Strips

__all__ = ["part_of"]

_TABLE = 1 << 24  # elements of a table, and values of its sides by window
_DRAWN = 1 << 21  # elements that are drawn only to have a table of them


class _Inner(NamedTuple):
    """Where tokens stand in an inner mask.

    Attributes:
        shape: the inner mask's lengths.
        q: int [q_len], position of each query; -1 outside.
        kv: int [kv_len], position of each key; -1 outside.
    """

    shape: tuple[int, int]
    q: Ints
    kv: Ints

    @property
    def outside(self) -> bool:
        """Whether some tokens stand nowhere."""
        return bool(self.q.min() < 0 or self.kv.min() < 0)


def part_of(mask: Mask, blocking: BlockGrid) -> Part:
    """The part that a canonical mask is."""
    b = blocking
    match mask:
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            return _joined(mask, [part_of(m, b) for m in masks], b)
        case Not(mask=inner):
            return Inverse(part_of(inner, b))
        case Full() | Empty():
            return Constant(isinstance(mask, Full), b)
        case Strips():
            return StripPart(find_blocks([mask], b.block_q, b.block_kv), b)
        case Strided() | Diagonals():
            return DiagonalPart(mask, b)
        case Dense(mask=dense):
            return ArrayPart(dense, 0, 0, b)
        case Blocks(pattern=pattern, tile=tile) if not _fits(pattern.shape, b):
            return TilePart(pattern, tile, b)
        case Random():
            return RandomPart(mask, 0, 0, b)
        case Transpose(mask=inner):
            return Turned(part_of(inner, b.transposed), b)
        case Shift(mask=Dense(mask=dense), q=down, kv=right):
            return ArrayPart(dense, down, right, b)
        case Shift(mask=Random() as inner, q=down, kv=right):
            region = _moved(mask, _whole(b))
            return Both("And", RandomPart(inner, down, right, b), _region(region, b), b)
        case _:
            return _inner_part(mask, _whole(b), b)


def _whole(blocking: BlockGrid) -> _Inner:
    lengths = blocking.q_len, blocking.kv_len
    return _Inner(lengths, *(np.arange(length, dtype=np.int32) for length in lengths))


def _joined(mask: And | Or | Xor, parts: list[Part], blocking: BlockGrid) -> Part:
    return functools.reduce(lambda a, b: Both(type(mask).__name__, a, b, blocking), parts)


def _inner_part(mask: Mask, at: _Inner, b: BlockGrid) -> Part:
    """The part that a mask is at other positions."""
    match mask:
        case Kron(masks=masks):
            return functools.reduce(
                lambda x, y: Both("And", x, y, b),
                (_inner_part(m, place, b) for m, place in zip(masks, _axes(mask, at), strict=True)),
            )
        case Shift(mask=inner) | Remap(mask=inner):
            return _inner_part(inner, _moved(mask, at), b)
        case Full():
            return _region(at, b)
        case Empty():
            return Constant(False, b)
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)) if _fits(pattern.shape, b):
            tiles = pattern.rows(0, pattern.shape[0])
            return TablePart(tiles, _divided(at.q, tile_q), _divided(at.kv, tile_kv), b)
        case Segments(q_ids=q_ids, kv_ids=kv_ids):
            q, kv = (
                np.where(i < 0, -1, ids.array[i]) for i, ids in ((at.q, q_ids), (at.kv, kv_ids))
            )
            return _same(q, kv, b) or ElementPart(mask, at.q, at.kv, b)
        case Strided(stride=stride, phase=phase):
            q = np.where(at.q < 0, -1, (at.q - phase) % stride)
            kv = np.where(at.kv < 0, -1, at.kv % stride)
            return _same(q, kv, b) or ElementPart(mask, at.q, at.kv, b)
        case _ if _fits(at.shape, b) and math.prod(at.shape) <= _DRAWN:
            return TablePart(_elements(mask, at.shape), at.q, at.kv, b)
        case Transpose(mask=inner):
            turned = _Inner((at.shape[1], at.shape[0]), at.kv, at.q)
            return Turned(_inner_part(inner, turned, b.transposed), b)
        case And(masks=masks) | Or(masks=masks) | Xor(masks=masks):
            return _joined(mask, [_inner_part(m, at, b) for m in masks], b)
        case Not(mask=inner):
            inverse = Inverse(_inner_part(inner, at, b))
            return Both("And", inverse, _region(at, b), b) if at.outside else inverse
        case _:
            return ElementPart(mask, at.q, at.kv, b)


def _fits(shape: tuple[int, int], b: BlockGrid) -> bool:
    """Whether a table of this shape is small."""
    rows, columns = shape
    return max(rows * columns, rows * b.nk, columns * b.nk, rows * b.nq) <= _TABLE


def _same(q_ids: Ints, kv_ids: Ints, b: BlockGrid) -> Part | None:
    """Tokens of one and the same id that is not negative, unless there are many ids."""
    ids = int(max(q_ids.max(), kv_ids.max())) + 1
    if ids < 1:
        return Constant(False, b)
    return (
        TablePart(np.eye(ids, dtype=np.bool_), q_ids, kv_ids, b) if _fits((ids, ids), b) else None
    )


def _region(at: _Inner, b: BlockGrid) -> Part:
    """Tokens that stand somewhere."""
    if not at.outside:
        return Constant(True, b)
    return TablePart(np.ones((1, 1), np.bool_), np.minimum(at.q, 0), np.minimum(at.kv, 0), b)


def _divided(positions: Ints, by: int) -> Ints:
    return np.where(positions < 0, -1, positions // by)


def _moved(mask: Shift | Remap, at: _Inner) -> _Inner:
    """Where tokens stand in the mask inside one that stands at `at`."""
    assert mask.q_len is not None  # noqa: S101  # canonical ones have both lengths
    assert mask.kv_len is not None  # noqa: S101
    shape = mask.q_len, mask.kv_len
    if isinstance(mask, Remap):
        assert mask.kv_positions is not None  # noqa: S101
        places = mask.q_positions.array, mask.kv_positions.array
        pairs = zip((at.q, at.kv), places, strict=True)
        moved = (np.where(i < 0, -1, np.maximum(place[i], -1)) for i, place in pairs)
        return _Inner(shape, *moved)
    steps = zip((at.q, at.kv), (mask.q, mask.kv), shape, strict=True)
    shifted = (
        np.where((i < 0) | (i < by) | (i - by >= length), -1, i - by) for i, by, length in steps
    )
    return _Inner(shape, *shifted)


def _axes(mask: Kron, at: _Inner) -> list[_Inner]:
    """Where tokens stand along each axis."""
    assert mask.kv_shape is not None  # noqa: S101  # a canonical product has both shapes
    sides = [
        [np.where(positions < 0, -1, axis) for axis in coordinates(positions, sizes)]
        for positions, sizes in ((at.q, mask.q_shape), (at.kv, mask.kv_shape))
    ]
    shapes = zip(mask.q_shape, mask.kv_shape, strict=True)
    return [_Inner(*axis) for axis in zip(shapes, *sides, strict=True)]


def _elements(mask: Mask, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """All elements of a small mask, drawn as one block."""
    part = part_of(mask, BlockGrid(*shape, *shape))
    found = int(part.classify(range(1))[0, 0])
    if found <= ALL:
        return np.full(shape, found == ALL)
    bits = np.empty((1, shape[0], -(-shape[1] // 8)), np.uint8)
    part.draw(np.zeros((1, 2), np.int64), bits)
    return unpack(bits[0], shape[1])
