"""The blocking of a mask: how its elements are cut into blocks."""

from __future__ import annotations

from typing import NamedTuple

from maskc_cache.plan import blocks_along

__all__ = ["BlockGrid"]


class BlockGrid(NamedTuple):
    """The blocking of one mask: lengths and block sizes.

    Attributes:
        q_len: number of queries.
        kv_len: number of keys.
        block_q: queries per block.
        block_kv: keys per block.
    """

    q_len: int
    kv_len: int
    block_q: int
    block_kv: int

    @property
    def nq(self) -> int:
        """Blocks along the queries."""
        return blocks_along(self.q_len, self.block_q)

    @property
    def nk(self) -> int:
        """Blocks along the keys."""
        return blocks_along(self.kv_len, self.block_kv)

    @property
    def width(self) -> int:
        """Bytes of one row of a block, one bit per key."""
        return -(-self.block_kv // 8)

    @property
    def transposed(self) -> BlockGrid:
        """The same blocks with queries and keys swapped."""
        return BlockGrid(self.kv_len, self.q_len, self.block_kv, self.block_q)
