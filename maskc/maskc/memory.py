"""Uninitialised arrays whose first touch is cheap."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["empty"]

_LARGE = 1 << 22  # bytes; below, memory that was freed before is at hand, and costs nothing
_PAGE = 1 << 21  # bytes of a huge page on x86-64 and arm64 Linux


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """`numpy.empty`, with large arrays on huge pages of their own.

    A plan's arrays are written once, so the kernel's zeroing of their pages is most of what they
    cost, and it is several times as fast by huge pages. numpy asks for them from 4 MiB on, but the
    kernel can only give those that lie inside the array whole.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    room = np.empty((-(-size // _PAGE) + 1) * _PAGE, np.uint8)
    start = -room.ctypes.data % _PAGE
    return room[start : start + size].view(dtype).reshape(shape)
