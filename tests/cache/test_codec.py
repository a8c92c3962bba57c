"""Codecs: whatever is stored comes back, and nothing else is believed."""

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maskc_cache.codec import CODECS, DELTA, DELTA_RUNS, GRID, RAW, RUNS, ZSTD, compress, decompress

SHAPES = arrays.array_shapes(max_dims=3, max_side=9, min_side=0)
DTYPES = [np.dtype(f"<{name}") for name in ("i1", "i2", "i4", "u1")]


def frame(content):
    return memoryview(zstandard.ZstdCompressor().compress(bytes(content)))


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: (
            arrays.arrays(
                dtype,
                arrays.array_shapes(max_dims=3, max_side=9, min_side=0),
                elements=arrays.from_dtype(dtype),
            )
            | st.lists(st.integers(0, 40), max_size=30).map(
                lambda lengths: np.concatenate([np.arange(n) for n in [*lengths, 0]]).astype(dtype)
            )
            | st.lists(st.integers(-3, 3), max_size=300).map(
                lambda steps: np.cumsum(np.cumsum(steps, dtype=int), dtype=int).astype(dtype)
            )
        )
    ),
    st.booleans(),
)
def test_what_is_stored_comes_back(data, is_bits):
    codec, content = compress(data, is_bits=is_bits)
    if codec == RAW:  # which needs no decoder
        again = np.frombuffer(content, data.dtype).reshape(data.shape)
    else:
        again = decompress(codec, memoryview(content), data.dtype, data.shape)
        assert not again.flags.writeable
    assert again.dtype == data.dtype
    np.testing.assert_array_equal(again, data)
    assert len(content) <= data.nbytes
    if codec != RAW and not is_bits:
        assert 2 * len(content) < data.nbytes
        assert len(content) + 200 <= data.nbytes


triangle = np.concatenate([np.arange(n) for n in range(256)])


@pytest.mark.parametrize(
    ("codec", "data", "size"),
    [
        (RAW, np.random.default_rng(0).integers(-99, 99, 200), 1600),
        (ZSTD, np.tile([3, 1, 4, 1, 5, 9, 2, 6], 100), 64),
        (DELTA, np.arange(0, 3000 * 131, 131), 40),
        (RUNS, triangle, 40),
        (RUNS, triangle + np.repeat(np.arange(256), np.arange(256)), 40),
        (DELTA_RUNS, np.cumsum(np.arange(256)), 40),
        (GRID, np.cumsum(np.arange(256, 0, -1)), 40),
        (GRID, (2 * np.tri(256, k=-1) + np.eye(256))[None], 60),
        (GRID, np.stack([np.tri(200, 300, k=k) for k in (9, -9)]), 80),
    ],
)
def test_each_codec_has_its_use(codec, data, size):
    data = data.astype("<i4")
    chosen, content = compress(data, is_bits=False)
    assert CODECS[chosen] == CODECS[codec]
    assert len(content) <= size
    if codec != RAW:
        again = decompress(codec, memoryview(content), data.dtype, data.shape)
        np.testing.assert_array_equal(again, data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_wrap_around_and_back(dtype):
    data = np.arange(-200_000, 200_000, 77).astype(dtype)
    steps = np.diff(data, prepend=dtype.type(0))
    np.testing.assert_array_equal(
        decompress(DELTA, frame(steps.tobytes()), dtype, (len(data),)), data
    )
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    data = np.concatenate([[high - 1, high, low, low + 1], np.full(20, 5)]).astype(dtype)
    runs = struct.pack("<4i", high - 1, 0, 24, 0)[:4] + struct.pack("<i", 24)
    again = decompress(RUNS, frame(runs), dtype, (24,))  # one run, modulo the dtype
    np.testing.assert_array_equal(again[:4], data[:4])


@pytest.mark.parametrize("codec", [RUNS, DELTA_RUNS])
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 9], "the runs are not of 10 values"),
        ([0, 11], "the runs are not of 10 values"),
        ([0, -1], "the runs are not of 10 values"),
        ([0, 0, 10, -10], "the runs are not of 10 values"),
        ([0, 0, 12, -14], "the runs are not of 10 values"),
        ([0, 0, 0, 2**31 - 1, -(2**31) + 12, -1], "the runs are not of 10 values"),
        ([0], "the zstd frame is not of 40 bytes or less"),
        ([0] * 12, "the zstd frame is not of 40 bytes or less"),
        ([], "the zstd frame is not of 40 bytes or less"),
    ],
)
def test_runs_are_of_as_many_values_as_there_must_be(codec, numbers, message):
    content = frame(struct.pack(f"<{len(numbers)}i", *numbers))
    with pytest.raises(ValueError, match=message):
        decompress(codec, content, np.dtype("<i4"), (10,))


@pytest.mark.parametrize("codec", [ZSTD, DELTA])
def test_frames_are_of_the_size_that_they_must_have(codec):
    with pytest.raises(ValueError, match="the zstd frame is not of 40 bytes"):
        decompress(codec, frame(bytes(36)), np.dtype("<i4"), (10,))
    with pytest.raises(ValueError, match="a grid of no dimensions"):
        decompress(GRID, frame(bytes(4)), np.dtype("<i4"), ())
    with pytest.raises(ValueError, match="not a zstd frame"):
        decompress(codec, memoryview(b"nonsense"), np.dtype("<i4"), (10,))


def test_threads_do_not_disturb_each_other():
    arrays_of = {n: np.random.default_rng(n).integers(0, 3, 50_000, np.int8) for n in range(4)}
    frames = {n: frame(data.tobytes()) for n, data in arrays_of.items()}

    def work(n):
        for _ in range(20):
            again = decompress(ZSTD, frames[n], np.dtype("i1"), (50_000,))
            np.testing.assert_array_equal(again, arrays_of[n])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, arrays_of))
