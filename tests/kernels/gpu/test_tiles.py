"""What the kernels share, on its own in the interpreter."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton", reason="the GPU kernels need maskc[gpu]")

import triton.language as tl  # noqa: E402
import triton_interpreter  # noqa: E402

from maskc_kernels.gpu.tiles import keep_mask, load_row_mask  # noqa: E402

MASKS, LENGTH, ROWS = 2, 27, 32


@triton.jit
def keep_kernel(
    bounds,
    head_mask,
    out,
    first: tl.constexpr,
    rows: tl.constexpr,
    length: tl.constexpr,
    columns: tl.constexpr,
    c: tl.constexpr,
):
    head, row = tl.program_id(0), tl.arange(0, rows)
    row_mask = load_row_mask(bounds, head_mask, head, row, row, length, c)
    keep = keep_mask((), 0, 0, first, row_mask, columns, c)
    at = (head * rows + row[:, None]) * columns + tl.arange(0, columns)[None, :]
    tl.store(out + at, keep.to(tl.int16))


@pytest.mark.parametrize("columns", [16, 64, 256])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("intervals", [1, 2])
def test_a_tile_keeps_what_lies_between_bounds(intervals, lanes, columns):
    @settings(max_examples=5)
    @given(st.integers(0, 5), st.integers(0, 2**32))
    def holds(tile, seed):
        rng = np.random.default_rng(seed)
        first = tile * columns
        near = rng.integers(first - 20, first + columns + 20, (MASKS, LENGTH, 2 * intervals))
        far = rng.integers(0, 6 * columns, near.shape)
        ends = np.sort(np.where(rng.random(near.shape) < 0.7, near, far).clip(0), axis=2)
        ends[rng.random((MASKS, LENGTH)) < 0.2] = 0  # rows that attend nothing
        out = triton_interpreter.filler((3, ROWS, columns), np.int16)
        head_mask = np.array([1, 0, 1], np.int32)
        triton_interpreter.interpret(
            keep_kernel,
            (np.ascontiguousarray(ends.swapaxes(1, 2).astype(np.int32)), head_mask, out),
            (3,),
            {"first": first, "rows": ROWS, "length": LENGTH, "columns": columns,
             "c": types.SimpleNamespace(intervals=intervals, row_lanes=lanes)},
        )  # fmt: skip
        at = first + np.arange(columns)
        kept = (ends[:, :, ::2, None] <= at) & (at < ends[:, :, 1::2, None])
        expected = np.pad(kept.any(2), ((0, 0), (0, ROWS - LENGTH), (0, 0)))
        np.testing.assert_array_equal(out, expected[head_mask])

    holds()
