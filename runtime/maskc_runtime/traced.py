"""Plans without an identity: built on a device, cut into shards, or stacked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp

from maskc_kernels.tables import AttentionTables, BlockTable

__all__ = ["TracedPlan"]

_ARRAYS = tuple(entry.name for entry in fields(BlockTable)[2:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TracedPlan:
    """What attention needs of a plan, with tables that may be anything that JAX computes with.

    As a pytree its leaves are the arrays of the tables, each once even where several passes share
    it, and the rest is static. So plans of equal shapes share one trace, whatever their masks:
    `jax.lax.scan` over a stack of them, `shard_map` over shards, `jax.jit` of one that is built
    anew for every batch.

    Attributes:
        name: what error messages call it.
        q_len: queries that one plan covers.
        kv_len: keys that it covers.
        heads: query heads that it covers.
        blocks: `(block_q, block_kv)` of the fwd, dq and dkv passes.
        wiring: for each pass, which of `arrays` is which array of its block lists.
        arrays: the mask of every head first, then the lists; behind the axes of a stack.
    """

    name: str = field(metadata={"static": True})
    q_len: int = field(metadata={"static": True})
    kv_len: int = field(metadata={"static": True})
    heads: int = field(metadata={"static": True})
    blocks: tuple[tuple[int, int], ...] = field(metadata={"static": True})
    wiring: tuple[tuple[int, ...], ...] = field(metadata={"static": True})
    arrays: tuple[Any, ...]

    @classmethod
    def of(
        cls, name: str, q_len: int, kv_len: int, heads: int, tables: AttentionTables
    ) -> TracedPlan:
        """A plan of these tables; an array that is in them more than once is held once."""
        passes = tables.fwd, tables.dq, tables.dkv
        arrays = {id(tables.head_mask): tables.head_mask}
        for table in passes:
            arrays |= {id(array): array for array in (getattr(table, n) for n in _ARRAYS)}
        number = {key: index for index, key in enumerate(arrays)}
        return cls(
            name,
            q_len,
            kv_len,
            heads,
            tuple((table.block_q, table.block_kv) for table in passes),
            tuple(tuple(number[id(getattr(table, n))] for n in _ARRAYS) for table in passes),
            tuple(arrays.values()),
        )

    @property
    def tables(self) -> AttentionTables:
        """What the kernels read, over the same arrays."""
        fwd, dq, dkv = (
            BlockTable(*blocks, *(self.arrays[index] for index in wires))
            for blocks, wires in zip(self.blocks, self.wiring, strict=True)
        )
        return AttentionTables(self.arrays[0], fwd, dq, dkv)

    @property
    def stacked(self) -> tuple[int, ...]:
        """The leading axes of the arrays: () for a plan that attention can take."""
        return tuple(self.arrays[0].shape[:-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self.arrays)

    def __getitem__(self, index: int | jax.Array | tuple[int | jax.Array, ...]) -> TracedPlan:
        """One plan of a stack, by a number that may be traced."""
        one: TracedPlan = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], self)
        return one

    def __repr__(self) -> str:
        stacked = f" stacked={list(self.stacked)}" if self.stacked else ""
        sizes = f"q_len={self.q_len} kv_len={self.kv_len} heads={self.heads}"
        return f"<TracedPlan {self.name}: {sizes}{stacked}>"
