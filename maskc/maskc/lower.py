"""Canonical masks -> which blocks are empty, full or partial, and the partial ones.

Exact by construction. A mask in strip form is lowered from its strips, in time that grows with them
and with the blocks found; any other is `evaluated`. Nothing of size q_len x kv_len is ever made,
and equal partial blocks are stored once, in the order in which splash attention first meets
them: (mask, q block, kv block).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskc.background import Background
from maskc.block_runs import MaskBlocks
from maskc.blocking import BlockGrid
from maskc.evaluated import Progress, evaluate_blocks
from maskc.expr import Empty, Full, Mask
from maskc.strip_blocks import find_blocks
from maskc.strip_leaves import strips_of
from maskc.strips import Strips

__all__ = ["lower"]


def lower(
    masks: Sequence[Mask],
    blocking: BlockGrid,
    progress: Progress = lambda _done, _total: None,
    background: Background | None = None,
) -> MaskBlocks:
    """The blocks of canonical `masks`, one after the other, with q blocks as rows.

    Args:
        masks: the unique masks, each canonical for the blocking's lengths.
        blocking: lengths and block sizes; lengths need not be multiples of the blocks.
        progress: called as the work advances.
        background: where bits may still be drawn when this returns; None is to wait for them.
    """
    total = len(masks) * blocking.nq
    forms = [_strips(mask, blocking) for mask in masks]
    strips = [form for form in forms if form is not None]
    if len(strips) == len(masks):
        blocks = find_blocks(strips, blocking.block_q, blocking.block_kv, background)
        progress(total, total)
        return blocks
    parts: list[MaskBlocks] = []
    for mask, form in zip(masks, forms, strict=True):
        before = len(parts) * blocking.nq

        def advance(done: int, _total: int, before: int = before) -> None:
            progress(before + done, total)

        if form is not None:
            parts.append(find_blocks([form], blocking.block_q, blocking.block_kv))
            advance(blocking.nq, blocking.nq)
        else:
            parts.append(evaluate_blocks(mask, blocking, advance))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _strips(mask: Mask, blocking: BlockGrid) -> Strips | None:
    if isinstance(mask, Strips):
        return mask
    if isinstance(mask, Full | Empty):  # these have names of their own as canonical forms
        return strips_of(mask, (blocking.q_len, blocking.kv_len))
    return None


def _joined(parts: Sequence[MaskBlocks]) -> MaskBlocks:
    """The blocks of several masks with one bank of partial ones, compared by content."""
    numbers: dict[bytes, int] = {}
    bands, ptrs, runs, lines = [], [np.zeros(1, np.int64)], [], 0
    for part in parts:
        known = [numbers.setdefault(bits.tobytes(), len(numbers)) for bits in part.bits]
        renumbered, partial = part.runs.copy(), part.runs[:, 2] >= 0
        renumbered[partial, 2] = np.array(known, np.int32)[part.runs[partial, 2]]
        rows = sum(len(ptr) for ptr in ptrs) - 1
        bands.append(part.bands + np.array([lines, rows, 0, 0, 0, 0]))
        runs.append(renumbered)
        ptrs.append(part.ptr[1:] + ptrs[-1][-1])
        lines += part.lines
    bits = np.frombuffer(b"".join(numbers), np.uint8).reshape(-1, *parts[0].bits.shape[1:])
    return MaskBlocks(np.concatenate(bands), np.concatenate(ptrs), np.concatenate(runs), bits)
