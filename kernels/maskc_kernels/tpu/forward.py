"""The forward pass: rows are blocks of queries, with an online softmax in VMEM."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu.config import LANES, MASKED
from maskc_kernels.tpu.passes import Pass, Tiles, array_form
from maskc_kernels.tpu.paths import Paths
from maskc_kernels.tpu.softmax import (
    NT,
    Mask,
    Ref,
    Softmax,
    capped,
    dot,
    spare_columns,
    staggered,
)  # fmt: skip
from maskc_kernels.tpu.walk import run_pass

if TYPE_CHECKING:
    from maskc_kernels.tpu.bounds import Partial
    from maskc_kernels.tpu.config import Cut, KernelConfig, Tile
    from maskc_kernels.tpu.segments import Segments
    from maskc_kernels.tpu.sizes import Sizes
    from maskc_kernels.tpu.worklist import WorkList

__all__ = ["forward"]


class _Forward(NamedTuple):
    """The body of the pass.

    Attributes:
        cut: how to cut blocks.
        parts: how to cut those that are not computed whole.
        soft_cap: cap on the scores to the base 2.
        sink: score to the base 2 that takes part in the sum.
        residuals: give the log-sum-exp too.
        q: [2, block_q, head_dim].
        k: [2, block_kv, head_dim].
        v: [2, block_kv, v_head_dim].
        softmax: the row's softmax.
        board: float32, where scores are written; None leaves that to the compiler.
        spare: have the matrix unit sum the weights.
    """

    cut: Cut
    parts: Cut
    soft_cap: float | None
    sink: jax.Array | None
    residuals: bool
    q: Ref
    k: Ref
    v: Ref
    softmax: Softmax
    board: Ref | None
    spare: bool

    def begin(self, row_slot: jax.Array) -> None:
        """The end of the row before, if of nobody, left the softmax as it has to be."""
        del row_slot

    def absorb(
        self, row_slot: jax.Array, col_slot: jax.Array, mask: Mask, first: jax.Array
    ) -> None:
        """Take one block into the softmax."""
        del first

        block = self.q.shape[1], self.k.shape[1]
        cut = self.cut if mask.tiles is None else self.parts
        height, width = cut.shape(*block)
        spare = spare_columns(width, self.v.shape[2], self.v.dtype) if self.spare else None
        nobody = None if self.board is None or mask.full else jnp.full((height, width), MASKED)
        boards = None if self.board is None else itertools.cycle(_parts(self.board, cut, block))

        def scores(tile: Tile) -> jax.Array | Ref:
            products = dot(self.q[row_slot, tile.rows], self.k[col_slot, tile.columns], NT)
            scores, _ = capped(products, self.soft_cap)
            if boards is None:
                return mask.apply(scores, tile)
            board, barred = next(boards), mask.bars(tile, scores.shape)
            board[...] = scores
            if barred is not None and nobody is not None:
                # Stores have room where selections would be one operation too many.
                pltpu.store(board, nobody, mask=barred)
            return board

        def use(tile: Tile, scores: jax.Array | Ref) -> None:
            self.softmax.absorb(tile.rows, scores, self.v[col_slot, tile.columns], spare)

        staggered(mask.tiles or cut.tiles(*block), cut.early(*block), scores, use)

    def end(self, empty: jax.Array) -> tuple[jax.Array, ...]:
        """Output and log-sum-exp [1, block_q]."""
        del empty
        out, lse = self.softmax.finish(self.sink)
        self.softmax.start()  # for the next row: stores have room here
        return (out, lse.T[:1]) if self.residuals else (out,)


def _board(cuts: list[Cut], block: tuple[int, int]) -> list[Any]:
    """Scratch for the scores of pieces under way."""
    if not cuts[0].board:
        return []
    shapes = [(cut.early(*block) + 1, *cut.shape(*block)) for cut in cuts]
    width = max(width for _, _, width in shapes)
    rows = max(-(-count // (width // across)) * height for count, height, across in shapes)
    return [pltpu.VMEM((rows, width), jnp.float32)]


def _parts(board: Ref, cut: Cut, block: tuple[int, int]) -> list[Ref]:
    """The board, cut for a piece of scores at work and those that are asked for early."""
    height, width = cut.shape(*block)
    across = board.shape[1] // width
    places = [divmod(number, across) for number in range(cut.early(*block) + 1)]
    return [
        board.at[down * height : (down + 1) * height, along * width : (along + 1) * width]
        for down, along in places
    ]


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    head_mask: jax.Array,
    work: WorkList,
    partial: Partial,
    *,
    sizes: Sizes,
    config: KernelConfig,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    segments: Segments | None = None,
    residuals: bool = True,
) -> tuple[jax.Array, ...]:
    """Run the forward kernel on operands that are whole blocks.

    Args:
        q: [batch * heads, q_blocks * block_q, head_dim], scaled so that q . k is a score to the
            base 2.
        k: [batch * kv_heads, kv_blocks * block_kv, head_dim].
        v: [batch * kv_heads, kv_blocks * block_kv, v_head_dim].
        head_mask: int32 [heads], which mask each head uses.
        work: entries of the masks; a row is a block of queries.
        partial: int32 [unique, word rows, block_kv], the partial blocks; or bounds of queries.
        sizes: the sizes.
        config: how to run it.
        soft_cap: cap on the scores, to the base 2.
        sinks: float32 [heads], scores to the base 2 that take part in every sum.
        segments: ids of the blocks; `work` was made with them.
        residuals: give the log-sum-exp too.

    Returns:
        The output [batch * heads, q_blocks * block_q, v_head_dim] in q's dtype; with
        `residuals` also the natural log-sum-exp, float32 [batch * heads, 1, q_blocks * block_q].
    """
    heads, v_head_dim = sizes.heads, v.shape[-1]

    rounded, block = v.dtype == jnp.bfloat16, (sizes.block_q, sizes.block_kv)
    cut, parts = config.order.forward, config.order.parts
    if not rounded:
        cut = cut.exact()
    paths = Paths.of(parts, *block) if work.form.tiles else None
    # Summed there, weights are rounded to the dtype of values, which the log-sum-exp of float32
    # inputs must not see.
    spare = rounded and v_head_dim + -v_head_dim % LANES + LANES <= cut.free
    linear = sizes.block_q * sizes.block_kv <= cut.linear
    across = cut.unit if linear and not spare else 0

    def head(lane: jax.Array) -> jax.Array:
        return jax.lax.rem(lane, jnp.int32(heads))

    def body(
        lane: jax.Array, extra: list[Ref], rows: list[Ref], cols: list[Ref], scratch: list[Ref]
    ) -> _Forward:
        out, top, total, *board = scratch
        return _Forward(
            cut=cut,
            parts=parts,
            soft_cap=soft_cap,
            sink=extra[0][head(lane)] if extra else None,
            residuals=residuals,
            q=rows[0],
            k=cols[0],
            v=cols[1],
            softmax=Softmax(out, top, total, across),
            board=board[0] if board else None,
            spare=spare,
        )

    out = array_form((*q.shape[:2], v_head_dim), q.dtype)
    results = [Tiles(out, sizes.block_q)]
    if residuals:
        lse = array_form((q.shape[0], 1, q.shape[1]), jnp.float32)
        results.append(Tiles(lse, sizes.block_q, wide=True))
    job = Pass(
        name="maskc_forward",
        lanes=q.shape[0],
        rows=sizes.q_blocks,
        members=1,
        head=head,
        row_side=[Tiles(q, sizes.block_q)],
        col_side=[Tiles(x, sizes.block_kv, sizes.kv_lane) for x in (k, v)],
        results=results,
        scratch=[
            *Softmax.scratch(sizes.block_q, v_head_dim),
            *_board([cut] if paths is None else [cut, parts], block),
        ],
        body=body,
        linear=linear,
        paths=paths,
    )
    scalars = [] if sinks is None else [sinks]
    return tuple(
        run_pass(
            job, work, partial, head_mask, [q], [k, v],
            config=config, scalars=scalars, segments=segments,
        )
    )  # fmt: skip
