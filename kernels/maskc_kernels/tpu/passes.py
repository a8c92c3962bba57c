"""What a pass over a work list computes, and from which operands: descriptions, and no kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from maskc_kernels.tpu.stream import Buffers, Ref
from maskc_kernels.tpu.sums import SLOTS

if TYPE_CHECKING:
    from maskc_kernels.tpu.bounds import Bounds
    from maskc_kernels.tpu.paths import Paths
    from maskc_kernels.tpu.segments import Segments
    from maskc_kernels.tpu.softmax import Mask

__all__ = ["Body", "Form", "Pass", "Tiles", "array_form", "lane_itself"]

Form: TypeAlias = jax.ShapeDtypeStruct | jax.Array
"""Anything with a shape and a dtype."""

Lane = Callable[[jax.Array, jax.Array], jax.Array]
"""(lane of the pass, member) -> lane of an operand."""


def array_form(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    """The form of an array."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def lane_itself(lane: jax.Array, member: jax.Array) -> jax.Array:
    """For operands that have the lanes of the pass."""
    del member
    return lane


class Tiles(NamedTuple):
    """How one operand or result is cut.

    Attributes:
        form: [lanes, length, dim], or [lanes, dim, length] if `wide`.
        block: positions per block.
        lane: which of its lanes a lane of the pass uses.
        wide: positions are the last axis.
        summed: the body adds to it, and it is a result too.
    """

    form: Form
    block: int
    lane: Lane = lane_itself
    wide: bool = False
    summed: bool = False

    def scratch(self, slots: int = 2) -> list[Any]:
        """Its buffers."""
        _, length, dim = self.form.shape
        tile = (length, self.block) if self.wide else (self.block, dim)
        return Buffers.scratch(tile, self.form.dtype, slots)

    @staticmethod
    def where(
        tiles: Iterable[Tiles], lane: jax.Array, member: jax.Array, number: jax.Array
    ) -> list[tuple[Any, ...]]:
        """The index of block `number` in each; what is common to them is computed once."""

        @functools.cache
        def at(of: Lane) -> jax.Array:
            return of(lane, member)

        @functools.cache
        def span(block: int) -> Any:
            return pl.ds(pl.multiple_of(number * block, block), block)

        return [
            (at(of.lane), slice(None), span(of.block)) if of.wide else (at(of.lane), span(of.block))
            for of in tiles
        ]


class Body(Protocol):
    """What a pass computes. Slots say which buffer of every operand to use."""

    def begin(self, row_slot: jax.Array) -> None:
        """A row begins; its operands are in VMEM."""
        ...

    def absorb(
        self, row_slot: jax.Array, col_slot: jax.Array, mask: Mask, first: jax.Array
    ) -> None:
        """Take in one block under its mask; `first`, bool [], if it is the row's first."""
        ...

    def end(self, empty: jax.Array) -> tuple[jax.Array, ...]:
        """The row's results, one per result of the pass; `empty`, bool [], if it had no block."""
        ...


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over a work list.

    Attributes:
        name: of the kernel.
        lanes: how many lanes.
        rows: rows of one mask.
        members: how often every entry is computed, with other lanes of the column operands.
        head: (lane) -> a query head whose mask the lane walks.
        row_side: operands that a row has, fetched once per row.
        col_side: operands of the other side, fetched per entry and member.
        results: what a row gives.
        scratch: VMEM of the body.
        body: (lane, extra scalars, row buffers, column buffers, scratch) -> body.
        linear: have the compiler's linear scheduler order it.
        paths: how it takes partial blocks that are not cut by segment ids; None is always whole.
    """

    name: str
    lanes: int
    rows: int
    members: int
    head: Callable[[jax.Array], jax.Array]
    row_side: Sequence[Tiles]
    col_side: Sequence[Tiles]
    results: Sequence[Tiles]
    scratch: Sequence[Any]
    body: Callable[[jax.Array, list[Ref], list[Ref], list[Ref], list[Ref]], Body]
    linear: bool = False
    paths: Paths | None = None

    @property
    def sums(self) -> list[int]:
        """Which operands of `col_side` are summed."""
        return [number for number, tiles in enumerate(self.col_side) if tiles.summed]

    @property
    def buffers(self) -> list[Any]:
        """Scratch of all operands and results."""
        slots = SLOTS if self.sums else 2
        sides = [(self.row_side, 2), (self.col_side, slots), (self.results, 2)]
        return [part for side, slots in sides for tiles in side for part in tiles.scratch(slots)]

    def with_bounds(self, bounds: Bounds) -> Pass:
        """With the bounds of the rows as an operand behind the others."""
        spans, row = bounds.spans, self.row_side[0].block

        def own(lane: jax.Array, member: jax.Array) -> jax.Array:
            del member
            return self.head(lane) if spans.shape[0] > 1 else jnp.int32(0)

        return replace(self, row_side=[*self.row_side, Tiles(spans, row, own, wide=True)])

    def with_ids(self, segments: Segments, lane: Lane) -> Pass:
        """With segment ids as the last operands of both sides."""
        row, col = self.row_side[0].block, self.col_side[0].block
        return replace(
            self,
            row_side=[*self.row_side, Tiles(segments.q, row, lane, wide=True)],
            col_side=[*self.col_side, Tiles(segments.kv, col, lane, wide=True)],
        )
