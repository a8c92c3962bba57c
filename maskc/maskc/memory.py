"""Uninitialised arrays whose first touch is cheap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["empties", "empty"]

_LARGE = 1 << 22  # bytes; below, memory that was freed before is at hand, and costs nothing
_LINE = 64  # bytes of a line of a processor's cache
_PAGE = 1 << 21  # bytes of a huge page on x86-64 and arm64 Linux


def empty(
    shape: int | tuple[int, ...], dtype: npt.DTypeLike, *, zeros: bool = False
) -> npt.NDArray[Any]:
    """`numpy.empty`, with large arrays on huge pages of their own.

    A plan's arrays are written once, so the kernel's zeroing of their pages is most of what they
    cost, and it is several times as fast by huge pages. numpy asks for them from 4 MiB on, but the
    kernel can only give those that lie inside the array whole.

    Args:
        shape: of the array.
        dtype: of the array.
        zeros: `numpy.zeros` instead: pages that come from the kernel are zeros already.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    if size < _LARGE:
        return (np.zeros if zeros else np.empty)(shape, dtype)
    return _room(size, zeros)[:size].view(dtype).reshape(shape)


def empties(
    shape: tuple[int, ...], dtypes: Sequence[np.dtype[Any]], *, zeros: bool = False
) -> list[npt.NDArray[Any]]:
    """Arrays of one shape, in one piece of memory if they are large: see `empty`.

    glibc gives memory back to the kernel, and takes it again page by page, where more becomes
    free than twice its largest piece so far.
    """
    sizes = [-(-math.prod(shape) * dtype.itemsize // _LINE) * _LINE for dtype in dtypes]
    if sum(sizes) < _LARGE:
        return [(np.zeros if zeros else np.empty)(shape, dtype) for dtype in dtypes]
    room, made, start = _room(sum(sizes), zeros), [], 0
    for size, dtype in zip(sizes, dtypes, strict=True):
        piece = room[start : start + math.prod(shape) * dtype.itemsize]
        made.append(piece.view(dtype).reshape(shape))
        start += size
    return made


def _room(size: int, zeros: bool) -> npt.NDArray[np.uint8]:
    """Bytes that begin with a huge page."""
    room = (np.zeros if zeros else np.empty)((-(-size // _PAGE) + 1) * _PAGE, np.uint8)
    return room[-room.ctypes.data % _PAGE :]
