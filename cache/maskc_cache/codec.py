"""How a section's integers are stored: raw, or as one zstd frame of something that says the same.

    0 raw       the values
    1 zstd      a frame of the values
    2 delta     a frame of the differences between neighbours, the first value before them
    3 runs      a frame of the runs in which values count up by one
    4 delta runs: the same of the differences
    5 grid      a frame of the differences along the last axis of their differences along the one
                before it; of an array of one axis, of the differences of its differences

Arithmetic is modulo the range of the values' dtype. Runs are int32: the differences between the
runs' first values, then the differences between their lengths, each list with its first number
before them. Lists of blocks count up, from columns and over lengths that change evenly from row to
row; splash tables look alike around the diagonal. zstd alone sees neither: causal 128k lists of
65 kB take 30 bytes instead of 900, and block masks of 65 kB take 30 instead of 300.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

__all__ = ["CODECS", "RAW", "ZSTD", "compress", "decompress"]

RAW, ZSTD, DELTA, RUNS, DELTA_RUNS, GRID = range(6)
CODECS = {
    RAW: "raw",
    ZSTD: "zstd",
    DELTA: "delta",
    RUNS: "runs",
    DELTA_RUNS: "delta runs",
    GRID: "grid",
}
"""The codecs' names by number."""

_LEVEL = 3  # level 9 is no smaller on plans, level 19 writes at 3 to 10 MB/s
_GAIN = 2  # a table is compressed if that halves it; raw ones load without a copy
_WORTH = 200  # bytes that it must save at least, for the ten microseconds that a frame costs
_RUN_BYTES = 8
_WIDE = 64  # values of a row from which adding whole rows is faster than numpy's cumsum down them

_Array = npt.NDArray[Any]


class _OfThread(threading.local):
    """One decompressor for all frames; to make one takes longer than to read most frames."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_of_thread = _OfThread()


def compress(array: _Array, *, is_bits: bool) -> tuple[int, bytes]:
    """The codec that is best for an array, and the bytes to store.

    Args:
        array: little endian.
        is_bits: packed bits, which are compressed whenever that makes them smaller; they are
            expanded anyhow when they are used.
    """
    raw = array.tobytes()
    candidates = {ZSTD: raw}
    if not is_bits and array.size:
        data = array.reshape(-1)
        steps = _steps(data, 0)
        candidates[DELTA] = steps.tobytes()
        for codec, values in ((RUNS, data), (DELTA_RUNS, steps)):
            if (runs := _runs(values)) is not None:
                candidates[codec] = runs
        if array.ndim:
            candidates[GRID] = _steps(_steps(array, -min(array.ndim, 2)), -1).tobytes()
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    frames = [(codec, compressor.compress(content)) for codec, content in candidates.items()]
    codec, frame = min(frames, key=lambda stored: len(stored[1]))
    if is_bits:
        pays = len(frame) < len(raw)
    else:
        pays = len(frame) * _GAIN < len(raw) and len(frame) + _WORTH <= len(raw)
    return (codec, frame) if pays else (RAW, raw)


def _steps(array: _Array, axis: int) -> _Array:
    """The differences along an axis, the first value before them."""
    first = np.take(array, [0], axis)
    return np.diff(array, axis=axis, prepend=first - first)


def _runs(data: _Array) -> bytes | None:
    """The runs of a flat array; None if they would take more than the array."""
    firsts = np.flatnonzero(np.diff(data) != 1) + 1
    if (len(firsts) + 1) * _RUN_BYTES > data.nbytes:
        return None
    begins = np.concatenate(([0], firsts))
    values = data[begins].astype(np.int32)
    lengths = np.diff(begins, append=len(data)).astype(np.int32)
    return np.concatenate([np.diff(x, prepend=np.int32(0)) for x in (values, lengths)]).tobytes()


def decompress(
    codec: int, stored: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> _Array:
    """The array of a section, read-only; little more memory is taken than it needs.

    Args:
        codec: one of `CODECS` but raw.
        stored: the frame.
        dtype: of the array.
        shape: of the array.

    Raises:
        ValueError: the stored bytes are not what the codec says, or not of this shape.
    """
    count = math.prod(shape)
    nbytes = count * dtype.itemsize
    if codec in {RUNS, DELTA_RUNS}:
        array = _expanded(_frame(stored, nbytes, exact=False), dtype, count)
    else:
        array = _frame(stored, nbytes, exact=True).view(dtype)
    if codec in {DELTA, DELTA_RUNS}:
        array = np.cumsum(array, dtype=dtype)
    array = array.reshape(shape)
    if codec == GRID:
        if not array.ndim:
            raise ValueError("a grid of no dimensions")
        array = np.cumsum(array, axis=-1, dtype=dtype)
        _add_up(array)
    array.setflags(write=False)
    return array


def _add_up(array: _Array) -> None:
    """Running sums along the axis before the last, or the only one, in place."""
    if array.ndim == 1 or array.shape[-1] < _WIDE:
        np.cumsum(array, axis=-min(array.ndim, 2), dtype=array.dtype, out=array)
        return
    for row in range(1, array.shape[-2]):
        array[..., row, :] += array[..., row - 1, :]


def _frame(stored: memoryview, nbytes: int, *, exact: bool) -> _Array:
    """One zstd frame; the size that it declares is compared before anything is allocated."""
    try:
        size = zstandard.get_frame_parameters(stored).content_size
        fits = size == nbytes if exact else size <= nbytes and size % _RUN_BYTES == 0
        if not fits or not size:
            raise ValueError(f"the zstd frame is not of {nbytes} bytes" + " or less" * (not exact))
        content = _of_thread.decompressor.decompress(
            stored, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from None
    return np.frombuffer(content, np.uint8)


def _expanded(content: _Array, dtype: np.dtype[Any], count: int) -> _Array:
    """The array that has the runs given."""
    pairs = content.view(np.dtype("<i4")).reshape(2, -1)
    values, lengths = np.cumsum(pairs, axis=1, dtype=np.int32)
    if lengths.min() < 1 or lengths.sum(dtype=np.int64) != count:
        raise ValueError(f"the runs are not of {count} values")
    steps = np.ones(count, dtype)
    begins = np.cumsum(lengths) - lengths
    jumps = values.copy()
    jumps[1:] -= values[:-1] + lengths[:-1] - 1
    steps[begins] = jumps.astype(dtype)
    return np.cumsum(steps, dtype=dtype, out=steps)
