"""Splash masks -> maskc expressions: in closed form if the class is known, else from the elements.

A mask that somebody else wrote is read once, some rows at a time: as intervals of keys if its rows
have few, which take no more room than the mask has edges, else as one bit per element.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import checks, expr
from maskc.arrays import PackedMask
from maskc.splash.computable import StockFunction, _ComputableMask
from maskc.splash.masks import (
    ExpressionMask,
    FullMask,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    LogicalXor,
    Mask,
    MultiHeadMask,
    NumpyMask,
)
from maskc.strips import PER_ROW, normal

__all__ = ["expression_of"]

_CELLS = 1 << 17  # elements read at a time, so that they stay in the cache

_Read = Callable[[Any], expr.Mask]
_KNOWN: dict[type[Mask], Callable[[Any, _Read], expr.Mask]] = {
    FullMask: lambda _, __: expr.Full(),
    NumpyMask: lambda mask, _: expr.Dense(mask.array),
    ExpressionMask: lambda mask, _: mask.mask,
    LogicalNot: lambda mask, read: ~_expression(mask.mask, read),
    LogicalAnd: lambda mask, read: _expression(mask.left, read) & _expression(mask.right, read),
    LogicalOr: lambda mask, read: _expression(mask.left, read) | _expression(mask.right, read),
    LogicalXor: lambda mask, read: _expression(mask.left, read) ^ _expression(mask.right, read),
    MultiHeadMask: lambda mask, read: expr.MultiHead([_expression(m, read) for m in mask.masks]),
}


def expression_of(mask: Any, *, remember: bool = False) -> expr.Mask:
    """A splash mask, ours or JAX's or a user's, in maskc's language.

    Args:
        mask: has a `shape` of `(q_len, kv_len)` and gives elements for two slices.
        remember: whether a mask of somebody else's that equals one of the last few is not read
            again, as JAX does: a kernel's forward, dq and dkv tables ask for it, for every layer.

    Raises:
        ValueError: its elements are not of its shape, or its `q_sequence` is not of its length.
    """
    return _expression(mask, _read_once if remember else _read)


def _expression(mask: Any, read: _Read) -> expr.Mask:
    if type(mask) in _KNOWN:  # a subclass may index otherwise
        return _KNOWN[type(mask)](mask, read)
    if (
        isinstance(mask, _ComputableMask)
        and isinstance(mask.mask_function, StockFunction)
        and type(mask).__getitem__ is _ComputableMask.__getitem__
    ):
        return _at_positions(mask.mask_function, mask.q_sequence, mask.shape[1])
    return read(mask)


def _at_positions(function: StockFunction, positions: Any, kv_len: int) -> expr.Mask:
    """A function's mask, with the queries where `q_sequence` says."""
    positions = np.asarray(positions)
    if np.array_equal(positions, np.arange(len(positions))):
        return function.expression(0)
    origin = min(int(positions.min(initial=0)), 0)
    return expr.Remap(
        function.expression(origin), positions - origin, np.arange(kv_len), kv_len=kv_len
    )


def _read(mask: Any) -> expr.Mask:
    q_len, kv_len = mask.shape
    counts, ends, total = [np.zeros(1, np.int64)], [], 0
    for rows in _rows(mask):
        edges = np.flatnonzero(rows[:, 1:] != rows[:, :-1]).reshape(-1, 2)
        counts.append(np.bincount(edges[:, 0] // (kv_len + 1), minlength=len(rows)))
        ends.append(edges % (kv_len + 1))
        total += len(edges)
        if total > PER_ROW * q_len:
            return _as_bits(mask)
    ptr = np.concatenate(counts).cumsum()
    lines = np.pad(np.concatenate(ends), ((0, 0), (0, 2)))
    return normal(kv_len, np.arange(q_len + 1), ptr, lines)


_read_once = functools.lru_cache(maxsize=4)(_read)


def _as_bits(mask: Any) -> expr.Mask:
    bits = [np.packbits(rows[:, 1:-1], axis=1, bitorder="little") for rows in _rows(mask)]
    # Never the bools of all elements at once.
    return expr.Dense(PackedMask.adopt(mask.shape[1], np.concatenate(bits)))


def _rows(mask: Any) -> Iterator[npt.NDArray[np.bool_]]:
    """The elements, some rows at a time, with a False on either side of each row."""
    q_len, kv_len = mask.shape
    step = max(1, _CELLS // max(kv_len, 1))
    room = np.zeros((step, kv_len + 2), np.bool_)
    for top in range(0, q_len, step):
        bottom = min(top + step, q_len)
        elements = np.asarray(mask[slice(top, bottom), slice(0, kv_len)])
        if elements.shape != (bottom - top, kv_len):
            raise checks.fail(
                f"{type(mask).__name__}[{top}:{bottom}, 0:{kv_len}]",
                f"an array of shape {(bottom - top, kv_len)}",
                elements,
            )
        rows = room[: bottom - top]
        rows[:, 1:-1] = elements
        yield rows
