"""Blocks of dense masks, by definition, and runs of blocks read back."""

import itertools

import numpy as np

EMPTY, FULL = -2, -1


def block_numbers(masks, block_q, block_kv):
    """Of dense masks: numbers [rows, columns] of all blocks, and the distinct partial ones."""
    found, grids = {}, []
    for mask in masks:
        nq, nk = -(-mask.shape[0] // block_q), -(-mask.shape[1] // block_kv)
        padded = np.zeros((nq * block_q, nk * block_kv), bool)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        blocks = padded.reshape(nq, block_q, nk, block_kv).swapaxes(1, 2)
        grid = np.where(blocks.all(axis=(2, 3)), FULL, EMPTY)
        for i, j in np.argwhere(blocks.any(axis=(2, 3)) & (grid == EMPTY)):
            grid[i, j] = found.setdefault(blocks[i, j].tobytes(), len(found))
        grids.append(grid)
    distinct = [np.frombuffer(key, bool).reshape(block_q, block_kv) for key in found]
    bits = [np.packbits(block, axis=1, bitorder="little") for block in distinct]
    empty = np.zeros((0, block_q, -(-block_kv // 8)), np.uint8)
    return np.concatenate(grids), np.stack(bits) if bits else empty


def numbers_of(blocks, columns):
    """Runs as a grid of numbers; they must be ascending, apart or different, and not empty."""
    ptr, runs = blocks.rows
    grid = np.full((blocks.lines, columns), EMPTY)
    assert ptr[0] == 0
    assert ptr[-1] == len(runs)
    for row, (first, last) in enumerate(itertools.pairwise(ptr)):
        end, before = 0, EMPTY
        for start, stop, number in runs[first:last].tolist():
            assert start < stop <= columns
            assert start > end or (start == end and number != before)
            assert number >= FULL
            grid[row, start:stop] = number
            end, before = stop, number
    return grid


def assert_blocks(blocks, masks, block_q, block_kv):
    """Runs must say exactly what blocks dense masks have."""
    numbers, bits = block_numbers(masks, block_q, block_kv)
    np.testing.assert_array_equal(numbers_of(blocks, numbers.shape[1]), numbers)
    np.testing.assert_array_equal(blocks.bits, bits)
