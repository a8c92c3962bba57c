"""How heads and sequences are cut into tiles, so that one loop serves every mask layout.

If all heads share one mask, they are computed together: batch and kv heads are one vectorised axis
and the query heads of a kv head are folded into the rows of its tile, so K and V are never
repeated. If masks differ between heads, every head is a lane of its own and the loop runs over
lanes; its size in HLO stays the same. A tile is [vectors, rows, dim].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable

__all__ = ["Tiling", "divmod_index", "dot", "take"]


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sizes of one pass, all static.

    Attributes:
        batch: size of the batch.
        q_lanes: query heads that the loop visits one by one; 1 if all share one mask.
        kv_lanes: kv heads that the loop visits one by one; 1 if all share one mask.
        group: query heads folded into one tile.
        q_len: number of queries.
        kv_len: number of keys.
        block_q: queries per block.
        block_kv: keys per block.
    """

    batch: int
    q_lanes: int
    kv_lanes: int
    group: int
    q_len: int
    kv_len: int
    block_q: int
    block_kv: int

    @classmethod
    def of(cls, q: jax.Array, k: jax.Array, table: BlockTable, *, rows: str) -> Tiling:
        """The tiling for q [batch, heads, q_len, _] and k [batch, kv_heads, kv_len, _].

        Args:
            q: the queries.
            k: the keys.
            table: lists of the pass.
            rows: "q" or "kv", the side that the rows of `table` stand for.
        """
        (batch, heads, q_len, _), (_, kv_heads, kv_len, _) = q.shape, k.shape
        length, block = (q_len, table.block_q) if rows == "q" else (kv_len, table.block_kv)
        shared = table.masks(-(-length // block)) == 1
        return cls(
            batch=batch,
            q_lanes=1 if shared else heads,
            kv_lanes=1 if shared else kv_heads,
            group=heads // kv_heads if shared else 1,
            q_len=q_len,
            kv_len=kv_len,
            block_q=table.block_q,
            block_kv=table.block_kv,
        )

    @property
    def nq(self) -> int:
        """Blocks along the queries."""
        return -(-self.q_len // self.block_q)

    @property
    def nk(self) -> int:
        """Blocks along the keys."""
        return -(-self.kv_len // self.block_kv)

    @property
    def members(self) -> int:
        """Query lanes of one kv lane."""
        return self.q_lanes // self.kv_lanes

    def cut_q(self, x: jax.Array) -> jax.Array:
        """[batch, heads, q_len, dim] -> [q_lanes * nq, vectors, group * block_q, dim]."""
        return _cut(x, self.q_lanes, self.group, self.nq, self.block_q)

    def cut_kv(self, x: jax.Array) -> jax.Array:
        """[batch, kv_heads, kv_len, dim] -> [kv_lanes * nk, vectors, block_kv, dim]."""
        return _cut(x, self.kv_lanes, 1, self.nk, self.block_kv)

    def join_q(self, tiles: jax.Array) -> jax.Array:
        """The inverse of `cut_q`."""
        return _join(tiles, self.batch, self.q_lanes, self.group, self.nq)[:, :, : self.q_len]

    def join_kv(self, tiles: jax.Array) -> jax.Array:
        """The inverse of `cut_kv`."""
        return _join(tiles, self.batch, self.kv_lanes, 1, self.nk)[:, :, : self.kv_len]


def _cut(x: jax.Array, lanes: int, group: int, blocks: int, block: int) -> jax.Array:
    batch, heads, length, dim = x.shape
    if ragged := blocks * block - length:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, ragged), (0, 0)))
    vectors = heads // (lanes * group)
    x = x.reshape(batch, lanes, vectors, group, blocks, block, dim)
    x = x.transpose(1, 4, 0, 2, 3, 5, 6)
    return x.reshape(lanes * blocks, batch * vectors, group * block, dim)


def _join(tiles: jax.Array, batch: int, lanes: int, group: int, blocks: int) -> jax.Array:
    _, columns, rows, dim = tiles.shape
    vectors, block = columns // batch if batch else 0, rows // group
    x = tiles.reshape(lanes, blocks, batch, vectors, group, block, dim)
    x = x.transpose(2, 0, 3, 4, 1, 5, 6)
    return x.reshape(batch, lanes * vectors * group, blocks * block, dim)


def take(array: jax.Array, index: jax.Array) -> jax.Array:
    """`array[index]` for one traced index that is known to be in range."""
    taken: jax.Array = jax.lax.dynamic_index_in_dim(
        array, index, keepdims=False, allow_negative_indices=False
    )
    return taken


def divmod_index(index: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """`divmod(index, size)` for an index that is not negative; Python's rule costs twice that."""
    divisor = jnp.asarray(size, index.dtype)
    return jax.lax.div(index, divisor), jax.lax.rem(index, divisor)


def dot(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """One matrix product per vector of two tiles.

    Args:
        x: [vectors, a, b].
        y: [vectors, c, d].
        contract: which axis of x meets which axis of y; each 1 or 2.

    Returns:
        [vectors, the other axis of x, the other axis of y], at full precision: some devices
        would multiply float32 with far fewer bits by default.
    """
    axes = (((contract[0],), (contract[1],)), ((0,), (0,)))
    return jax.lax.dot_general(x, y, axes, precision=jax.lax.Precision.HIGHEST)
