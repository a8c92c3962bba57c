"""Blocks of masks without a strip form against the dense oracle, whichever way they are found."""

import functools

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import given
from hypothesis import strategies as st

from maskc import (
    Blocks,
    Causal,
    Dense,
    Diagonals,
    Kron,
    Local,
    Neighborhood,
    Random,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    strategies,
    zoo,
)
from maskc.block_runs import FULL
from maskc.blocking import BlockGrid
from maskc.canonical import canonical
from maskc.evaluated import evaluate_blocks
from maskc.packed import toeplitz


def check(found, mask, grid):
    """Everything that `MaskBlocks` promises, from a dense mask."""
    padded = np.zeros((grid.nq * grid.block_q, grid.nk * grid.block_kv), bool)
    padded[: grid.q_len, : grid.kv_len] = mask
    blocks = padded.reshape(grid.nq, grid.block_q, grid.nk, grid.block_kv).swapaxes(1, 2)
    numbers, runs, ptr = {}, [], [0]
    for row in blocks:
        before = None
        for column, block in enumerate(row):
            number = None
            if block.all():
                number = FULL
            elif block.any():
                number = numbers.setdefault(block.tobytes(), len(numbers))
            if number is not None and number == before:
                runs[-1][1] += 1
            elif number is not None:
                runs.append([column, column + 1, number])
            before = number
        ptr.append(len(runs))
    assert found.ptr.dtype == np.int64
    assert found.runs.dtype == np.int32
    assert found.bits.dtype == np.uint8
    assert found.ptr.tolist() == ptr
    assert found.runs.tolist() == runs
    distinct = np.frombuffer(b"".join(numbers), bool).reshape(-1, grid.block_q, grid.block_kv)
    np.testing.assert_array_equal(found.bits, np.packbits(distinct, axis=2, bitorder="little"))


@st.composite
def cases(draw):
    """A mask of any kind, lengths, and blocks that need not fit: small, wide, of one element."""
    q_len, kv_len = draw(st.integers(1, 48)), draw(st.integers(1, 100))
    if draw(st.booleans()):
        kv_len = q_len
    block_q = draw(st.one_of(st.integers(1, 9), st.integers(1, 60)))
    block_kv = draw(st.one_of(st.integers(1, 9), st.integers(1, 140), st.sampled_from([8, 64])))
    mask = draw(strategies.masks(q_len, kv_len, max_leaves=5))
    return mask, BlockGrid(q_len, kv_len, block_q, block_kv)


def evaluated(mask, grid):
    return evaluate_blocks(canonical(mask, grid.q_len, grid.kv_len), grid)


@given(cases())
def test_every_mask_is_the_oracle(case):
    mask, grid = case
    check(evaluated(mask, grid), dense(mask, grid.q_len, grid.kv_len), grid)


@pytest.mark.parametrize(
    "limits",
    [
        {"content_tree._TABLE": 0},
        {"content_tree._TABLE": 0, "content_elements._ELEMENTS": 1, "content._TABLE": 0},
        {"content._TABLE": 0, "evaluated._CELLS": 1, "evaluated._BYTES": 1},
        {"content_tables._CACHED": 0, "content_tables._CELLS": 1, "evaluated._BYTES": 64},
    ],
    ids=["elements", "one element at a time", "one block at a time", "no tables kept"],
)
def test_limits_do_not_change_the_answer(limits, monkeypatch):
    """What large masks run into, at small ones."""
    for name, value in limits.items():
        monkeypatch.setattr(f"maskc.{name}", value)

    @given(cases())
    def holds(case):
        mask, grid = case
        check(evaluated(mask, grid), dense(mask, grid.q_len, grid.kv_len), grid)

    holds()


def noise(rows, columns):
    return np.random.default_rng(0).random((rows, columns)) < 0.4


PERIODIC = {
    "strided": zoo.sparse_transformer_strided(24),
    "strided by another number": zoo.sparse_transformer_strided(23),
    "fixed": zoo.sparse_transformer_fixed(24, 7),
    "dilated": zoo.dilated_window(60, 3),
    "slashes": zoo.vertical_slash([3, 70, 90], [0, 5, 77, 130]),
    "bigbird": zoo.bigbird(noise(24, 24), 12),
    "tiles": Blocks(noise(58, 36), 5, 8),
    "neighborhood": Neighborhood((16, 18), (5, 7)),
    "dilated neighborhood": Neighborhood((16, 18), (5, 3), (3, 2), causal=(True, False)),
    "neighborhood by tiles": Remap(Neighborhood((16, 18), 5), zoo.tile_order((16, 18), (4, 6))),
    "tokens of a frame": zoo.svg_temporal(30, 43, 9),
    "interleaved": Segments(np.arange(288) % 7, np.arange(288) % 5),
    "repeated array": Kron((Local(0, 0), Dense(noise(24, 24))), (None, 24)),
    "array put elsewhere": Shift(Dense(noise(100, 90)), 70, -13, 100, 90),
    "noise put elsewhere": Shift(Random(0.7, 5), -40, 33, 290, 200) & Causal(),
    "noise turned": Transpose(Random(0.3)) ^ Strided(5),
    "a difference": Local(90, 90) - Diagonals([0, 3, 4, 50, -50]),
    "padded and turned": Remap(
        Transpose(Dense(noise(150, 120))),
        np.arange(288) // 2 - 24,
        np.arange(288)[::-1] // 2,
        120,
        150,
    ),
}


@functools.cache
def periodic(name):
    return dense(PERIODIC[name], 288, 288)


@pytest.mark.parametrize("blocks", [(24, 24), (32, 64), (7, 13), (288, 16), (40, 300)])
@pytest.mark.parametrize("name", PERIODIC)
def test_periodic_masks(name, blocks):
    grid = BlockGrid(288, 288, *blocks)
    check(evaluated(PERIODIC[name], grid), periodic(name), grid)


def test_a_block_of_each_class_is_drawn_once(monkeypatch):
    """A periodic mask of a million tokens has three different blocks, two of them by its window."""
    drawn = []

    def counted(diagonals, *block):
        drawn.append(len(diagonals))
        return toeplitz(diagonals, *block)

    monkeypatch.setattr("maskc.content_leaves.toeplitz", counted)
    grid = BlockGrid(1 << 20, 1 << 20, 2048, 2048)
    assert len(evaluated(zoo.sparse_transformer_strided(128), grid).bits) == 3
    assert sum(drawn) == 1


def test_progress_goes_to_the_end(monkeypatch):
    monkeypatch.setattr("maskc.evaluated._CELLS", 16)
    calls = []
    form = canonical(Strided(3), 64, 64)
    evaluate_blocks(form, BlockGrid(64, 64, 8, 8), lambda *at: calls.append(at))
    assert calls == [(2, 8), (4, 8), (6, 8), (8, 8)]
