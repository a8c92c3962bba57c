"""A kernel that walks a work list: what is fetched when, for the forward and backward passes alike.

Per lane (a head of a batch) the kernel takes the entries of the lane's mask one by one. While one
block is computed, the next one's operands and mask bits are on their way, and the next row's since
this row began. What is in VMEM already is not fetched again. Results leave in the background.
What a pass computes, and from which operands, `passes.Pass` says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend import source_info_util

from maskc_kernels.tpu.bounds import NUMBERS, Bounds
from maskc_kernels.tpu.config import LANES
from maskc_kernels.tpu.passes import Tiles, array_form
from maskc_kernels.tpu.softmax import Mask, upright
from maskc_kernels.tpu.stream import Buffers, Ref, Stream, loop
from maskc_kernels.tpu.sums import Leaving, Sums, next_slot
from maskc_kernels.tpu.worklist import LAST

if TYPE_CHECKING:
    from maskc_kernels.tpu.bounds import Partial
    from maskc_kernels.tpu.config import KernelConfig
    from maskc_kernels.tpu.passes import Body, Pass
    from maskc_kernels.tpu.segments import Segments
    from maskc_kernels.tpu.worklist import Entry, WorkList

__all__ = ["run_pass"]


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
        words: the entry whose operands are in VMEM or on their way; the next to compute.
        row: its row.
        col_slot: buffer of the entry's column operands.
        col_key: which block and member they are, -1 before the first.
        col_coming: 1 if they are still on their way.
        bits_slot: buffer of the latest partial block.
        bits_id: its number, -1 before the first.
        bits_coming: 1 if it is still on its way.
        leaving: sums on their way back, in a pass that has sums.
    """

    words: tuple[jax.Array, ...]
    row: jax.Array
    col_slot: jax.Array
    col_key: jax.Array
    col_coming: jax.Array
    bits_slot: jax.Array
    bits_id: jax.Array
    bits_coming: jax.Array
    leaving: Leaving | None


