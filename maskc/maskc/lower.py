"""Canonical masks -> which blocks are empty, full or partial, and the partial ones.

Exact by construction. A mask in strip form is lowered from its strips, in time that grows with them
and with the blocks found. For any other, `rows.bounds` proves blocks empty or full, and every block
that it cannot decide is evaluated whole, element by element. Nothing of size q_len x kv_len is ever
made, and equal partial blocks are stored once, in the order in which splash attention first meets
them: (mask, q block, kv block).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.block_runs import FULL, MaskBlocks
from maskc.blocking import BlockGrid
from maskc.expr import Empty, Full, Mask
from maskc.rows import Grid, allowed, bounds
from maskc.strip_blocks import find_blocks
from maskc.strip_leaves import strips_of
from maskc.strips import Strips

__all__ = ["Progress", "lower"]

Progress = Callable[[int, int], None]
"""Called with (rows of blocks done, rows of blocks in all)."""

_GRID_CELLS = 1 << 22  # blocks classified at a time: some tens of MB of temporaries
_ELEMENTS = 1 << 22  # elements evaluated at a time: 32 MB of positions
_EMPTY = -2

_Ints = npt.NDArray[Any]


def lower(
    masks: Sequence[Mask], blocking: BlockGrid, progress: Progress = lambda _done, _total: None
) -> MaskBlocks:
    """The blocks of canonical `masks`, one after the other, with q blocks as rows.

    Args:
        masks: the unique masks, each canonical for the blocking's lengths.
        blocking: lengths and block sizes; lengths need not be multiples of the blocks.
        progress: called as the work advances.
    """
    total = len(masks) * blocking.nq
    forms = [_strips(mask, blocking) for mask in masks]
    strips = [form for form in forms if form is not None]
    if len(strips) == len(masks):
        blocks = find_blocks(strips, blocking.block_q, blocking.block_kv)
        progress(total, total)
        return blocks
    parts = []
    for number, (mask, form) in enumerate(zip(masks, forms, strict=True), 1):
        if form is not None:
            parts.append(find_blocks([form], blocking.block_q, blocking.block_kv))
        else:
            parts.append(evaluate_blocks(mask, blocking))
        progress(number * blocking.nq, total)
    return parts[0] if len(parts) == 1 else _joined(parts)


def _strips(mask: Mask, blocking: BlockGrid) -> Strips | None:
    if isinstance(mask, Full | Empty):  # these have names of their own as canonical forms
        return strips_of(mask, (blocking.q_len, blocking.kv_len))
    return mask if isinstance(mask, Strips) else None


def _joined(parts: Sequence[MaskBlocks]) -> MaskBlocks:
    """The blocks of several masks with one bank of partial ones, compared by content."""
    numbers: dict[bytes, int] = {}
    ptrs, runs = [np.zeros(1, np.int64)], []
    for part in parts:
        known = [numbers.setdefault(bits.tobytes(), len(numbers)) for bits in part.bits]
        renumbered, partial = part.runs.copy(), part.runs[:, 2] >= 0
        renumbered[partial, 2] = np.array(known, np.int32)[part.runs[partial, 2]]
        runs.append(renumbered)
        ptrs.append(part.ptr[1:] + ptrs[-1][-1])
    bits = np.frombuffer(b"".join(numbers), np.uint8).reshape(-1, *parts[0].bits.shape[1:])
    return MaskBlocks(np.concatenate(ptrs), np.concatenate(runs), bits)


def evaluate_blocks(mask: Mask, blocking: BlockGrid) -> MaskBlocks:
    """The blocks of a mask without strip form."""
    bank: dict[bytes, int] = {}
    ptrs, runs = [np.zeros(1, np.int64)], []
    step = max(1, _GRID_CELLS // blocking.nk)
    for row in range(0, blocking.nq, step):
        rows = np.arange(row, min(row + step, blocking.nq), dtype=np.int64)
        numbers = _numbers(mask, rows, blocking, bank)
        edges = np.ones((len(rows), blocking.nk), np.bool_)
        edges[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        line, start = np.nonzero(edges)
        stop = np.append(start[1:], 0)
        stop[stop == 0] = blocking.nk
        number = numbers[line, start]
        some = number != _EMPTY
        runs.append(np.stack([start, stop, number], axis=1)[some].astype(np.int32))
        counts = np.bincount(line[some], minlength=len(rows))
        ptrs.append(ptrs[-1][-1] + counts.cumsum())
    shape = (-1, blocking.block_q, -(-blocking.block_kv // 8))
    bits = np.frombuffer(b"".join(bank), np.uint8).reshape(shape)
    return MaskBlocks(np.concatenate(ptrs), np.concatenate(runs), bits)


def _numbers(mask: Mask, rows: _Ints, blocking: BlockGrid, bank: dict[bytes, int]) -> _Ints:
    grid = Grid.of(
        rows * blocking.block_q,
        blocking.block_q,
        blocking.q_len,
        blocking.nk,
        blocking.block_kv,
        blocking.kv_len,
    )
    some, every = bounds(mask, grid)
    whole_q = grid.q[1] - grid.q[0] + 1 == blocking.block_q
    whole_kv = grid.kv[1] - grid.kv[0] + 1 == blocking.block_kv
    full = every & whole_q & whole_kv
    numbers = np.where(full, FULL, _EMPTY)
    unknown = np.argwhere(some & ~full)
    elements = blocking.block_q * blocking.block_kv
    batch = max(1, _ELEMENTS // elements)
    for start in range(0, len(unknown), batch):
        at = unknown[start : start + batch]
        blocks = _evaluate(mask, at + np.array([rows[0], 0]), blocking)
        counts = np.count_nonzero(blocks, axis=(1, 2))
        packed = np.packbits(blocks, axis=2, bitorder="little")
        for (i, j), count, bits in zip(at.tolist(), counts.tolist(), packed, strict=True):
            if count == elements:
                numbers[i, j] = FULL
            elif count:
                numbers[i, j] = bank.setdefault(bits.tobytes(), len(bank))
    return numbers


def _evaluate(mask: Mask, at: _Ints, blocking: BlockGrid) -> npt.NDArray[np.bool_]:
    """Whole blocks as bool [n, block_q, block_kv]; False beyond the lengths."""
    q = at[:, 0, None, None] * blocking.block_q + np.arange(blocking.block_q)[:, None]
    kv = at[:, 1, None, None] * blocking.block_kv + np.arange(blocking.block_kv)
    inside = (q < blocking.q_len) & (kv < blocking.kv_len)
    value = allowed(mask, np.minimum(q, blocking.q_len - 1), np.minimum(kv, blocking.kv_len - 1))
    return value & inside
