"""The backward passes: dq over rows of queries, dk and dv over rows of keys, with dq or without.

All compute the weights again from the scores and the log-sum-exp. A gradient is summed in VMEM and
written once by the row that owns it. With dq, the pass over keys is the whole backward pass: five
matrix products per block instead of seven; queries' rows do not own dq there, so it is summed in
HBM (`sums`).

In the pass over keys, queries are the last axis of all that they have and of scores, and keys are
the last axis of the sums of dk and dv. A product that makes a gradient then has head_dim rows and
as many columns as the block: a matrix unit of 256 columns takes half the cycles that it takes for
head_dim columns, if that is 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu.config import LANES, LN2
from maskc_kernels.tpu.passes import Form, Pass, Tiles, array_form
from maskc_kernels.tpu.softmax import (
    NN,
    NT,
    Mask,
    Ref,
    capped,
    dot,
    lanes,
    once,
    staggered,
    upright,
)
from maskc_kernels.tpu.walk import run_pass

if TYPE_CHECKING:
    from maskc_kernels.tpu.bounds import Partial
    from maskc_kernels.tpu.config import Cut, KernelConfig, Span, Tile
    from maskc_kernels.tpu.segments import Segments
    from maskc_kernels.tpu.sizes import Sizes
    from maskc_kernels.tpu.worklist import WorkList

__all__ = ["Operands", "backward_dkv", "backward_dq"]


class Operands(NamedTuple):
    """What both passes read, in whole blocks of their own size.

    Attributes:
        q: [batch * heads, queries, head_dim], scaled so that q . k is a score to the base 2.
        k: [batch * kv_heads, keys, head_dim].
        v: [batch * kv_heads, keys, v_head_dim].
        dout: [batch * heads, queries, v_head_dim], in q's dtype.
        rows: float32 [batch * heads, 2, queries]: log-sum-exp to the base 2, +inf where a query
            attends nothing or is filled up; and sum of dout * out less the gradient of the
            log-sum-exp.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    dout: jax.Array
    rows: jax.Array


class _Dq(NamedTuple):
    """The body of the dq pass.

    Attributes:
        config: how to cut blocks.
        soft_cap: cap on the scores to the base 2.
        sm_scale: [1], factor on the result.
        q: [2, block_q, head_dim].
        dout: [2, block_q, v_head_dim].
        rows: [2, 2, block_q].
        k: [2, block_kv, head_dim].
        v: [2, block_kv, v_head_dim].
        dq: float32 [block_q, head_dim], the sum so far.
        lse: float32 [block_q, 128], in every lane.
        delta: float32 [block_q, 128], in every lane.
    """

    config: KernelConfig
    soft_cap: float | None
    sm_scale: Ref
    q: Ref
    dout: Ref
    rows: Ref
    k: Ref
    v: Ref
    dq: Ref
    lse: Ref
    delta: Ref

    def begin(self, row_slot: jax.Array) -> None:
        """Turn the rows' numbers upright, once per row."""
        rows = self.rows[row_slot]
        for target, row in ((self.lse, rows[:1]), (self.delta, rows[1:])):
            target[...] = upright(row)

    def absorb(
        self, row_slot: jax.Array, col_slot: jax.Array, mask: Mask, first: jax.Array
    ) -> None:
        """Add one block's share; the first of a row is where its sum begins."""

        @once
        def of_queries(rows: Span) -> tuple[jax.Array, jax.Array]:
            return self.q[row_slot, rows], self.dout[row_slot, rows]

        @once
        def of_keys(columns: Span) -> tuple[jax.Array, jax.Array]:
            return self.k[col_slot, columns], self.v[col_slot, columns]

        def products(tile: Tile) -> tuple[jax.Array, jax.Array]:
            (q, dout), (k, v) = of_queries(tile.rows), of_keys(tile.columns)
            return dot(q, k, NT), dot(dout, v, NT)

        def use(tile: Tile, products: tuple[jax.Array, jax.Array]) -> None:
            rows, columns = tile
            scores, slope = capped(products[0], self.soft_cap)
            width = scores.shape[1]
            weights = jnp.exp2(mask.apply(scores, tile) - lanes(self.lse[rows], width))
            dscores = products[1] - lanes(self.delta[rows], width)
            dscores *= weights if slope is None else weights * slope
            k, _ = of_keys(columns)
            before = _so_far(self.dq[rows], first, columns)
            self.dq[rows] = before + dot(dscores.astype(k.dtype), k, NN)

        size = self.q.shape[1], self.k.shape[1]
        cut = self.config.order.dq if mask.full else self.config.order.dq.masked(*size)
        staggered(cut.tiles(*size), cut.ahead, products, use)

    def end(self, empty: jax.Array) -> tuple[jax.Array, ...]:
        """The gradient of q as it was before it was scaled."""
        return (jnp.where(empty, 0.0, self.dq[...]) * self.sm_scale[0],)


