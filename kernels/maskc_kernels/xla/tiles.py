"""How heads and sequences are cut into tiles, so that one loop serves every mask layout.

If all heads share one mask, they are computed together: batch and kv heads are one vectorised axis
and the query heads of a kv head are folded into the rows of its tile, so K and V are never
repeated. If masks differ between heads, every head is a lane of its own and the loop runs over
lanes; its size in HLO stays the same. Likewise every batch row is a lane of its own if the lists
differ between batch rows, as they do with segment ids. A tile is [vectors, rows, dim].
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

    A lane is `batch lane * q_lanes + head lane`, for keys `batch lane * kv_lanes + head lane`.

    Attributes:
        batch: size of the batch.
        batch_lanes: batch rows that the loop visits one by one; 1 if all share the lists.
        masks: unique masks in the lists of one batch row.
        q_lanes: query heads that the loop visits one by one; 1 if all share one mask.
        kv_lanes: kv heads that the loop visits one by one; 1 if all share one mask.
        vectors: kv heads of one tile.
        group: query heads folded into one tile.
        q_len: number of queries.
        kv_len: number of keys.
        block_q: queries per block.
        block_kv: keys per block.
    """

    batch: int
    batch_lanes: int
    masks: int
    q_lanes: int
    kv_lanes: int
    vectors: int
    group: int
    q_len: int
    kv_len: int
    block_q: int
    block_kv: int

    @classmethod
    def of(
        cls, q: jax.Array, k: jax.Array, table: BlockTable, *, rows: str, batch_lanes: int = 1
    ) -> Tiling:
        """The tiling for q [batch, heads, q_len, _] and k [batch, kv_heads, kv_len, _].

        Args:
            q: the queries.
            k: the keys.
            table: lists of the pass, for each batch lane one after the other.
            rows: "q" or "kv", the side that the rows of `table` stand for.
            batch_lanes: 1, or the size of the batch.
        """
        (batch, heads, q_len, _), (_, kv_heads, kv_len, _) = q.shape, k.shape
        length, block = (q_len, table.block_q) if rows == "q" else (kv_len, table.block_kv)
        masks = table.masks(-(-length // block)) // batch_lanes
        shared = masks == 1
        return cls(
            batch=batch,
            batch_lanes=batch_lanes,
            masks=masks,
            q_lanes=1 if shared else heads,
            kv_lanes=1 if shared else kv_heads,
            vectors=kv_heads if shared else 1,
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

    @property
    def in_tile(self) -> tuple[int, int, int]:
        """Batch rows, kv heads and query heads of one kv head that a q tile holds."""
        return self.batch // self.batch_lanes, self.vectors, self.group

    def split(self, lane: jax.Array) -> tuple[jax.Array | int, jax.Array]:
        """Batch lane and head lane of a lane of queries."""
        return (0, lane) if self.batch_lanes == 1 else divmod_index(lane, self.q_lanes)

    def listed(self, head_mask: jax.Array, lane: jax.Array, rows: int, row: jax.Array) -> jax.Array:
        """Which row of the lists a lane of queries follows.

        Args:
            head_mask: int32 [heads], which unique mask each head uses.
            lane: of queries.
            rows: of one mask in the lists.
            row: among those.
        """
        batch, head = self.split(lane)
        mask = take(head_mask, head)
        return (mask if self.batch_lanes == 1 else batch * self.masks + mask) * rows + row

    def cut_q(self, x: jax.Array) -> jax.Array:
        """[batch, heads, q_len, dim] -> [q lanes * nq, vectors, group * block_q, dim]."""
        return self._cut(x, self.q_lanes, self.group, self.nq, self.block_q)

    def cut_kv(self, x: jax.Array) -> jax.Array:
        """[batch, kv_heads, kv_len, dim] -> [kv lanes * nk, vectors, block_kv, dim]."""
        return self._cut(x, self.kv_lanes, 1, self.nk, self.block_kv)

    def join_q(self, tiles: jax.Array) -> jax.Array:
        """The inverse of `cut_q`."""
        return self._join(tiles, self.q_lanes, self.group, self.nq)[:, :, : self.q_len]

    def join_kv(self, tiles: jax.Array) -> jax.Array:
        """The inverse of `cut_kv`."""
        return self._join(tiles, self.kv_lanes, 1, self.nk)[:, :, : self.kv_len]

    def _cut(self, x: jax.Array, lanes: int, group: int, blocks: int, block: int) -> jax.Array:
        _, heads, length, dim = x.shape
        if ragged := blocks * block - length:
            x = jnp.pad(x, ((0, 0), (0, 0), (0, ragged), (0, 0)))
        in_tile = self.batch // self.batch_lanes
        vectors = heads // (lanes * group)
        x = x.reshape(self.batch_lanes, in_tile, lanes, vectors, group, blocks, block, dim)
        x = x.transpose(0, 2, 5, 1, 3, 4, 6, 7)
        shape = (self.batch_lanes * lanes * blocks, in_tile * vectors, group * block, dim)
        return x.reshape(shape)

    def _join(self, tiles: jax.Array, lanes: int, group: int, blocks: int) -> jax.Array:
        _, columns, rows, dim = tiles.shape
        in_tile = self.batch // self.batch_lanes
        vectors, block = columns // in_tile if in_tile else 0, rows // group
        x = tiles.reshape(self.batch_lanes, lanes, blocks, in_tile, vectors, group, block, dim)
        x = x.transpose(0, 3, 1, 4, 5, 2, 6, 7)
        return x.reshape(self.batch, lanes * vectors * group, blocks * block, dim)


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
