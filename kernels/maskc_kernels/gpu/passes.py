"""From operands and one table of a plan to a kernel launch: tiles, lists, constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.config import (
    NEWEST,
    Direction,
    Option,
    Tile,
    Tiles,
    choose,
    padded,
    row_lanes,
)
from maskc_kernels.gpu.constants import Constants
from maskc_kernels.gpu.launch import Launch
from maskc_kernels.gpu.lists import RowLists, row_lists
from maskc_kernels.gpu.segments import BlockIds, cut_lists
from maskc_kernels.gpu.target import architecture

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables, BlockTable

__all__ = ["BiasLanes", "Operands", "Pass", "bias_lanes"]

SECTION_BYTES = 16 << 20
"""Keys and values that programs at work should share; less than half of an A100's L2 cache."""


class Operands(NamedTuple):
    """All operands but the plan.

    Attributes:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: float32 [].
        sinks: float32 [heads] or None.
        bias: [batch or 1, heads or 1, q_len or 1, kv_len] or None.
        q_segment_ids: int32 [batch, q_len], padding -1; or None.
        kv_segment_ids: int32 [batch, kv_len], padding -2; or None.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    sm_scale: jax.Array
    sinks: jax.Array | None
    bias: jax.Array | None
    q_segment_ids: jax.Array | None
    kv_segment_ids: jax.Array | None


class BiasLanes(NamedTuple):
    """Which queries share a bias.

    Attributes:
        bias_batches: batch entries of the bias.
        bias_heads: heads of the bias.
        sharing_batches: batch entries that share one of them.
        sharing_heads: heads that share one of them.
    """

    bias_batches: int
    bias_heads: int
    sharing_batches: int
    sharing_heads: int


def bias_lanes(bias: tuple[int, ...], q: tuple[int, ...]) -> BiasLanes:
    """From the shapes of the bias and of q."""
    return BiasLanes(bias[0], bias[1], q[0] // bias[0], q[1] // bias[1])


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the blocks, as far as the kernels are alike.

    Attributes:
        operands: what is computed.
        head_mask: int32 [heads], of the plan.
        lists: what the kernel reads of the plan.
        tile: how one program works.
        lanes: batch entries times heads, or kv heads in the dkv pass.
        programs_per_lane: tiles in all rows of one lane.
        constants: sizes and options that the kernel is compiled for.
    """

    operands: Operands
    head_mask: jax.Array
    lists: RowLists
    tile: Tile
    lanes: int
    programs_per_lane: int
    constants: Constants

    @classmethod
    def of(
        cls,
        operands: Operands,
        tables: AttentionTables,
        direction: Direction,
        soft_cap: float | None,
        config: Tiles | None,
    ) -> Pass:
        """Choose tiles, and cut the plan's lists by segment ids if there are any."""
        q, _, v, *_ = operands
        (batch, heads, q_len, head_dim), (_, kv_heads, kv_len, v_head_dim) = q.shape, v.shape
        table: BlockTable = getattr(tables, direction)
        width, v_width = padded(head_dim), padded(v_head_dim)
        has_segments = operands.q_segment_ids is not None
        padding = (width, v_width) != (head_dim, v_head_dim)
        options: dict[Option, bool] = {
            "cap": soft_cap is not None,
            "bias": operands.bias is not None,
            "segments": has_segments,
            # The other kernels have room for these two.
            "padding": direction == "dkv" and padding,
            "ragged": direction == "dkv" and q_len % table.block_q != 0,
        }
        found = architecture() or NEWEST  # without a GPU it can be traced, not compiled
        tile = config.of(direction) if config else None
        tile = tile or choose(
            found,
            q.dtype.itemsize,
            max(width, v_width),
            direction,
            table.block_q,
            table.block_kv,
            options={name for name, present in options.items() if present},
        )
        if direction == "dkv":
            lanes, rows, per_row = kv_heads, -(-kv_len // table.block_kv), table.block_kv // tile.kv
        else:
            lanes, rows, per_row = heads, -(-q_len // table.block_q), table.block_q // tile.q
        bounds = tables.kv_bounds if direction == "dkv" else tables.q_bounds
        lists = row_lists(table, rows, bounds, transposed=direction == "dkv")
        has_full, has_partial = table.full_idx.shape[0] > 0, table.partial_idx.shape[0] > 0
        if operands.q_segment_ids is not None and operands.kv_segment_ids is not None:
            q_ids = BlockIds.of(operands.q_segment_ids, table.block_q)
            kv_ids = BlockIds.of(operands.kv_segment_ids, table.block_kv)
            ids = (kv_ids, q_ids) if direction == "dkv" else (q_ids, kv_ids)
            lists = cut_lists(lists, *ids)
            has_partial = has_partial or has_full
        constants = Constants(
            heads=heads,
            kv_heads=kv_heads,
            q_len=q_len,
            kv_len=kv_len,
            head_dim=head_dim,
            v_head_dim=v_head_dim,
            width=width,
            v_width=v_width,
            block_q=table.block_q,
            block_kv=table.block_kv,
            tile_q=tile.q,
            tile_kv=tile.kv,
            block_rows=0 if lists.words is None else lists.words.shape[-2],
            row_words=0 if lists.words is None else lists.words.shape[-1],
            intervals=0 if lists.bounds is None else lists.bounds.shape[1] // 2,
            row_lanes=row_lanes(found),
            masks=table.masks(rows),
            rows=rows,
            together=_together(lanes, kv_heads, kv_len * (head_dim + v_head_dim), q.dtype),
            soft_cap=soft_cap,
            has_segments=has_segments,
            has_full=has_full,
            has_partial=has_partial,
            precision="ieee" if q.dtype == jnp.float32 else "tf32",
            **_bias_strides(operands.bias),
        )
        head_mask = jnp.asarray(tables.head_mask)
        return cls(operands, head_mask, lists, tile, batch * lanes, rows * per_row, constants)

    def launch(
        self,
        kernel: Any,
        extra: tuple[jax.Array | None, ...],
        out_type: tuple[jax.ShapeDtypeStruct, ...],
        *,
        lanes: BiasLanes | None = None,
        has_sinks: bool = False,
    ) -> Launch:
        """The launch of a kernel.

        Args:
            kernel: under `triton.jit`.
            extra: operands of this kernel alone; they follow sm_scale.
            out_type: shapes and dtypes of the outputs.
            lanes: if given, the kernel runs over the lanes of the bias.
            has_sinks: among `extra` are sinks.
        """
        q, k, v, sm_scale, _, bias, *segment_ids = self.operands
        operands = (q, k, v, sm_scale, *extra, bias, *segment_ids, self.head_mask, *self.lists)
        constants, count = replace(self.constants, has_sinks=has_sinks), self.lanes
        if lanes:
            constants = replace(
                constants,
                bias_heads=lanes.bias_heads,
                sharing_batches=lanes.sharing_batches,
                sharing_heads=lanes.sharing_heads,
            )
            count = lanes.bias_batches * lanes.bias_heads
        return Launch(
            kernel=kernel,
            # What a kernel has no use for gets an address all the same, and is not read.
            operands=tuple(sm_scale if x is None else x for x in operands),
            out_type=out_type,
            programs=count * self.programs_per_lane,
            warps=self.tile.warps,
            stages=self.tile.stages,
            constants={"c": constants},
        )

    def launch_rows(
        self,
        kernel: Any,
        operands: tuple[jax.Array, ...],
        out_type: tuple[jax.ShapeDtypeStruct, ...],
    ) -> Launch:
        """The launch of a kernel that goes over all queries of all heads and reads no lists.

        Args:
            kernel: under `triton.jit`.
            operands: all of them.
            out_type: shapes and dtypes of the outputs.
        """
        batch, heads, q_len, _ = self.operands.q.shape
        return Launch(
            kernel=kernel,
            operands=operands,
            out_type=out_type,
            programs=batch * heads * -(-q_len // self.tile.q),
            warps=self.tile.warps,
            stages=self.tile.stages,
            constants={"c": self.constants},
        )


def _bias_strides(bias: jax.Array | None) -> dict[str, Any]:
    """Elements from one batch entry, head and query to the next; 0 where all share."""
    batch, heads, rows, row = (1, 1, 1, 0) if bias is None else bias.shape
    return {
        "has_bias": bias is not None,
        "bias_batch_stride": heads * rows * row if batch > 1 else 0,
        "bias_head_stride": rows * row if heads > 1 else 0,
        "bias_row_stride": row if rows > 1 else 0,
    }


def _together(lanes: int, kv_heads: int, elements: int, dtype: jnp.dtype[Any]) -> int:
    """How many lanes start side by side: whole groups whose keys and values fit the L2 cache."""
    fitting = max(SECTION_BYTES // (elements * dtype.itemsize), 1)
    groups = next(n for n in range(min(fitting, kv_heads), 0, -1) if kv_heads % n == 0)
    return groups * (lanes // kv_heads)