class _Walk(NamedTuple):
    """One lane's walk, in the kernel.

    Partial blocks have `bits` or the rows' `bounds`, and the other is None. With segment ids, `ids`
    are those of the rows, and the last operand of the columns is theirs. `paths` is the table of
    the pass's paths.
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
    sums: Sums | None
    body: Body
    paths: Ref | None

    def run(self, begin: jax.Array, end: jax.Array) -> None:
        """All rows.

        A step sends for an entry and computes the one before. Before the first there is the end of
        a row that nobody has, behind the last nothing.
        """
        for copy in self.row_copies(jnp.int32(0)):
            copy.start()
        zero, none = jnp.int32(0), jnp.int32(-1)
        words = (jnp.int32(LAST), zero)[: self.stream.form.words]
        leaving = None if self.sums is None else Leaving.none()
        nothing = _State(words, none, zero, none, zero, zero, none, zero, leaving)

        def step(number: jax.Array, state: _State) -> _State:
            live = number < end
            ahead = tuple(jnp.where(live, word, 0) for word in self.stream.words(number))
            members = self.job.members
            if members == 1:
                return self.step(ahead, zero, state)
            return loop(
                zero, jnp.int32(members), lambda member, state: self.step(ahead, member, state),
                state,
            )  # fmt: skip

        state = self.stream.walk(begin, end + 1, step, nothing)
        if self.sums is not None and state.leaving is not None:
            self.sums.finish(state.col_slot, state.col_key, state.leaving)

        def left(row: jax.Array, carry: jax.Array) -> jax.Array:
            self.await_results(row)
            return carry

        loop(jnp.int32(max(0, self.job.rows - 2)), jnp.int32(self.job.rows), left, zero)

    def step(self, words: tuple[jax.Array, ...], member: jax.Array, state: _State) -> _State:
        """Send for what the next step needs, and compute this one."""
        entry, row = self.stream.form.decode(state.words), state.row
        opens, closes = entry.first != 0, entry.last != 0
        if self.job.members > 1:  # the next step's member
            opens &= member == 1
            closes &= member == 0
        if self.sums is not None and state.leaving is not None:
            self.sums.store_left(state.col_coming, state.col_slot, state.leaving)
        ahead = self.fetch(words, member, state)

        @pl.when(state.col_coming != 0)
        def _() -> None:
            for buffers in self.col_side:
                buffers.wait(state.col_slot)

        def absorb(mask: Mask) -> Callable[[], None]:
            return lambda: self.body.absorb(row & 1, state.col_slot, mask, opens)

        def masked() -> None:
            if self.bits is not None:
                bits = self.bits
                pl.when(state.bits_coming != 0)(lambda: bits.wait(state.bits_slot))
            self.masked(entry, self.mask(entry, state), absorb)

        full = functools.partial(pl.when(entry.listed != 0), absorb(Mask()))
        restricted = entry.partial if self.ids is None else entry.partial | entry.cut
        jax.lax.cond(restricted != 0, masked, full)
        pl.when(closes)(lambda: self.turn(row, entry.listed == 0))
        return ahead._replace(row=row + closes.astype(jnp.int32))

    def masked(
        self, entry: Entry, mask: Mask, absorb: Callable[[Mask], Callable[[], None]]
    ) -> None:
        """Take a block under a mask, a partial one in the path that has what it holds."""
        paths, table = self.job.paths, self.paths
        if paths is None or table is None:
            absorb(mask)()
            return
        found = table[entry.held]
        path, chosen = paths.path(found), paths.chosen(found, paths.counts[-2])
        for number, count in enumerate(paths.counts):
            tiles = None if count == paths.tiles else chosen[:count]
            pl.when(path == number)(absorb(mask._replace(tiles=tiles)))

    def mask(self, entry: Entry, state: _State) -> Mask:
        """What restricts the entry, if it is partial or cut by segment ids.

        With ids there is one path for both: a partial block that is not cut has equal ids, and a
        full one that is cut has bounds as wide as it is, but no bits.
        """
        mask = Mask(
            words=None if self.bits is None else self.bits.vmem,
            slot=state.bits_slot,
            bounds=None if self.bounds is None else self.bounds.ref,
            first_col=entry.col * self.job.col_side[0].block,
        )
        if self.ids is None:
            return mask
        return mask._replace(
            all_bits=None if self.bits is None else jnp.where(entry.partial == 0, -1, 0),
            row_ids=self.ids.ref.at[0],
            col_ids=self.col_side[-1].vmem.at[state.col_slot],
        )

    def fetch(self, words: tuple[jax.Array, ...], member: jax.Array, state: _State) -> _State:
        """Start what an entry needs and VMEM does not have."""
        entry = self.stream.form.decode(words)
        if self.bits is not None:
            state = self.fetch_bits(self.bits, entry, state)
        key = entry.col * self.job.members + member
        new = (entry.listed != 0) & (key != state.col_key)
        slot, leaving = 1 - state.col_slot, state.leaving
        if self.sums is not None and leaving is not None:
            slot = next_slot(state.col_slot)
            self.sums.make_room(new, slot, key, leaving)
            leaving = leaving.after(new, key, state.col_key)

        @pl.when(new)
        def _() -> None:
            for copy in self.col_copies(slot, member, entry.col):
                copy.start()

        return state._replace(
            words=words,
            col_slot=jnp.where(new, slot, state.col_slot),
            col_key=jnp.where(new, key, state.col_key),
            col_coming=new.astype(jnp.int32),
            leaving=leaving,
        )

    def fetch_bits(self, bits: Buffers, entry: Entry, state: _State) -> _State:
        """Start what a partial block needs and VMEM does not have."""
        new = (entry.partial != 0) & (entry.partial_id != state.bits_id)
        slot = 1 - state.bits_slot
        pl.when(new)(lambda: bits.fetch(slot, entry.partial_id).start())
        return state._replace(
            bits_slot=jnp.where(new, slot, state.bits_slot),
            bits_id=jnp.where(new, entry.partial_id, state.bits_id),
            bits_coming=new.astype(jnp.int32),
        )

    def turn(self, row: jax.Array, empty: jax.Array) -> None:
        """End a row, or nothing if it is -1, and begin the next, or nothing if it was the last.

        Only copies are left out then: without branches, the compiler does both ends' work at once.
        """
        after = row + 1
        pl.when(row >= 2)(lambda: self.await_results(row - 2))

        @pl.when(after < self.job.rows)
        def _() -> None:
            for buffers in self.row_side:
                buffers.wait(after & 1)

        for buffers, result in zip(self.results, self.body.end(empty), strict=True):
            buffers.vmem[row & 1] = result.astype(buffers.vmem.dtype)
        for numbers in (self.bounds, self.ids):
            if numbers is not None:
                numbers.turn(after & 1)
        self.body.begin(after & 1)

        @pl.when(row >= 0)
        def _() -> None:
            for copy in self.result_copies(row):
                copy.start()

        @pl.when(after + 1 < self.job.rows)
        def _() -> None:
            for copy in self.row_copies(after + 1):
                copy.start()

    def await_results(self, row: jax.Array) -> None:
        """Wait until a row's results have left."""
        for buffers in self.results:
            buffers.wait(row & 1)

    def row_copies(self, row: jax.Array) -> list[Any]:
        """The transfers of a row's operands."""
        where = Tiles.where(self.job.row_side, self.lane, jnp.int32(0), row)
        pairs = zip(self.row_side, where, strict=True)
        return [buffers.fetch(row & 1, *at) for buffers, at in pairs]

    def col_copies(self, slot: jax.Array, member: jax.Array, col: jax.Array) -> list[Any]:
        """The transfers of one block's column operands."""
        where = Tiles.where(self.job.col_side, self.lane, member, col)
        pairs = zip(self.col_side, where, strict=True)
        return [buffers.fetch(slot, *at) for buffers, at in pairs]

    def result_copies(self, row: jax.Array) -> list[Any]:
        """The transfers of a row's results."""
        where = Tiles.where(self.job.results, self.lane, jnp.int32(0), row)
        pairs = zip(self.results, where, strict=True)
        return [buffers.store(row & 1, *at) for buffers, at in pairs]


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
        col_side: operands in the order of `job.col_side`; of sums, what is added to.
        config: how to run it.
        scalars: small arrays that the body finds in SMEM.
        segments: ids, those of the rows as `q`; `work` was made with them.

    Returns:
        The results, in the order of `job.results`, then the sums.
    """
    tables = [] if job.paths is None else [jnp.asarray(job.paths.table())]
    prefetched = [head_mask, work.ptr, *tables, *scalars]
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
    sums = job.sums
    outputs = [*job.results, *(job.col_side[number] for number in sums)]
    inputs = 1 + len(words) + len(row_side) + len(col_side)

    def walk_lane(*refs: Ref) -> None:
        (mask_of, ptr, *extra), refs = refs[: len(prefetched)], refs[len(prefetched) :]
        paths, extra = extra[: len(tables)], extra[len(tables) :]
        operands, scratch = [*refs[: inputs + len(outputs)]], iter(refs[inputs + len(outputs) :])
        for at, number in enumerate(sums, len(operands) - len(sums)):
            operands[inputs - len(col_side) + number] = operands[at]
        hbm = iter(operands)

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
        added = [(job.col_side[number], cols[number]) for number in sums]
        walk = _Walk(
            job, lane, stream, bits[0] if words else None, bounds, ids, rows, cols, results,
            Sums(added, lane, job.members) if sums else None, body, paths[0] if paths else None,
        )  # fmt: skip
        mask = mask_of[job.head(lane)]
        if work.batches > 1:
            mask += jax.lax.div(lane, jnp.int32(per_batch)) * work.masks
        walk.run(ptr[mask], ptr[mask + 1])

    here = source_info_util.current().traceback

    def kernel(*refs: Ref) -> None:
        # The places of all its lines would be a third of the program's text: it has one.
        with source_info_util.user_context(here):
            walk_lane(*refs)

    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    results: list[jax.Array] = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(job.lanes,),
            in_specs=[anywhere] * inputs,
            out_specs=[anywhere] * len(outputs),
            scratch_shapes=[
                *Stream.scratch(work.form),
                *(shape for bits in words for shape in Buffers.scratch(bits.shape[1:], bits.dtype)),
                *job.buffers,
                *(pltpu.VMEM((n, job.row_side[0].block, LANES), jnp.int32) for n in turned),
                *job.scratch,
            ],
        ),
        out_shape=[array_form(tiles.form.shape, tiles.form.dtype) for tiles in outputs],
        input_output_aliases={
            len(prefetched) + inputs - len(col_side) + number: len(job.results) + at
            for at, number in enumerate(sums)
        },
        compiler_params=config.compiler_params(linear=job.linear),
        interpret=config.interpret,
        name=job.name,
    )(*prefetched, work.entries, *words, *row_side, *col_side)
    return results
