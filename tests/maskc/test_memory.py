"""Arrays on huge pages: of the sizes that were asked for, apart, and where they should begin."""

import numpy as np
import pytest

from maskc.memory import empties, empty

DTYPES = [np.dtype(np.int16), np.dtype(np.int8), np.dtype(np.int32)]


@pytest.mark.parametrize("shape", [(2, 3), (1, 1001, 999), (1, 2048, 2048)])
def test_arrays_of_one_piece_are_apart(shape):
    arrays = empties(shape, DTYPES)
    for number, array in enumerate(arrays):
        array.fill(number)
    for number, (array, dtype) in enumerate(zip(arrays, DTYPES, strict=True)):
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.c_contiguous
        assert array.ctypes.data % dtype.itemsize == 0
        assert (array == number).all()


@pytest.mark.parametrize("shape", [(2, 3), (1, 2048, 2048)])
def test_zeros_are_zeros(shape):
    for _ in range(3):  # memory that was freed before must be cleared
        for array in empties(shape, DTYPES, zeros=True):
            assert not array.any()
            array.fill(1)


def test_large_arrays_begin_with_a_huge_page():
    assert empty((3000, 1000), np.int16).ctypes.data % (1 << 21) == 0
    assert empties((3000, 1000), DTYPES)[0].ctypes.data % (1 << 21) == 0
    assert empty(5, np.int8).shape == (5,)
