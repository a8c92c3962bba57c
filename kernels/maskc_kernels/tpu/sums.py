"""Sums that belong to blocks of the other side (dq, on a walk along keys): added to in HBM.

A block's sums come with its operands, and go back when the walk leaves it. They have three
buffers: one that is added to, one on its way here and one on its way back, which has all of a step
to land before its buffer is wanted. Sums that are wanted while they leave are waited for. One core
does all steps of a lane, and no other lane has its sums: they are added up in the list's order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

if TYPE_CHECKING:
    from maskc_kernels.tpu.passes import Tiles
    from maskc_kernels.tpu.stream import Buffers

__all__ = ["SLOTS", "Leaving", "Sums", "next_slot"]

SLOTS = 3
"""Buffers of every column operand of a pass with sums."""


def next_slot(slot: jax.Array) -> jax.Array:
    """The buffer that is used after `slot`."""
    return jnp.where(slot == SLOTS - 1, 0, slot + 1)


class Leaving(NamedTuple):
    """Which sums are on their way back: int32 scalars.

    Attributes:
        key: the block and member before the latest, -1 if there was none.
        stores: how many may not have landed, 0 to 2; the last is that of `key`.
    """

    key: jax.Array
    stores: jax.Array

    @classmethod
    def none(cls) -> Leaving:
        """At the beginning."""
        return cls(jnp.int32(-1), jnp.int32(0))

    def after(self, new: jax.Array, key: jax.Array, left: jax.Array) -> Leaving:
        """After a step's end.

        Args:
            new: bool [], the next step has other sums.
            key: which.
            left: which are left then; -1 if none.
        """
        landed = jnp.where(self.key == key, 0, jnp.minimum(self.stores, 1))
        stores = landed + (left >= 0).astype(jnp.int32)
        return Leaving(jnp.where(new, left, self.key), jnp.where(new, stores, self.stores))


class Sums(NamedTuple):
    """The sums of a pass, in the kernel.

    Attributes:
        parts: how each is cut, and its three buffers, whose HBM is a result of the pass.
        lane: of the pass.
        members: of the pass; a key is block * members + member.
    """

    parts: list[tuple[Tiles, Buffers]]
    lane: jax.Array
    members: int

    def store_left(self, coming: jax.Array, slot: jax.Array, leaving: Leaving) -> None:
        """Send back what was left for what is in `slot`, if that is new."""

        @pl.when((coming != 0) & (leaving.key >= 0))
        def _() -> None:
            for copy in self._copies(next_slot(next_slot(slot)), leaving.key):
                copy.start()

    def store(self, slot: jax.Array, key: jax.Array) -> None:
        """Send back what was added up, if anything was."""

        @pl.when(key >= 0)
        def _() -> None:
            for copy in self._copies(slot, key):
                copy.start()

    def make_room(self, new: jax.Array, slot: jax.Array, key: jax.Array, leaving: Leaving) -> None:
        """Before sums are sent for: wait for those of their buffer, and for themselves.

        Args:
            new: bool [], they are.
            slot: their buffer, which had the sums before those that are leaving last.
            key: which they are.
            leaving: as it was before.
        """
        pl.when(new & (leaving.stores == 2))(lambda: self._wait(slot))
        pl.when(new & (leaving.key == key))(lambda: self._wait(next_slot(slot)))

    def finish(self, slot: jax.Array, key: jax.Array, leaving: Leaving) -> None:
        """Send back the last sums, and wait until all have landed."""
        self.store(slot, key)
        pl.when(leaving.stores == 2)(lambda: self._wait(next_slot(slot)))
        pl.when(leaving.stores >= 1)(lambda: self._wait(next_slot(next_slot(slot))))
        pl.when(key >= 0)(lambda: self._wait(slot))

    def _wait(self, slot: jax.Array) -> None:
        for _, buffers in self.parts:
            buffers.wait(slot)

    def _copies(self, slot: jax.Array, key: jax.Array) -> list[Any]:
        """The transfers of one block's sums to HBM."""
        col, member = key, jnp.int32(0)
        if self.members > 1:
            members = jnp.int32(self.members)
            col, member = jax.lax.div(key, members), jax.lax.rem(key, members)
        tiles = [tiles for tiles, _ in self.parts]
        where = tiles[0].where(tiles, self.lane, member, col)
        pairs = zip(self.parts, where, strict=True)
        return [buffers.store(slot, *at) for (_, buffers), at in pairs]
