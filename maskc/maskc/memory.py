"""Uninitialised arrays whose first touch is cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["empties", "empty"]

_LARGE = 1 << 22  # bytes; below, memory that was freed before is at hand, and costs nothing
_LINE = 64  # bytes of a line of a processor's cache
_PAGE = 1 << 21  # bytes of a huge page on x86-64 and arm64 Linux

# glibc gives what is free back to the kernel, and takes it again page by page, where it is more
# than twice the largest piece that came and went so far, of at most 32 MiB. This one is never
# touched; all it leaves is that size, and causal at 1M tokens compiles in a third of the time.
np.empty(31 << 20, np.uint8)


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """`numpy.empty`, with large arrays on huge pages of their own.

    A plan's arrays are written once, so the kernel's zeroing of their pages is most of what they
    cost, and it is several times as fast by huge pages. numpy asks for them from 4 MiB on, but the
    kernel can only give those that lie inside the array whole.
    """
    made = np.empty(shape, dtype)
    if made.nbytes < _LARGE:
        return made
    return _room(made.nbytes, np.empty)[: made.nbytes].view(dtype).reshape(shape)


def empties(
    shape: tuple[int, ...], dtypes: Sequence[np.dtype[Any]], *, zeros: bool = False
) -> list[npt.NDArray[Any]]:
    """Arrays of one shape, in one piece of memory if they are large: see `empty`.

    glibc returns memory to the kernel, to take it again page by page, where more than twice its
    largest piece so far becomes free.

    Args:
        shape: of each.
        dtypes: of each.
        zeros: have them of zeros; pages that come from the kernel are so already.
    """
    make = np.zeros if zeros else np.empty
    cells = math.prod(shape)
    if cells * sum(dtype.itemsize for dtype in dtypes) < _LARGE:
        return [make(shape, dtype) for dtype in dtypes]
    sizes = [-(-cells * dtype.itemsize // _LINE) * _LINE for dtype in dtypes]
    room, made, start = _room(sum(sizes), make), [], 0
    for size, dtype in zip(sizes, dtypes, strict=True):
        piece = room[start : start + cells * dtype.itemsize]
        made.append(piece.view(dtype).reshape(shape))
        start += size
    return made


def _room(size: int, make: Callable[..., npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Bytes that begin with a huge page."""
    room = make((-(-size // _PAGE) + 1) * _PAGE, np.uint8)
    return room[-room.ctypes.data % _PAGE :]
