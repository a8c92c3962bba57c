"""The scores of one block: product, soft cap, bias, mask, in this order, for every pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.xla.options import Options, id_tiles
from maskc_kernels.xla.tiles import Tiling, dot, take
from maskc_kernels.xla.visit import masked

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BlockPlace", "Scorer", "Scores", "bias_window", "padded_bias", "sink_tile"]


class BlockPlace(NamedTuple):
    """Where a block lies.

    Attributes:
        lane: of queries.
        q_block: number along the queries.
        kv_block: number along the keys.
    """

    lane: jax.Array
    q_block: jax.Array
    kv_block: jax.Array


class Scores(NamedTuple):
    """The scores of one block.

    Attributes:
        values: [vectors, rows, block_kv], -inf where the query may not attend.
        share: what tanh gave, for the gradient; None without a soft cap.
    """

    values: jax.Array
    share: jax.Array | None

    def before_cap(self, gradient: jax.Array) -> jax.Array:
        """The gradient of the scores before the soft cap, from that of the values."""
        return gradient if self.share is None else gradient * (1 - self.share**2)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Computes the scores of any block of a call.

    Attributes:
        tiling: of the pass.
        soft_cap: or None.
        ids: from `id_tiles`.
        bias: from `padded_bias`, or None.
    """

    tiling: Tiling
    soft_cap: float | None
    ids: tuple[jax.Array, jax.Array] | None
    bias: jax.Array | None

    @classmethod
    def of(cls, tiling: Tiling, options: Options, dtype: np.dtype[np.floating]) -> Scorer:
        """The scorer of a pass."""
        bias = None if options.bias is None else padded_bias(options.bias, tiling, dtype)
        return cls(tiling, options.logits_soft_cap, id_tiles(options, tiling), bias)

    def __call__(
        self, scaled_q: jax.Array, k_tile: jax.Array, place: BlockPlace, mask: jax.Array | None
    ) -> Scores:
        """The scores of one block.

        Args:
            scaled_q: [vectors, group * block_q, head_dim], times the scale.
            k_tile: [vectors, block_kv, head_dim].
            place: of the block.
            mask: bool [block_q, block_kv], or None for a full block.
        """
        values, share = dot(scaled_q, k_tile, (2, 2)), None
        if self.soft_cap is not None:
            share = jnp.tanh(values / self.soft_cap)
            values = self.soft_cap * share
        if self.bias is not None:
            values = self._biased(values, self.bias, place)
        return Scores(masked(values, self._allowed(place, mask)), share)

    def _biased(self, values: jax.Array, bias: jax.Array, place: BlockPlace) -> jax.Array:
        start, size = bias_window(bias.shape, self.tiling, place)
        tile = jax.lax.dynamic_slice(bias, start, size)
        in_tile = self.tiling.in_tile
        heads = in_tile[1:] if size[1] > 1 else (1, 1)
        tile = tile.reshape(size[0], *heads, *size[2:])
        folded = values.reshape(*in_tile, self.tiling.block_q, self.tiling.block_kv)
        return (folded + tile).reshape(values.shape)

    def _allowed(self, place: BlockPlace, mask: jax.Array | None) -> jax.Array | None:
        if self.ids is None:
            return mask
        batch, _ = self.tiling.split(place.lane)
        q_ids = take(self.ids[0], batch * self.tiling.nq + place.q_block)
        kv_ids = take(self.ids[1], batch * self.tiling.nk + place.kv_block)
        same = (q_ids[:, None] == kv_ids[None]) & (q_ids >= 0)[:, None]
        return same if mask is None else same & mask


def padded_bias(bias: jax.Array, tiling: Tiling, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The bias in whole blocks, so that no window of it is moved at the edge."""
    ragged = tiling.nq * tiling.block_q - tiling.q_len if bias.shape[2] > 1 else 0
    widths = ((0, 0), (0, 0), (0, ragged), (0, tiling.nk * tiling.block_kv - tiling.kv_len))
    return jnp.pad(bias.astype(dtype), widths)


def bias_window(
    shape: tuple[int, ...], tiling: Tiling, place: BlockPlace
) -> tuple[tuple[jax.Array | int, ...], tuple[int, ...]]:
    """Which part of a padded bias of this shape belongs to a block: where it starts, its size."""
    in_batch, vectors, group = tiling.in_tile
    batch, head = tiling.split(place.lane)
    sizes = (in_batch, vectors * group, tiling.block_q, tiling.block_kv)
    places = (batch, head, place.q_block, place.kv_block)
    axes = [
        (0, 1) if length == 1 and axis < 3 else (at * size, size)
        for axis, (length, at, size) in enumerate(zip(shape, places, sizes, strict=True))
    ]
    return tuple(start for start, _ in axes), tuple(size for _, size in axes)


def sink_tile(sinks: jax.Array, tiling: Tiling, lane: jax.Array) -> jax.Array:
    """The sinks of one lane's heads, as a column [vectors, group * block_q, 1] for its tile."""
    in_batch, vectors, group = tiling.in_tile
    own = take(sinks.reshape(tiling.q_lanes, vectors, group), tiling.split(lane)[1])
    shape = (in_batch, vectors, group, tiling.block_q)
    return jnp.broadcast_to(own[None, :, :, None], shape).reshape(in_batch * vectors, -1, 1)
