"""Segment ids that are known at run time: which listed blocks they empty, and which they cut.

Only a plan's mask is compiled. Ids arrive with the data, so per block the device computes the
least and the greatest id, drops a block whose ranges do not meet, and leaves a block alone that
has one and the same id on both sides. Only the rest compares ids pair by pair.
"""

from __future__ import annotations

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
        greatest: int32 [batch, blocks], the greatest; -1 in a block of padding only.
        padded: bool [batch, blocks], some of the block is padding.
    """

    least: jax.Array
    greatest: jax.Array
    padded: jax.Array

    def pick(self, block: jax.Array) -> BlockIds:
        """Those of the blocks [n], as [batch, n] each."""
        return BlockIds(*(field[:, block] for field in self))

    def meets(self, other: BlockIds) -> jax.Array:
        """May there be an id on both sides? bool [batch, n]."""
        return (self.least <= other.greatest) & (other.least <= self.greatest)

    def cuts(self, other: BlockIds) -> jax.Array:
        """May there be a pair of unequal ids? bool [batch, n]."""
        whole = (self.least == other.greatest) & (other.least == self.greatest)
        return ~whole | self.padded | other.padded


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
        q, kv = _whole(q_ids, block_q, _Q_PADDING), _whole(kv_ids, block_kv, _KV_PADDING)
        return cls(q[:, None], kv[:, None], _block_ids(q, block_q), _block_ids(kv, block_kv))

    @property
    def transposed(self) -> Segments:
        """Keys in the place of queries."""
        return Segments(self.kv, self.q, self.kv_blocks, self.q_blocks)


def _whole(ids: jax.Array, block: int, padding: int) -> jax.Array:
    ids = jnp.where(ids < 0, padding, ids.astype(jnp.int32))
    return jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % block)), constant_values=padding)


def _block_ids(ids: jax.Array, block: int) -> BlockIds:
    blocks = ids.reshape(ids.shape[0], -1, block)
    padding = blocks < 0
    least = jnp.where(padding, _NO_ID, blocks).min(2)
    return BlockIds(least, jnp.where(padding, -1, blocks).max(2), padding.any(2))
