"""The online softmax of one block of queries, on vector registers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu.bits import ROWS, unpack_words, word_rows
from maskc_kernels.tpu.bounds import NUMBERS
from maskc_kernels.tpu.config import LANES, LN2, MASKED, Span, Tile

__all__ = [
    "NN", "NT", "Mask", "Softmax", "capped", "dot", "lanes", "once", "spare_columns", "staggered",
    "upright",
]  # fmt: skip

Ref = Any
Products = TypeVar("Products")
NN = (((1,), (0,)), ((), ()))
NT = (((1,), (1,)), ((), ()))

# jax 0.10 has it in `pl` only, and later ones want it taken from `pltpu`
_reciprocal: Any = getattr(pltpu, "reciprocal", None) or pl.reciprocal


def dot(x: jax.Array, y: jax.Array, axes: Any) -> jax.Array:
    """A matrix product with float32 sums; float32 inputs are multiplied exactly."""
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    product: jax.Array = jax.lax.dot_general(
        x, y, axes, precision=exact, preferred_element_type=jnp.float32
    )
    return product


def lanes(x: jax.Array, width: int) -> jax.Array:
    """[rows, 128], equal along its rows -> [rows, width]."""
    if width < LANES:
        return x[:, :width]
    wide = jnp.concatenate([x] * -(-width // LANES), axis=1)
    return wide if wide.shape[1] == width else wide[:, :width]


def capped(products: jax.Array, soft_cap: float | None) -> tuple[jax.Array, jax.Array | None]:
    """Scores under a cap, and the slope of the cap at each; None without a cap."""
    if soft_cap is None:
        return products, None
    share = jnp.tanh(products * (1 / soft_cap))
    return share * soft_cap, 1 - share * share


def upright(row: jax.Array) -> jax.Array:
    """[1, n] -> [n, 128], equal along its rows."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


class Mask(NamedTuple):
    """What restricts one block, in VMEM and SMEM.

    Attributes:
        words: int32 [slots, word rows, columns], with its bits; None if all attend, or bounds tell.
        slot: int32 [], which of them.
        all_bits: int32 [], -1 if the bits do not count after all, else 0; None is 0.
        bounds: int32 [2, rows, 128], the start and length of each row's interval in every lane;
            None if all attend, or bits tell.
        first_col: int32 [], the number of the block's first column, which bounds count from 0.
        row_ids: int32 [rows, 128], segment ids in every lane; None without segments.
        col_ids: int32 [1, columns].
        tiles: what to compute; nobody attends outside. None is the whole block.
    """

    words: Ref | None = None
    slot: jax.Array | None = None
    all_bits: jax.Array | None = None
    bounds: Ref | None = None
    first_col: jax.Array | None = None
    row_ids: Ref | None = None
    col_ids: Ref | None = None
    tiles: Sequence[Tile] | None = None

    @property
    def full(self) -> bool:
        """Nothing does."""
        return self.words is None and self.bounds is None and self.row_ids is None

    def bars(self, tile: Tile, shape: tuple[int, ...]) -> jax.Array | None:
        """Which pairs of a tile of that shape may not attend: bool; None if all may."""
        rows, width = shape
        found = []
        if self.words is not None:
            held, first = _words_of(tile.rows, rows)
            words = self.words[self.slot, held, tile.columns]
            words = words if self.all_bits is None else words | self.all_bits
            found.append(unpack_words(~words, rows, first))
        if self.bounds is not None and self.first_col is not None:
            column = jax.lax.broadcasted_iota(jnp.int32, (1, width), 1)
            column += self.first_col + tile.columns.start
            start, length = (lanes(self.bounds[n, tile.rows], width) for n in range(NUMBERS))
            # Without sign, what is before the start is far behind the end: one comparison for two.
            found.append((column - start).astype(jnp.uint32) >= length.astype(jnp.uint32))
        if self.row_ids is not None and self.col_ids is not None:
            ids = lanes(self.row_ids[tile.rows], width)
            found.append(ids != self.col_ids[:, tile.columns])
        return functools.reduce(jnp.logical_or, found) if found else None

    def apply(self, scores: jax.Array, tile: Tile) -> jax.Array:
        """The scores of a tile, with `MASKED` where a pair may not attend."""
        barred = self.bars(tile, scores.shape)
        return scores if barred is None else jnp.where(barred, MASKED, scores)


