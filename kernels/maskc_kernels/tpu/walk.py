"""A kernel that walks a work list: what is fetched when, for the forward and backward passes alike.

Per lane (a head of a batch) the kernel takes the entries of the lane's mask one by one. While one
block is computed, the next one's operands and mask bits are on their way, and the next row's since
this row began. What is in VMEM already is not fetched again. Results leave in the background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu.bounds import NUMBERS, Bounds
from maskc_kernels.tpu.config import LANES
from maskc_kernels.tpu.softmax import Mask, upright
from maskc_kernels.tpu.stream import Buffers, Ref, Stream, loop

if TYPE_CHECKING:
    from maskc_kernels.tpu.bounds import Partial
    from maskc_kernels.tpu.config import KernelConfig
    from maskc_kernels.tpu.segments import Segments
    from maskc_kernels.tpu.worklist import Entry, WorkList

__all__ = ["Body", "Form", "Pass", "Tiles", "array_form", "lane_itself", "run_pass"]

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
    """

    form: Form
    block: int
    lane: Lane = lane_itself
    wide: bool = False

    @property
    def scratch(self) -> list[Any]:
        """Its two buffers."""
        _, length, dim = self.form.shape
        tile = (length, self.block) if self.wide else (self.block, dim)
        return Buffers.scratch(tile, self.form.dtype)

    def where(self, lane: jax.Array, member: jax.Array, number: jax.Array) -> tuple[Any, ...]:
        """The index of block `number`."""
        span = pl.ds(pl.multiple_of(number * self.block, self.block), self.block)
        at = self.lane(lane, member)
        return (at, slice(None), span) if self.wide else (at, span)


class Body(Protocol):
    """What a pass computes. Slots say which of the two buffers of every operand to use."""

    def begin(self, row_slot: jax.Array) -> None:
        """A row begins; its operands are in VMEM."""
        ...

    def absorb(self, row_slot: jax.Array, col_slot: jax.Array, mask: Mask) -> None:
        """Take in one block under its mask."""
        ...

    def end(self) -> tuple[jax.Array, ...]:
        """The row's results, one per result of the pass."""
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


class _Upright(NamedTuple):
    """Numbers of the rows that blocks compare with, turned once per row.

    Attributes:
        flat: int32 [2, n, rows], as they come.
        ref: int32 [n, rows, 128], in every lane.
    """

    flat: Buffers
    ref: Ref

    def turn(self, row_slot: jax.Array) -> None:
        """A row begins; its numbers are in VMEM."""
        for number in range(self.ref.shape[0]):
            self.ref[number] = upright(self.flat.vmem[row_slot, number : number + 1])


class _State(NamedTuple):
    """What one step hands to the next: int32 scalars.

    Attributes:
        row: the row of the entry before.
        col_slot: buffer of the entry's column operands.
        col_key: which block and member they are, -1 before the first.
        col_coming: 1 if they are still on their way.
        bits_slot: buffer of the latest partial block.
        bits_id: its number, -1 before the first.
        bits_coming: 1 if it is still on its way.
    """

    row: jax.Array
    col_slot: jax.Array
    col_key: jax.Array
    col_coming: jax.Array
    bits_slot: jax.Array
    bits_id: jax.Array
    bits_coming: jax.Array