class _Dkv(NamedTuple):
    """The body of the pass over keys; scores are [keys, queries].

    Attributes:
        cut: how to cut blocks.
        soft_cap: cap on the scores to the base 2.
        k: [2, block_kv, head_dim].
        v: [2, block_kv, v_head_dim].
        q: [slots, head_dim, block_q].
        dout: [slots, v_head_dim, block_q].
        rows: [slots, 2, block_q].
        dk: float32 [head_dim, block_kv], the sum so far.
        dv: float32 [v_head_dim, block_kv], likewise.
        turned_k: [head_dim, block_kv], if the pass makes dq.
        dq: float32 [slots, head_dim, block_q], the sums so far.
    """

    cut: Cut
    soft_cap: float | None
    k: Ref
    v: Ref
    q: Ref
    dout: Ref
    rows: Ref
    dk: Ref
    dv: Ref
    turned_k: Ref | None = None
    dq: Ref | None = None

    def begin(self, row_slot: jax.Array) -> None:
        """Turn the keys, once per row; the matrix unit does it, which has nothing to do there."""
        if self.turned_k is not None:
            k = self.k[row_slot]
            shape = (k.shape[1],) * 2
            row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
            unit = (row == column).astype(k.dtype)
            self.turned_k[...] = dot(unit, k, NT).astype(k.dtype)

    def absorb(
        self, row_slot: jax.Array, col_slot: jax.Array, mask: Mask, first: jax.Array
    ) -> None:
        """Add one block's share; the first of a row is where its sums begin."""

        @once
        def of_keys(keys: Span) -> tuple[jax.Array, jax.Array]:
            return self.k[row_slot, keys], self.v[row_slot, keys]

        @once
        def of_queries(queries: Span) -> tuple[jax.Array, ...]:
            refs = self.q, self.dout, self.rows
            q, dout, rows = (ref[col_slot, :, queries] for ref in refs)
            return q, dout, rows[:1], rows[1:]

        def products(tile: Tile) -> tuple[jax.Array, jax.Array]:
            (k, v), (q, dout, _, _) = of_keys(tile.rows), of_queries(tile.columns)
            return dot(k, q, NN), dot(v, dout, NN)

        def add(sums: Ref, tile: Tile, operand: jax.Array, scores: jax.Array) -> None:
            keys, queries = tile
            turned = _turned(operand.shape[0], self.cut)
            at = (slice(None), keys) if turned else keys
            before = _so_far(sums[at], first, queries)
            sums[at] = before + (dot(operand, scores, NT) if turned else dot(scores, operand, NT))

        def use(tile: Tile, products: tuple[jax.Array, jax.Array]) -> None:
            keys, queries = tile
            q, dout, lse, delta = of_queries(queries)
            scores, slope = capped(products[0], self.soft_cap)
            weights = jnp.exp2(mask.apply(scores, tile) - lse)
            add(self.dv, tile, dout, weights.astype(dout.dtype))
            steps = products[1] - delta
            steps *= weights if slope is None else weights * slope
            dscores = steps.astype(q.dtype)
            add(self.dk, tile, q, dscores)
            if self.turned_k is not None and self.dq is not None:
                self.dq[col_slot, :, queries] += dot(self.turned_k[:, keys], dscores, NN)

        size = self.k.shape[1], self.q.shape[2]
        cut = self.cut if mask.full else self.cut.masked(*size)
        staggered(cut.tiles(*size), cut.ahead, products, use)

    def end(self, empty: jax.Array) -> tuple[jax.Array, ...]:
        """The gradients of k and v; q held log2(e) besides the scale."""
        gradients = []
        for sums, of in ((self.dk, self.k), (self.dv, self.v)):
            gradient = jnp.where(empty, 0.0, sums[...])
            gradients.append(gradient.T if _turned(of.shape[2], self.cut) else gradient)
        dk, dv = gradients
        return dk * LN2, dv


