"""Terms with known values -> the mask language, for the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskc.expr import (
    And,
    Blocks,
    Dense,
    Empty,
    Full,
    Intervals,
    Kron,
    Mask,
    MultiHead,
    Or,
    Segments,
    Shift,
    per_batch,
)
from maskc_cache.plan import BlockState, Plan
from maskc_runtime.mask_info.terms import (
    AllOf,
    AnyOf,
    Between,
    Compiled,
    Equal,
    Moved,
    Static,
    Stored,
    Term,
)
from maskc_runtime.mask_info.traced import Array, host

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["batch_mask", "mask_of"]


def batch_mask(term: Term, where: str, batch: int, own_heads: int, heads: int) -> Mask:
    """The mask of all rows and heads, with rows folded into heads if they differ.

    Args:
        term: what to compile.
        where: for errors.
        batch: number of batch rows.
        own_heads: heads that the term tells apart.
        heads: query heads of a batch row.
    """
    rows: list[Mask] = []
    for row in range(batch):
        masks = [mask_of(term, where, row, head) for head in range(own_heads)]
        rows.append(masks[0] if len(set(masks)) == 1 else MultiHead(masks))
    if len(set(rows)) == 1:
        return rows[0]
    return per_batch(rows, heads)


def mask_of(term: Term, where: str, row: int, head: int) -> Mask:
    """The mask of one batch row and head.

    Raises:
        TracedMaskError: a value of the term is traced.
    """

    def at(values: Array, what: str) -> npt.NDArray[Any]:
        known = host(values, where, what)
        return np.asarray(known[row if known.shape[0] > 1 else 0])

    def one_head(values: Array, what: str, rank: int) -> npt.NDArray[Any]:
        known = at(values, what)
        if known.ndim == rank:
            return known
        return np.asarray(known[head if known.shape[0] > 1 else 0])

    match term:
        case AllOf(terms=terms):
            return And(tuple(mask_of(t, where, row, head) for t in terms))
        case AnyOf(terms=terms):
            return Or(tuple(mask_of(t, where, row, head) for t in terms))
        case Between():
            return Intervals(at(term.starts, "offsets"), at(term.stops, "offsets"))
        case Equal():
            ids = (one_head(x, "segment or token type ids", 1) for x in (term.q, term.kv))
            return Segments(*ids)
        case Stored(mask=mask):
            return Dense(one_head(mask, "attention_mask", 2) != 0)
        case Static(masks=masks):
            mask = masks[row if len(masks) > 1 else 0]
            return mask.masks[head] if isinstance(mask, MultiHead) else mask
        case Compiled(plan=plan, batch=batch):
            heads = plan.heads // batch
            place = (row if batch > 1 else 0) * heads + (head if heads > 1 else 0)
            return _plan_mask(plan, int(plan.head_mask[place]))
        case Moved(term=inner):
            inside = mask_of(inner, where, row, head)
            q, kv = (int(at(x, "start indices")) for x in (term.q_start, term.kv_start))
            return Shift(inside, -q, -kv, term.q_len, term.kv_len)
    raise TypeError(f"not a term of a mask: {term!r}")


def _plan_mask(plan: Plan, number: int) -> Mask:
    """One unique mask of a plan, out of its blocks: no array of the size of the mask."""
    lists = plan.fwd
    states, ids = (grid[number] for grid in lists.states(*plan.grid("fwd")))
    if (states == BlockState.FULL).all():
        return Full()
    parts: list[Mask] = []
    if (states == BlockState.FULL).any():
        parts.append(Blocks(states == BlockState.FULL, *lists.blocks))
    blocks = lists.unpacked_blocks()
    for block in np.unique(ids[ids >= 0]).tolist():
        tiles = (None, lists.block_q), (None, lists.block_kv)
        parts.append(Kron((Dense(ids == block), Dense(blocks[block])), *tiles))
    if not parts:
        return Empty()
    return parts[0] if len(parts) == 1 else Or(tuple(parts))
