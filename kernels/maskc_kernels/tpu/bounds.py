"""Row bounds as a TPU applies them: one interval per row, in VMEM beside the row's operands.

A plan whose rows have one interval each needs no stored block on that side: a partial block
compares the numbers of its columns with the two ends of the row's interval. That takes the cycles
that bits take, and fetches nothing per block. Of two intervals per row the comparisons cost more
than the bits do, so those rows keep their bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import TableArray

__all__ = ["ENDS", "Bounds", "Partial", "row_bounds"]

ENDS = 2
"""Numbers per row: where its interval starts, and where it stops."""


class Bounds(NamedTuple):
    """The interval of every row.

    Attributes:
        ends: int32 [1 or heads, 2, rows], in whole blocks; one for all heads if they have one
            mask. Row `r` attends column `c` iff `ends[h, 0, r] <= c < ends[h, 1, r]`.
    """

    ends: jax.Array


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
    if bounds is None or bounds.shape[1] != ENDS:
        return None
    # Rows that fill up the last block attend nothing: [0, 0).
    ends = jnp.pad(jnp.asarray(bounds), ((0, 0), (0, 0), (0, -bounds.shape[2] % block)))
    return Bounds(ends if ends.shape[0] == 1 else ends[head_mask])