def _so_far(sums: jax.Array, first: jax.Array, part: Span) -> jax.Array:
    """Sums to add a part of a block to: what they hold is an earlier row's if this one begins.

    So no cycles go into zeros. `first` tells that the block is the first of its row.
    """
    return sums if part.start else jnp.where(first, jnp.zeros_like(sums), sums)


def _turned(size: int, cut: Cut) -> bool:
    """Do the sums of an operand of that head_dim have keys as their last axis?"""
    return size % cut.unit != 0


def backward_dq(
    operands: Operands,
    sm_scale: jax.Array,
    head_mask: jax.Array,
    work: WorkList,
    partial: Partial,
    *,
    sizes: Sizes,
    config: KernelConfig,
    soft_cap: float | None = None,
    segments: Segments | None = None,
) -> jax.Array:
    """The gradient of q.

    Args:
        operands: whole blocks of the pass.
        sm_scale: float32 [1], the factor on the scores.
        head_mask: int32 [heads], which mask each head uses.
        work: entries of the masks; a row is a block of queries.
        partial: int32 [unique, word rows, block_kv], the partial blocks; or bounds of queries.
        sizes: the sizes.
        config: how to run it.
        soft_cap: cap on the scores, to the base 2.
        segments: ids of the blocks, queries' as `q`; `work` was made with them.

    Returns:
        [batch * heads, queries, head_dim] in q's dtype.
    """
    q, k, v, dout, rows = operands
    bq = sizes.block_q

    def body(
        lane: jax.Array, extra: list[Ref], rows: list[Ref], cols: list[Ref], scratch: list[Ref]
    ) -> _Dq:
        del lane
        return _Dq(config, soft_cap, *extra, *rows[:3], *cols[:2], *scratch)

    job = Pass(
        name="maskc_backward_dq",
        lanes=q.shape[0],
        rows=sizes.q_blocks,
        members=1,
        head=lambda lane: jax.lax.rem(lane, jnp.int32(sizes.heads)),
        row_side=[Tiles(q, bq), Tiles(dout, bq), Tiles(rows, bq, wide=True)],
        col_side=[Tiles(x, sizes.block_kv, sizes.kv_lane) for x in (k, v)],
        results=[Tiles(q, bq)],
        scratch=[pltpu.VMEM((bq, size), jnp.float32) for size in (q.shape[-1], LANES, LANES)],
        body=body,
    )
    (dq,) = run_pass(
        job, work, partial, head_mask, [q, dout, rows], [k, v],
        config=config, scalars=[sm_scale], segments=segments,
    )  # fmt: skip
    return dq


