"""Pictures of a plan's blocks, drawn from its lists, never from the mask's elements."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maskc_cache.plan import Plan, blocks_along

__all__ = ["LEGEND", "block_shares", "render_block_map"]

LEGEND = "· empty   ░ sparse   ▒ half   ▓ dense   ▚ partial blocks only   █ full"


def block_shares(
    plan: Plan, head: int = 0, *, width: int = 64, height: int = 32
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The forward block grid of one head, reduced to at most `height` x `width` cells.

    Returns:
        Shares of full and of partial blocks in each cell, float64 [rows, columns] in 0 to 1.

    Raises:
        IndexError: `head` is not one of the plan's heads.
    """
    lists = plan.fwd
    nq, nk = plan.grid("fwd")
    step_q, step_k = blocks_along(nq, height), blocks_along(nk, width)
    shape = blocks_along(nq, step_q), blocks_along(nk, step_k)
    first = int(plan.head_mask[head]) * nq

    def counts(
        ptr: npt.NDArray[np.signedinteger], idx: npt.NDArray[np.signedinteger]
    ) -> npt.NDArray[np.int64]:
        own = ptr[first : first + nq + 1]
        row = np.repeat(np.arange(nq), np.diff(own)) // step_q
        column = idx[own[0] : own[-1]].astype(np.int64) // step_k
        return np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)

    in_row = np.minimum(step_q, nq - step_q * np.arange(shape[0]))
    in_column = np.minimum(step_k, nk - step_k * np.arange(shape[1]))
    cells = in_row[:, None] * in_column
    full = counts(lists.full_ptr, lists.full_idx) / cells
    return full, counts(lists.partial_ptr, lists.partial_idx) / cells


def render_block_map(plan: Plan, head: int = 0, *, width: int = 64, height: int = 32) -> str:
    """The block map of one head as text: queries downwards, keys to the right."""
    full, partial = block_shares(plan, head, width=width, height=height)
    busy = full + partial
    shades = np.array(list("·░▒▓█"))
    level = np.clip(np.ceil(busy * 4).astype(int), 0, 4)
    level = np.where((level == 4) & (full < 1), 3, level)
    cells = shades[level]
    cells[(partial == 1) & (full == 0)] = "▚"
    return "\n".join("".join(row) for row in cells)
