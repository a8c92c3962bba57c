"""Partial blocks by what they hold: the tiles of a block in which nobody attends are not computed.

A block that a mask's edge crosses may hold little: half a diagonal block is empty. Per partial
block the device finds which tiles are not, and the work list carries them as a set of bits. The
kernel has a path for some numbers of tiles. Each is written out without branches, so that the
compiler orders all its work together, and finds its tiles in a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.experimental import pallas as pl

from maskc_kernels.tpu.bits import ROWS
from maskc_kernels.tpu.config import Tile

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray
    from maskc_kernels.tpu.config import Cut, Span

__all__ = ["Paths"]

_MOST = 8
_DIGIT = 3  # bits of a tile's number


class Paths(NamedTuple):
    """The tiles of a block, and the paths that there are; static.

    Tiles are counted along a column of tiles first, as `Cut.tiles` does.

    Attributes:
        height: rows of a tile.
        width: its columns.
        down: tiles in a column of tiles.
        counts: how many tiles each path computes, ascending; the last computes all.
    """

    height: int
    width: int
    down: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, cut: Cut, rows: int, columns: int) -> Paths | None:
        """For blocks of that size; None if they have too few or too many tiles."""
        height, width = cut.shape(rows, columns)
        tiles = rows // height * (columns // width)
        if not 4 <= tiles <= _MOST or (rows > height and height % ROWS):
            return None
        some = range(tiles // 2, tiles, 2)
        return cls(height, width, rows // height, (*some, tiles))

    @property
    def tiles(self) -> int:
        """How many tiles a block has."""
        return self.counts[-1]

    @property
    def _down_bits(self) -> int:
        return (self.down - 1).bit_length()

    def held(self, blocks: TableArray) -> jax.Array:
        """Which tiles are not empty.

        Args:
            blocks: uint8 [unique, rows, columns / 8], bits along columns.

        Returns:
            int32 [unique], bit `t` set if somebody attends in tile `t`.
        """
        across = self.tiles // self.down
        parts = jnp.asarray(blocks).reshape(-1, self.down, self.height, across, self.width // 8)
        found = (parts != 0).any((2, 4)).astype(jnp.int32)
        return (found << np.arange(self.tiles, dtype=np.int32).reshape(across, -1).T).sum((1, 2))

    def numbers(self, table: BlockTable) -> jax.Array:
        """What a work list has in the place of a table's partial ids: those, and what is held."""
        ids = jnp.asarray(table.partial_id).astype(jnp.int32)
        return ids << self.tiles | self.held(table.partial_blocks).at[ids].get(
            mode="promise_in_bounds", wrap_negative_indices=False
        )

    def table(self) -> npt.NDArray[np.int32]:
        """For every set of tiles, its path and what that computes: int32 [2 ** tiles].

        The lowest digits are tiles, those of the set first; the one above is the number of the
        path. A path for more tiles than the set has computes empty ones.
        """
        sets = np.arange(1 << self.tiles)
        held = sets[:, None] >> np.arange(self.tiles) & 1
        order = np.argsort(-held, axis=1, kind="stable")
        path = np.searchsorted(self.counts, held.sum(1))
        order = order % self.down | order // self.down << self._down_bits
        digits = np.concatenate([order, path[:, None]], axis=1)
        shifts = _DIGIT * np.arange(self.tiles + 1)
        entries: npt.NDArray[np.int32] = (digits << shifts).sum(1).astype(np.int32)
        return entries

    def path(self, entry: jax.Array) -> jax.Array:
        """The path that an entry of the table names."""
        return jax.lax.shift_right_logical(entry, jnp.int32(_DIGIT * self.tiles))

    def chosen(self, entry: jax.Array, count: int) -> list[Tile]:
        """The first tiles that an entry of the table names."""
        tiles = []
        for place in range(count):
            bits = self._down_bits
            digit = jax.lax.shift_right_logical(entry, jnp.int32(_DIGIT * place))
            down = digit & jnp.int32((1 << bits) - 1)
            along = jax.lax.shift_right_logical(digit & jnp.int32(7), jnp.int32(bits))
            tiles.append(Tile(_span(down, self.height), _span(along, self.width)))
        return tiles


def _span(number: jax.Array, size: int) -> Span:
    return pl.ds(pl.multiple_of(number * size, size), size)
