"""Plans without an identity: built on a device, cut into shards, or stacked."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from maskc_kernels.tables import AttentionTables

__all__ = ["TracedPlan"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TracedPlan:
    """What attention needs of a plan, with tables that may be anything that JAX computes with.

    As a pytree its leaves are the tables and the rest is static, so plans of equal shapes share one
    trace, whatever their masks: `jax.lax.scan` over a stack of them, `shard_map` over shards,
    `jax.jit` of one that is built anew for every batch.

    Attributes:
        name: what error messages call it.
        q_len: queries that one plan covers.
        kv_len: keys that it covers.
        heads: query heads that it covers.
        tables: as the kernels read them, behind the axes of a stack.
    """

    name: str = field(metadata={"static": True})
    q_len: int = field(metadata={"static": True})
    kv_len: int = field(metadata={"static": True})
    heads: int = field(metadata={"static": True})
    tables: AttentionTables

    @property
    def stacked(self) -> tuple[int, ...]:
        """The leading axes of the tables: () for a plan that attention can take."""
        return tuple(self.tables.head_mask.shape[:-1])

    def __getitem__(self, index: int | jax.Array | tuple[int | jax.Array, ...]) -> TracedPlan:
        """One plan of a stack, by a number that may be traced."""
        one: TracedPlan = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], self)
        return one

    def __repr__(self) -> str:
        stacked = f" stacked={list(self.stacked)}" if self.stacked else ""
        sizes = f"q_len={self.q_len} kv_len={self.kv_len} heads={self.heads}"
        return f"<TracedPlan {self.name}: {sizes}{stacked}>"
