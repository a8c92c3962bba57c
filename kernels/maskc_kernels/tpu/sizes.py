"""The sizes of a call, and its operands brought to whole blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable

__all__ = ["Sizes", "whole_blocks"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of one pass, all static.

    Attributes:
        batch: size of the batch.
        heads: query heads.
        kv_heads: kv heads; they divide heads.
        q_len: queries.
        kv_len: keys.
        block_q: queries per block.
        block_kv: keys per block.
    """

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    block_q: int
    block_kv: int

    @classmethod
    def of(cls, q: jax.Array, k: jax.Array, table: BlockTable) -> Sizes:
        """For q [batch, heads, q_len, _] and k [batch, kv_heads, kv_len, _]."""
        (batch, heads, q_len, _), (_, kv_heads, kv_len, _) = q.shape, k.shape
        return cls(batch, heads, kv_heads, q_len, kv_len, table.block_q, table.block_kv)

    @property
    def group(self) -> int:
        """Query heads per kv head."""
        return self.heads // self.kv_heads

    @property
    def q_blocks(self) -> int:
        """Blocks along the queries."""
        return -(-self.q_len // self.block_q)

    @property
    def kv_blocks(self) -> int:
        """Blocks along the keys."""
        return -(-self.kv_len // self.block_kv)

    def kv_lane(self, lane: jax.Array, member: jax.Array) -> jax.Array:
        """The kv head of a query head, both counted over the batch."""
        del member
        return lane if self.group == 1 else jax.lax.div(lane, jnp.int32(self.group))


def whole_blocks(x: jax.Array, block: int, *, fill: float = 0) -> jax.Array:
    """[batch, heads, length, dim] -> [batch * heads, blocks * block, dim], filled up at the end."""
    batch, heads, length, dim = x.shape
    if ragged := -length % block:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, ragged), (0, 0)), constant_values=fill)
    return x.reshape(batch * heads, length + ragged, dim)