def backward_dkv(
    operands: Operands,
    head_mask: jax.Array,
    work: WorkList,
    partial: Partial,
    *,
    sizes: Sizes,
    config: KernelConfig,
    soft_cap: float | None = None,
    segments: Segments | None = None,
    with_dq: bool = False,
) -> tuple[jax.Array, ...]:
    """The gradients of k and v, summed over the query heads that share a kv head; and of q.

    If all heads have one mask, a block of keys stays in VMEM while every query head of its kv head
    passes. If masks differ, every query head gives gradients of its own, in float32, and they are
    added up afterwards.

    Args:
        operands: whole blocks of the pass.
        head_mask: int32 [heads], which mask each head uses.
        work: entries of the masks; a row is a block of keys.
        partial: int32 [unique, word rows, block_q], the partial blocks, transposed; or bounds of
            keys.
        sizes: the sizes.
        config: how to run it.
        soft_cap: cap on the scores, to the base 2.
        segments: ids of the blocks, queries' as `q`; `work` was made with them.
        with_dq: give the gradient of q too.

    Returns:
        [batch * kv_heads, keys, head_dim] and [.., v_head_dim], in the dtypes of k and v; with
        `with_dq` also float32 [batch * heads, queries, head_dim], to be multiplied by the scale.
    """
    (q, k, v, dout, rows), group = operands, sizes.group
    together = work.masks == 1 or group == 1
    members = group if together else 1
    cut = config.order.fused if with_dq else config.order.dkv
    q, dout = q.mT, dout.mT
    # The sums begin at zero; they are an operand and a result in the same memory.
    sums = [jnp.zeros(q.shape, jnp.float32)] if with_dq else []

    def q_lane(lane: jax.Array, member: jax.Array) -> jax.Array:
        return lane * members + member if members > 1 else lane

    def body(
        lane: jax.Array, extra: list[Ref], rows: list[Ref], cols: list[Ref], scratch: list[Ref]
    ) -> _Dkv:
        del lane, extra
        dq = cols[3:4] if with_dq else []
        return _Dkv(cut, soft_cap, *rows[:2], *cols[:3], *scratch, *dq)

    def queries(x: jax.Array, *, summed: bool = False) -> Tiles:
        return Tiles(x, sizes.block_q, q_lane, wide=True, summed=summed)

    def keys(x: Form) -> Tiles:
        return Tiles(x, sizes.block_kv) if together else Tiles(x, sizes.block_kv, sizes.kv_lane)

    def result(x: jax.Array) -> Tiles:
        dtype = x.dtype if together else jnp.float32
        form = array_form((q.shape[0] // members, *x.shape[1:]), dtype)
        return Tiles(form, sizes.block_kv)

    held = [
        (size, sizes.block_kv) if _turned(size, cut) else (sizes.block_kv, size)
        for size in (k.shape[2], v.shape[2])
    ]
    job = Pass(
        name="maskc_backward" if with_dq else "maskc_backward_dkv",
        lanes=q.shape[0] // members,
        rows=sizes.kv_blocks,
        members=members,
        head=lambda lane: jax.lax.rem(q_lane(lane, jnp.int32(0)), jnp.int32(sizes.heads)),
        row_side=[keys(k), keys(v)],
        col_side=[
            *map(queries, (q, dout, rows)), *(queries(dq, summed=True) for dq in sums)
        ],
        results=[result(k), result(v)],
        scratch=[
            *(pltpu.VMEM(shape, jnp.float32) for shape in held),
            *(pltpu.VMEM((k.shape[2], sizes.block_kv), k.dtype) for _ in sums),
        ],
        body=body,
        linear=sizes.block_kv * sizes.block_q <= cut.linear,
    )  # fmt: skip
    dk, dv, *dq = run_pass(
        job, work, partial, head_mask, [k, v], [q, dout, rows, *sums],
        config=config, segments=None if segments is None else segments.transposed,
    )  # fmt: skip
    if not together:
        dk, dv = (
            x.reshape(-1, group, *x.shape[1:]).sum(1).astype(y.dtype) for x, y in ((dk, k), (dv, v))
        )
    return dk, dv, *(x.mT for x in dq)
