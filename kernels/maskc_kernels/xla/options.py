"""What may be asked of the kernels besides the mask: segment ids, a soft cap, sinks, a bias."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from maskc_kernels.compact import overlapping

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable
    from maskc_kernels.xla.tiles import Tiling

__all__ = ["NO_OPTIONS", "Options", "id_ranges", "id_tiles", "pad_ids"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """The options of one call, as a pytree. None is "not used", and costs nothing.

    Attributes:
        q_segment_ids: int32 [batch, q_len]; a query attends only keys of its own id, and with a
            negative one nothing.
        kv_segment_ids: int32 [batch, kv_len].
        sinks: [heads], a logit that takes weight in the softmax of every query, and has no value.
        bias: [batch or 1, heads or 1, q_len or 1, kv_len], added to the scores.
        logits_soft_cap: static; scores become `cap * tanh(score / cap)`, before the bias.
    """

    q_segment_ids: jax.Array | None = None
    kv_segment_ids: jax.Array | None = None
    sinks: jax.Array | None = None
    bias: jax.Array | None = None
    logits_soft_cap: float | None = field(default=None, metadata={"static": True})

    @property
    def batch_lanes(self) -> int:
        """How many batch rows have lists of their own; 1 if all share them."""
        return 1 if self.q_segment_ids is None else self.q_segment_ids.shape[0]

    def shortened(self, table: BlockTable, *, rows: str) -> BlockTable:
        """The lists of a pass for every batch lane: without the blocks that the ids rule out.

        Args:
            table: the plan's lists.
            rows: "q" or "kv", the side that their rows stand for.
        """
        if self.q_segment_ids is None or self.kv_segment_ids is None:
            return table
        sides = (
            id_ranges(self.q_segment_ids, table.block_q),
            id_ranges(self.kv_segment_ids, table.block_kv),
        )
        return overlapping(table, *(sides if rows == "q" else sides[::-1]))


NO_OPTIONS = Options()
_LARGEST = 2**31 - 1  # of int32


def pad_ids(ids: jax.Array, block: int) -> jax.Array:
    """Ids [batch, length] as blocks [batch, blocks, block], with padding beyond the length."""
    batch, length = ids.shape
    blocks = -(-length // block)
    padded = jnp.pad(ids, ((0, 0), (0, blocks * block - length)), constant_values=-1)
    return padded.reshape(batch, blocks, block)


def id_ranges(ids: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest id of every block, padding left out; each [batch, blocks]."""
    blocks = pad_ids(ids, block)
    least = jnp.where(blocks < 0, _LARGEST, blocks).min(-1)
    return least, jnp.maximum(blocks.max(-1), -1)


def id_tiles(options: Options, tiling: Tiling) -> tuple[jax.Array, jax.Array] | None:
    """Ids of queries [batch * nq, block_q] and keys [batch * nk, block_kv], or None."""
    if options.q_segment_ids is None or options.kv_segment_ids is None:
        return None
    q, kv = (
        pad_ids(ids, block).reshape(-1, block)
        for ids, block in (
            (options.q_segment_ids, tiling.block_q),
            (options.kv_segment_ids, tiling.block_kv),
        )
    )
    return q, kv