class _Walk(NamedTuple):
    """One lane's walk, in the kernel.

    Partial blocks have `bits` or the rows' `bounds`, and the other is None. With segment ids, `ids`
    are those of the rows, and the last operand of the columns is theirs.
    """

    job: Pass
    lane: jax.Array
    stream: Stream
    bits: Buffers | None
    bounds: _Upright | None
    ids: _Upright | None
    row_side: list[Buffers]
    col_side: list[Buffers]
    results: list[Buffers]
    body: Body

    def run(self, begin: jax.Array, end: jax.Array) -> None:
        """All rows."""

        def start() -> _State:
            for copy in self.row_copies(jnp.int32(0)):
                copy.start()
            zero, none = jnp.int32(0), jnp.int32(-1)
            nothing = _State(none, zero, none, zero, zero, none, zero)
            return self.fetch(self.stream.entry(begin), zero, nothing)

        def step(number: jax.Array, state: _State) -> _State:
            members = self.job.members
            if members == 1:
                return self.step(number, jnp.int32(0), end, state)
            return loop(
                jnp.int32(0),
                jnp.int32(members),
                lambda member, state: self.step(number, member, end, state),
                state,
            )

        self.stream.walk(begin, end, start, step)
        for row in range(max(0, self.job.rows - 2), self.job.rows):
            for copy in self.result_copies(jnp.int32(row)):
                copy.wait()

    def step(self, number: jax.Array, member: jax.Array, end: jax.Array, state: _State) -> _State:
        """Send for what the next step needs, and compute this one."""
        entry = self.stream.entry(number)
        opens, closes = entry.first != 0, entry.last != 0
        if self.job.members > 1:
            opens &= member == 0
            closes &= member == self.job.members - 1
        ahead = self.fetch(*self.following(number, member, end), state)
        row = state.row + opens.astype(jnp.int32)

        @pl.when(state.col_coming != 0)
        def _() -> None:
            for copy in self.col_copies(state.col_slot, jnp.int32(0), jnp.int32(0)):
                copy.wait()

        @pl.when(opens)
        def _() -> None:
            self.begin_row(row)

        if self.bits is not None:
            latest = self.bits.fetch(state.bits_slot, 0)
            pl.when(state.bits_coming != 0)(latest.wait)

        def absorb(mask: Mask) -> Callable[[], None]:
            return lambda: self.body.absorb(row & 1, state.col_slot, mask)

        mask = self.mask(entry, state)
        pl.when((entry.listed != 0) & (entry.partial == 0) & (entry.cut == 0))(absorb(Mask()))
        pl.when((entry.partial != 0) & (entry.cut == 0))(absorb(mask))
        if self.ids is not None:
            # A full block may be cut too. Its bounds are as wide as it is; it has no bits.
            all_bits = None if self.bits is None else (entry.partial == 0).astype(jnp.int32) * -1
            col_ids = self.col_side[-1].vmem.at[state.col_slot]
            cut = mask._replace(all_bits=all_bits, row_ids=self.ids.ref.at[0], col_ids=col_ids)
            pl.when(entry.cut != 0)(absorb(cut))

        @pl.when(closes)
        def _() -> None:
            self.end_row(row)

        return ahead._replace(row=row)

    def mask(self, entry: Entry, state: _State) -> Mask:
        """What restricts the entry if it is partial."""
        words = None if self.bits is None else self.bits.vmem.at[state.bits_slot]
        bounds = None if self.bounds is None else self.bounds.ref
        return Mask(words, bounds=bounds, first_col=entry.col * self.job.col_side[0].block)

    def following(
        self, number: jax.Array, member: jax.Array, end: jax.Array
    ) -> tuple[Entry, jax.Array]:
        """The next step's entry and member; an entry that needs nothing after the last."""
        if self.job.members == 1:
            after = number + 1
        else:
            done = member == self.job.members - 1
            after = number + done.astype(jnp.int32)
            member = jnp.where(done, 0, member + 1)
        entry, more = self.stream.entry(after), (after < end).astype(jnp.int32)
        return entry._replace(listed=entry.listed * more, partial=entry.partial * more), member

    def fetch(self, entry: Entry, member: jax.Array, state: _State) -> _State:
        """Start what a step needs and VMEM does not have."""
        key = entry.col * self.job.members + member
        new_col = (entry.listed != 0) & (key != state.col_key)
        col_slot = jnp.where(new_col, 1 - state.col_slot, state.col_slot)

        @pl.when(new_col)
        def _() -> None:
            for copy in self.col_copies(col_slot, member, entry.col):
                copy.start()

        state = state._replace(
            col_slot=col_slot,
            col_key=jnp.where(new_col, key, state.col_key),
            col_coming=new_col.astype(jnp.int32),
        )
        return state if self.bits is None else self.fetch_bits(self.bits, entry, state)

    def fetch_bits(self, bits: Buffers, entry: Entry, state: _State) -> _State:
        """Start what a partial block needs and VMEM does not have."""
        new = (entry.partial != 0) & (entry.partial_id != state.bits_id)
        slot = jnp.where(new, 1 - state.bits_slot, state.bits_slot)

        @pl.when(new)
        def _() -> None:
            bits.fetch(slot, entry.partial_id).start()

        return state._replace(
            bits_slot=slot,
            bits_id=jnp.where(new, entry.partial_id, state.bits_id),
            bits_coming=new.astype(jnp.int32),
        )

    def begin_row(self, row: jax.Array) -> None:
        """Wait for the row's operands and send for the next row's."""
        for copy in self.row_copies(row):
            copy.wait()

        @pl.when(row + 1 < self.job.rows)
        def _() -> None:
            for copy in self.row_copies(row + 1):
                copy.start()

        for numbers in (self.bounds, self.ids):
            if numbers is not None:
                numbers.turn(row & 1)
        self.body.begin(row & 1)

    def end_row(self, row: jax.Array) -> None:
        """Write the row's results, once the earlier ones have left their buffers."""

        @pl.when(row >= 2)
        def _() -> None:
            for copy in self.result_copies(row - 2):
                copy.wait()

        for buffers, result in zip(self.results, self.body.end(), strict=True):
            buffers.vmem[row & 1] = result.astype(buffers.vmem.dtype)
        for copy in self.result_copies(row):
            copy.start()

    def row_copies(self, row: jax.Array) -> list[Any]:
        """The transfers of a row's operands."""
        pairs = zip(self.job.row_side, self.row_side, strict=True)
        return [
            buffers.fetch(row & 1, *tiles.where(self.lane, jnp.int32(0), row))
            for tiles, buffers in pairs
        ]

    def col_copies(self, slot: jax.Array, member: jax.Array, col: jax.Array) -> list[Any]:
        """The transfers of one block's column operands."""
        pairs = zip(self.job.col_side, self.col_side, strict=True)
        return [
            buffers.fetch(slot, *tiles.where(self.lane, member, col)) for tiles, buffers in pairs
        ]

    def result_copies(self, row: jax.Array) -> list[Any]:
        """The transfers of a row's results."""
        pairs = zip(self.job.results, self.results, strict=True)
        return [
            buffers.store(row & 1, *tiles.where(self.lane, jnp.int32(0), row))
            for tiles, buffers in pairs
        ]


