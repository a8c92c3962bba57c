"""Segment ids that are known at run time: which listed blocks they empty, and which they cut.

Only a plan's mask is compiled. Ids arrive with the data, so per block the device computes the
least and the greatest id, drops a block whose ranges do not meet, and leaves a block alone that
has one and the same id on both sides. Only the rest compares ids pair by pair.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["BlockIds", "Segments"]

_NO_ID = 2**31 - 1
_Q_PADDING, _KV_PADDING = -1, -2  # unequal: padding attends nothing, not even padding


class BlockIds(NamedTuple):
    """The ids of every block of one side.

    Attributes:
        least: int32 [batch, blocks], the least id, padding apart.
        greatest: int32 [batch, blocks], the greatest; negative in a block of padding only.
        only: int32 [batch, blocks], the only id; a negative number, another for keys than for
            queries, if there are several or padding.
    """

    least: jax.Array
    greatest: jax.Array
    only: jax.Array

    def pick(self, block: jax.Array) -> BlockIds:
        """Those of the blocks [n], which exist, as [batch, n] each."""
        return BlockIds(
            *(
                field.at[:, block].get(mode="promise_in_bounds", wrap_negative_indices=False)
                for field in self
            )
        )

    def meets(self, other: BlockIds) -> jax.Array:
        """May there be an id on both sides? bool [batch, n]."""
        return (self.least <= other.greatest) & (other.least <= self.greatest)

    def cuts(self, other: BlockIds) -> jax.Array:
        """May there be a pair of unequal ids? bool [batch, n]."""
        return self.only != other.only


class Segments(NamedTuple):
    """The ids of both sides, in whole blocks.

    Attributes:
        q: int32 [batch, 1, queries], padding -1.
        kv: int32 [batch, 1, keys], padding -2.
        q_blocks: the same per block.
        kv_blocks: the same per block.
    """

    q: jax.Array
    kv: jax.Array
    q_blocks: BlockIds
    kv_blocks: BlockIds

    @classmethod
    def of(cls, q_ids: jax.Array, kv_ids: jax.Array, block_q: int, block_kv: int) -> Segments:
        """From ids [batch, length], negative ones being padding."""
        q, q_blocks = _side(q_ids, _Q_PADDING, block=block_q)
        kv, kv_blocks = _side(kv_ids, _KV_PADDING, block=block_kv)
        return cls(q, kv, q_blocks, kv_blocks)

    @property
    def transposed(self) -> Segments:
        """Keys in the place of queries."""
        return Segments(self.kv, self.q, self.kv_blocks, self.q_blocks)


@functools.partial(jax.jit, static_argnames="block")
def _side(
    ids: jax.Array, padding: jax.typing.ArrayLike, *, block: int
) -> tuple[jax.Array, BlockIds]:
    """One side in whole blocks, [batch, 1, positions]; one function for all passes."""
    ids = ids.astype(jnp.int32)
    ids = jax.lax.select(ids < 0, jnp.broadcast_to(padding, ids.shape), ids)
    if ragged := -ids.shape[1] % block:
        ids = jax.lax.pad(ids, padding, [(0, 0, 0), (0, ragged, 0)])
    blocks = ids.reshape(ids.shape[0], -1, block)
    greatest = blocks.max(2)
    alike = blocks.min(2) == greatest
    only = jax.lax.select(alike, greatest, jnp.broadcast_to(padding, alike.shape))
    # Without sign, padding is greater than all ids.
    least = jax.lax.bitcast_convert_type(blocks, jnp.uint32).min(2)
    least = jnp.minimum(least, _NO_ID).astype(jnp.int32)
    return ids[:, None], BlockIds(least, greatest, only)