def _words_of(rows: Span, count: int) -> tuple[Span, int]:
    """Which words hold the rows of a tile, and how many of their rows come before."""
    if isinstance(rows, slice):
        first = rows.start // ROWS * ROWS
        return slice(word_rows(first), word_rows(rows.stop)), rows.start - first
    # Found in the kernel, they are whole words.
    size = word_rows(count)
    start = jax.lax.div(rows.start, jnp.int32(ROWS // word_rows(ROWS)))
    return pl.ds(pl.multiple_of(start, size), size), 0


def staggered(
    tiles: Sequence[Tile],
    ahead: int,
    products: Callable[[Tile], Products],
    use: Callable[[Tile, Products], None],
) -> None:
    """Work tile by tile, with the matrix products of `ahead` later tiles asked for first.

    So the matrix unit has work while the vector units are at the softmax.
    """
    asked = [products(tile) for tile in tiles[:ahead]]
    for number, tile in enumerate(tiles):
        asked += [products(later) for later in tiles[number + ahead : number + ahead + 1]]
        use(tile, asked.pop(0))


def once(load: Callable[[Span], Products]) -> Callable[[Span], Products]:
    """`load` for parts of a block: each is loaded once, where the first tile that has it is."""
    known: dict[Any, Products] = {}

    def part(where: Span) -> Products:
        if where.start not in known:
            known[where.start] = load(where)
        return known[where.start]

    return part


def spare_columns(keys: int, width: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """What stands beside values [keys, width]: zeros to whole registers, then a column of ones.

    Zeros fill the register of that column too; weights times it are sums of weights.
    """
    columns = LANES + -width % LANES
    column = jax.lax.broadcasted_iota(jnp.int32, (keys, columns), 1)
    return (column == columns - LANES).astype(dtype)


class Softmax(NamedTuple):
    """A softmax under way, in VMEM.

    Attributes:
        out: float32 [block_q, v_head_dim], the weighted sum of values, not yet divided.
        top: float32 [block_q, 128], the largest score so far, in every lane.
        total: float32 [block_q, 128]; the sum over lanes is the sum of weights. With `across`
            every lane has that.
        across: have the unit that works across lanes sum the weights, and multiply values by them
            so many keys at a time; 0 leaves both to the vector units and the compiler.
    """

    out: Ref
    top: Ref
    total: Ref
    across: int = 0

    @classmethod
    def scratch(cls, block_q: int, v_head_dim: int) -> list[Any]:
        """Shapes of the three."""
        sizes = (v_head_dim, LANES, LANES)
        return [pltpu.VMEM((block_q, size), jnp.float32) for size in sizes]

    def start(self) -> None:
        """Nothing seen yet."""
        self.out[...] = jnp.zeros_like(self.out)
        self.top[...] = jnp.full_like(self.top, MASKED)
        self.total[...] = jnp.zeros_like(self.total)

    def absorb(
        self, rows: Span, scores: jax.Array | Ref, v: jax.Array, spare: jax.Array | None
    ) -> None:
        """Take in scores [rows, keys] to the base 2 and values [keys, v_head_dim].

        Until a query has seen a key it may attend, its largest score is `MASKED` and what it
        gathers is junk; the first real score then scales all that by 0.

        With `spare_columns`, the matrix unit sums the weights, in columns beside those of values
        that it would leave idle; else the vector units do, or the one across lanes.
        """
        keys, width = v.shape
        before, scores = self.top[rows], scores[...]
        top = jnp.maximum(before, scores.max(axis=1, keepdims=True))
        weights = jnp.exp2(scores - lanes(top, scores.shape[1]))
        decay = jnp.exp2(before - top)
        self.top[rows] = top
        if spare is not None:
            v = jnp.concatenate([v, spare], axis=1)
        rounded, many = weights.astype(v.dtype), self.across or keys
        products = [
            dot(rounded[:, at : at + many], v[at : at + many], NN) for at in range(0, keys, many)
        ]
        gathered = sum(products[1:], products[0])
        if spare is not None:
            total = gathered[:, -LANES:]
        elif self.across:
            total = jnp.broadcast_to(weights.sum(axis=1, keepdims=True), before.shape)
        else:
            parts = [weights[:, at : at + LANES] for at in range(0, scores.shape[1], LANES)]
            total = sum(parts[1:], parts[0])
        self.total[rows] = decay * self.total[rows] + total
        self.out[rows] = lanes(decay, width) * self.out[rows] + gathered[:, :width]

    def finish(self, sink: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Output [block_q, v_head_dim] and natural log-sum-exp [block_q, 128], in every lane.

        Args:
            sink: a score to the base 2 that takes part in the sum and has no value.
        """
        top, total = self.top[...], self.total[...].sum(axis=1, keepdims=True)
        if self.across:
            total *= 1 / LANES  # every lane has it
        # A maximum may pass over a NaN, a sum does not: bad inputs must not look like no inputs.
        dead = (top <= MASKED / 2) & (total < jnp.inf)
        decay: jax.Array | float = 1.0
        if sink is not None:
            higher = jnp.maximum(top, sink)
            decay = jnp.exp2(top - higher)
            total = total * decay + jnp.exp2(sink - higher)
            top = higher
        # A sum that is not dead has a weight of 1: neither 0 nor huge.
        factor = decay * _reciprocal(total, full_range=False)
        factor = lanes(jnp.where(dead, 0, factor), self.out.shape[1])
        out = jnp.where(factor == 0, 0, self.out[...] * factor)
        return out, jnp.where(dead, -jnp.inf, LN2 * (top + jnp.log2(total)))
