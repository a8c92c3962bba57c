"""From operands and one table of a plan to a kernel launch: tiles, lists, constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.config import NEWEST, Direction, Tile, choose, padded
from maskc_kernels.gpu.launch import Launch
from maskc_kernels.gpu.lists import RowLists, row_lists
from maskc_kernels.gpu.segments import BlockIds, cut_lists
from maskc_kernels.gpu.target import architecture

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables, BlockTable

__all__ = ["Operands", "Pass"]

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
        q_segment_ids: int32 [batch, q_len], padding -1; or None.
        kv_segment_ids: int32 [batch, kv_len], padding -2; or None.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    sm_scale: jax.Array
    sinks: jax.Array | None
    q_segment_ids: jax.Array | None
    kv_segment_ids: jax.Array | None


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the blocks, as far as the three kernels are alike.

    Attributes:
        operands: what is computed.
        lists: what the kernel reads of the plan.
        tile: how one program works.
        programs: how many programs run.
        constants: sizes and options that the kernel is compiled for.
    """

    operands: Operands
    lists: RowLists
    tile: Tile
    programs: int
    constants: dict[str, Any]

    @classmethod
    def of(
        cls, operands: Operands, table: BlockTable, direction: Direction, soft_cap: float | None
    ) -> Pass:
        """Choose tiles, and cut the plan's lists by segment ids if there are any."""
        q, _, v, *_ = operands
        (batch, heads, q_len, head_dim), (_, kv_heads, kv_len, v_head_dim) = q.shape, v.shape
        width, v_width = padded(head_dim), padded(v_head_dim)
        tile = choose(
            architecture() or NEWEST,  # without a GPU it can be traced, not compiled
            q.dtype.itemsize,
            max(width, v_width),
            direction,
            table.block_q,
            table.block_kv,
        )
        if direction == "dkv":
            lanes, rows, per_row = kv_heads, -(-kv_len // table.block_kv), table.block_kv // tile.kv
        else:
            lanes, rows, per_row = heads, -(-q_len // table.block_q), table.block_q // tile.q
        lists = row_lists(table, rows, transposed=direction == "dkv")
        has_full, has_partial = table.full_idx.shape[0] > 0, table.partial_idx.shape[0] > 0
        if operands.q_segment_ids is not None and operands.kv_segment_ids is not None:
            q_ids = BlockIds.of(operands.q_segment_ids, table.block_q)
            kv_ids = BlockIds.of(operands.kv_segment_ids, table.block_kv)
            ids = (kv_ids, q_ids) if direction == "dkv" else (q_ids, kv_ids)
            lists = cut_lists(lists, *ids)
            has_partial = has_partial or has_full
        constants = {
            "heads": heads,
            "kv_heads": kv_heads,
            "q_len": q_len,
            "kv_len": kv_len,
            "head_dim": head_dim,
            "v_head_dim": v_head_dim,
            "width": width,
            "v_width": v_width,
            "block_q": table.block_q,
            "block_kv": table.block_kv,
            "tile_q": tile.q,
            "tile_kv": tile.kv,
            "row_words": lists.words.shape[-1],
            "masks": table.masks(rows),
            "rows": rows,
            "together": _together(lanes, kv_heads, kv_len * (head_dim + v_head_dim), q.dtype),
            "soft_cap": soft_cap,
            "has_segments": operands.q_segment_ids is not None,
            "has_full": has_full,
            "has_partial": has_partial,
            "precision": "ieee" if q.dtype == jnp.float32 else "tf32",
        }
        return cls(operands, lists, tile, batch * lanes * rows * per_row, constants)

    def launch(
        self,
        kernel: Any,
        tables: AttentionTables,
        extra: tuple[jax.Array | None, ...],
        out_type: tuple[jax.ShapeDtypeStruct, ...],
        constants: dict[str, Any] | None = None,
    ) -> Launch:
        """The launch of a kernel.

        Args:
            kernel: under `triton.jit`.
            tables: the plan, for its head_mask.
            extra: operands of this kernel alone; they follow sm_scale.
            out_type: shapes and dtypes of the outputs.
            constants: of this kernel alone.
        """
        q, k, v, sm_scale, _, *segment_ids = self.operands
        head_mask = jnp.asarray(tables.head_mask)
        return Launch(
            kernel=kernel,
            operands=(q, k, v, sm_scale, *extra, *segment_ids, head_mask, *self.lists),
            out_type=out_type,
            programs=self.programs,
            warps=self.tile.warps,
            stages=self.tile.stages,
            constants=self.constants | (constants or {}),
        )


def _together(lanes: int, kv_heads: int, elements: int, dtype: jnp.dtype[Any]) -> int:
    """How many lanes start side by side: whole groups whose keys and values fit the L2 cache."""
    fitting = max(SECTION_BYTES // (elements * dtype.itemsize), 1)
    groups = next(n for n in range(min(fitting, kv_heads), 0, -1) if kv_heads % n == 0)
    return groups * (lanes // kv_heads)
