"""Row bounds as a TPU applies them: one interval per row, in VMEM beside the row's operands.

A plan whose rows have one interval each needs no stored block on that side: a partial block
asks of every column whether it is in the row's interval. That takes 1 to 3% more cycles than bits
do, and fetches nothing per block. Two intervals per row take a tenth more or worse, so such rows
keep their bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import TableArray

__all__ = ["NUMBERS", "Bounds", "Partial", "row_bounds"]

NUMBERS = 2
"""Numbers per row: where its interval starts, and how long it is."""


class Bounds(NamedTuple):
    """The interval of every row.

    Attributes:
        spans: int32 [1 or heads, 2, rows], in whole blocks; one for all heads if they have one
            mask. Row `r` attends column `c` iff `c - spans[h, 0, r]` is in `[0, spans[h, 1, r])`.
    """

    spans: jax.Array


Partial: TypeAlias = jax.Array | Bounds
"""What restricts partial blocks: words of `bits.mask_words`, or bounds."""


def row_bounds(bounds: TableArray | None, head_mask: jax.Array, block: int) -> Bounds | None:
    """A plan's bounds of one side, for the kernel whose rows they are.

    Args:
        bounds: int32 [masks, 2 * intervals, rows] of the plan, or None.
        head_mask: int32 [heads], which mask each head uses.
        block: rows per block.

    Returns:
        None if the plan has none there, or more than one interval in a row.
    """
    if bounds is None or bounds.shape[1] != NUMBERS:
        return None
    start, stop = jnp.asarray(bounds).swapaxes(0, 1)
    spans = jnp.stack([start, stop - start], axis=1)
    # Rows that fill up the last block attend nothing.
    spans = jnp.pad(spans, ((0, 0), (0, 0), (0, -spans.shape[2] % block)))
    return Bounds(spans if spans.shape[0] == 1 else spans[head_mask])