def run_pass(
    job: Pass,
    work: WorkList,
    partial: Partial,
    head_mask: jax.Array,
    row_side: Sequence[jax.Array],
    col_side: Sequence[jax.Array],
    *,
    config: KernelConfig,
    scalars: Sequence[jax.Array] = (),
    segments: Segments | None = None,
) -> list[jax.Array]:
    """Call the kernel of a pass.

    Args:
        job: the pass.
        work: the entries of its masks.
        partial: int32 [unique, word rows, columns], the partial blocks; or the rows' bounds.
        head_mask: int32 [heads], which mask each head uses.
        row_side: operands in the order of `job.row_side`.
        col_side: operands in the order of `job.col_side`.
        config: how to run it.
        scalars: small arrays that the body finds in SMEM.
        segments: ids, those of the rows as `q`; `work` was made with them.

    Returns:
        The results, in the order of `job.results`.
    """
    prefetched = [head_mask, work.ptr, *scalars]
    per_batch = job.lanes // work.batches
    words: list[jax.Array] = []
    turned: list[int] = []  # numbers per row of the operands that come last
    if isinstance(partial, Bounds):
        job, row_side, turned = job.with_bounds(partial), [*row_side, partial.spans], [NUMBERS]
    else:
        words = [partial]
    if segments is not None:
        job = job.with_ids(segments, lambda lane, _: jax.lax.div(lane, jnp.int32(per_batch)))
        row_side, col_side = [*row_side, segments.q], [*col_side, segments.kv]
        turned = [*turned, 1]
    sides = [*job.row_side, *job.col_side, *job.results]

    def kernel(*refs: Ref) -> None:
        (mask_of, ptr, *extra), refs = refs[: len(prefetched)], refs[len(prefetched) :]
        operands, rest = refs[: 1 + len(words) + len(sides)], refs[1 + len(words) + len(sides) :]
        hbm, scratch = iter(operands), iter(rest)

        def buffers(number: int) -> list[Buffers]:
            return [Buffers(next(hbm), next(scratch), next(scratch)) for _ in range(number)]

        lane = pl.program_id(0)
        stream = Stream(work.form, next(hbm), next(scratch), next(scratch))
        bits, rows, cols, results = map(
            buffers, (len(words), len(job.row_side), len(job.col_side), len(job.results))
        )
        upright = [_Upright(rows[at - len(turned)], next(scratch)) for at in range(len(turned))]
        bounds = upright[0] if not words else None
        ids = upright[-1] if segments is not None else None
        body = job.body(
            lane, extra, [side.vmem for side in rows], [side.vmem for side in cols], [*scratch]
        )
        walk = _Walk(
            job, lane, stream, bits[0] if words else None, bounds, ids, rows, cols, results, body
        )
        mask = mask_of[job.head(lane)]
        if work.batches > 1:
            mask += jax.lax.div(lane, jnp.int32(per_batch)) * work.masks
        walk.run(ptr[mask], ptr[mask + 1])

    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    results: list[jax.Array] = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(job.lanes,),
            in_specs=[anywhere] * (1 + len(words) + len(row_side) + len(col_side)),
            out_specs=[anywhere] * len(job.results),
            scratch_shapes=[
                *Stream.scratch(work.form),
                *(shape for bits in words for shape in Buffers.scratch(bits.shape[1:], bits.dtype)),
                *(shape for side in sides for shape in side.scratch),
                *(pltpu.VMEM((n, job.row_side[0].block, LANES), jnp.int32) for n in turned),
                *job.scratch,
            ],
        ),
        out_shape=[array_form(tiles.form.shape, tiles.form.dtype) for tiles in job.results],
        compiler_params=config.compiler_params(linear=job.linear),
        interpret=config.interpret,
        name=job.name,
    )(*prefetched, work.entries, *words, *row_side, *col_side)
    return results
