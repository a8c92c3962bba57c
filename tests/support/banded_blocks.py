"""Blocks in bands, and the grid of numbers that they stand for."""

import numpy as np
from dense_blocks import EMPTY, FULL
from hypothesis import strategies as st

from maskc.block_runs import MaskBlocks


def runs_of(rows):
    """The runs of rows of numbers, and where each row's begin."""
    ptr, out = [0], []
    for row in rows.tolist():
        start = 0
        for column in range(1, len(row) + 1):
            if column == len(row) or row[column] != row[start]:
                if row[start] != EMPTY:
                    out.append((start, column, row[start]))
                start = column
        ptr.append(len(out))
    return np.array(ptr), np.array(out, np.int32).reshape(-1, 3)


def still_and_moving_meet(pattern, still):
    """Whether there is no column between them, or nothing moves."""
    stands = np.flatnonzero((still != EMPTY).any(axis=0))
    moves = np.flatnonzero(((pattern != EMPTY) & (still == EMPTY)).any(axis=0))
    return not len(moves) or moves[0] < stands[-1] + 2


@st.composite
def banded(draw):
    """`(blocks, grid)`: grid is the numbers [masks, rows, columns]."""
    masks = draw(st.integers(1, 2))
    height, columns = (draw(st.sampled_from([6, 12, 30, 48])) for _ in range(2))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    unique = draw(st.integers(0, 3))
    bands, patterns, grid = [], [], np.full((masks, height, columns), EMPTY)
    for mask in range(masks):
        line = 0
        while line < height:
            period = min(random.integers(1, 4), height - line)
            most = (height - line) // period
            count = random.choice([1, most, random.integers(1, most + 1)])
            width = random.integers(1, min(columns, random.choice([8, 16])) + 1)
            left = random.integers(0, columns - width + 1) // random.choice([1, 4])
            pattern = np.full((period, columns), EMPTY)
            share = random.random((period, width)) < random.choice([0.3, 0.5, 0.9, 1])
            some = random.integers(FULL, unique, (period, width)) if unique else FULL
            pattern[:, left : left + width] = np.where(share, some, EMPTY)
            step = random.choice([0, 1, 1, 2, 3]) if share.any() else 0
            if step:
                right = np.flatnonzero((pattern != EMPTY).any(axis=0))[-1]
                count = min(count, (columns - 1 - right) // step + 1)
            still = pattern.copy()
            still[:, (left + width) // 2 :] = EMPTY
            runs = runs_of(still)[0][-1]
            if period > 1 or not step or not runs or still_and_moving_meet(pattern, still):
                still, runs = np.full_like(pattern, EMPTY), 0
            bands.append((mask * height + line, sum(map(len, patterns)), period, count, step, runs))
            for k in range(count):
                moved = np.roll(np.where(still == EMPTY, pattern, EMPTY), k * step, axis=1)
                moved = np.where(still == EMPTY, moved, still)
                grid[mask, line + k * period : line + (k + 1) * period] = moved
            patterns.append(pattern)
            line += period * count
    bits = np.zeros((unique, 1, 1), np.uint8)
    return MaskBlocks(np.array(bands), *runs_of(np.concatenate(patterns)), bits), grid
