"""Block lists -> splash attention's tables, bit for bit as JAX's `process_mask(_dkv)` makes them.

Source of the definition: `jax.experimental.pallas.ops.tpu.splash_attention` (JAX 0.10.2 to 0.12,
which agree). Where JAX fails, the answer here is the one that its kernel could run: a q shard with
no block at all keeps a width of one empty column, and a mask with nothing partial has no
`mask_next`, sharded or not.

Tables are written run by run from the last line to the first, in memory order, so a shrunk table
never costs its full grid and nothing is sorted or transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskc import run_loops
from maskc.block_runs import MaskBlocks, turned
from maskc.blocking import BlockGrid
from maskc.jit import loops_for
from maskc.memory import empty
from maskc.run_loops import DATA, MASK, STATE
from maskc_cache.plan import BlockState, SplashTables, smallest_dtype

__all__ = ["Prefetch", "SplashLayout", "splash_tables"]

_Ints = npt.NDArray[np.signedinteger[Any]]
Prefetch = Literal["jax", "keep"]
"""What the padding of shrunk tables holds; see `SplashLayout.prefetch`."""


@dataclass(frozen=True, slots=True)
class SplashLayout:
    """How splash tables are cut and packed.

    Attributes:
        head_shards: over how many devices the heads are split; it divides the heads.
        q_seq_shards: over how many devices the queries are split; it divides the q blocks.
        shrink_grid: drop empty blocks from rows (fwd) or columns (dkv), where JAX does.
        downcast_smem_data: use the smallest of int8, int16 and int32 for each table.
        prefetch: the padding of shrunk `data_next` and `mask_next`: "jax" has JAX's zeros, which
            make the kernel fetch block 0 and then fetch again what it had; "keep" repeats the next
            value that the walk needs, so that nothing is fetched twice. `block_mask` pads with 0.
    """

    head_shards: int = 1
    q_seq_shards: int = 1
    shrink_grid: bool = True
    downcast_smem_data: bool = True
    prefetch: Prefetch = "jax"


def splash_tables(
    blocks: MaskBlocks,
    columns: MaskBlocks,
    blocking: BlockGrid,
    head_mask: _Ints,
    layout: SplashLayout,
    direction: Literal["fwd", "dkv"],
) -> SplashTables:
    """The tables of one direction.

    Args:
        blocks: the blocks of all masks, with q blocks as rows.
        columns: the same with kv blocks as rows.
        blocking: the blocking that they were found for.
        head_mask: int [heads], the unique mask of each head.
        layout: shards, shrinking, dtypes and padding.
        direction: "fwd" or "dkv".

    Returns:
        `data_next`, `mask_next` and `block_mask`, each [rows, q blocks, width] for fwd and
        [rows, width, kv blocks] for dkv, with one row per head or per head shard.
    """
    masks, shrunk = _table_rows(head_mask, layout)
    fill = _fwd if direction == "fwd" else _dkv
    tables = fill(_Slabs(blocks, columns, blocking, masks, layout, shrunk))
    return SplashTables(tables[DATA], tables.get(MASK), tables[STATE])


def _table_rows(head_mask: _Ints, layout: SplashLayout) -> tuple[_Ints, bool]:
    """The unique mask that each table row speaks for, and whether rows may shrink.

    One row per head shard if no shard mixes masks, else one per head.
    """
    shards = head_mask.reshape(layout.head_shards, -1)
    uniform = bool((shards == shards[:, :1]).all())
    rows = shards[:, 0] if uniform else head_mask
    return rows, layout.shrink_grid and uniform and not head_mask.any()


@dataclass(frozen=True, slots=True)
class _Slabs:
    """What tables are made of: a slab is the part of them that one device walks.

    Attributes:
        blocks: the blocks of all masks, with q blocks as rows.
        columns: the same with kv blocks as rows.
        blocking: their blocking.
        masks: int [rows], the mask of each table row.
        layout: as the caller wants it.
        shrunk: only blocks have cells.
    """

    blocks: MaskBlocks
    columns: MaskBlocks
    blocking: BlockGrid
    masks: _Ints
    layout: SplashLayout
    shrunk: bool

    @property
    def keep(self) -> bool:
        """Whether padding holds what comes next."""
        return self.layout.prefetch == "keep"

    @property
    def loops(self) -> Any:
        """Plain or compiled loops."""
        return loops_for(run_loops, self.blocks.work + len(self.columns.ptr))

    @property
    def height(self) -> int:
        """Rows of blocks of a q shard."""
        return self.blocking.nq // self.layout.q_seq_shards

    def heads(self) -> Iterator[tuple[slice, slice | None]]:
        """The table rows of each head shard, and earlier ones that are just the same."""
        count, seen = len(self.masks) // self.layout.head_shards, dict[bytes, slice]()
        for first in range(0, len(self.masks), count):
            rows = slice(first, first + count)
            masks = self.masks[rows].tobytes()
            yield rows, seen.get(masks)
            seen.setdefault(masks, rows)

    def tables(self, shape: tuple[int, int, int], largest: int) -> dict[int, _Ints]:
        """Tables to fill, by kind, in the dtypes that hold their largest values.

        Without a partial block there is no `mask_next`, and with one it is 0 everywhere.
        """
        unique = len(self.blocks.bits)
        made = {}
        for kind, most in ((DATA, largest), (MASK, unique - 1), (STATE, int(BlockState.FULL))):
            dtype = smallest_dtype(most) if self.layout.downcast_smem_data else np.dtype(np.int32)
            if kind != MASK or unique:
                made[kind] = (np.zeros if kind == MASK and unique == 1 else empty)(shape, dtype)
        return made

    def to_fill(self, tables: dict[int, _Ints]) -> list[tuple[int, _Ints]]:
        """Those that are not filled already."""
        return [(k, t) for k, t in tables.items() if k != MASK or len(self.blocks.bits) > 1]


def _fwd(slabs: _Slabs) -> dict[int, _Ints]:
    """Tables whose lines are rows."""
    blocks, loops, (nq, nk) = slabs.blocks, slabs.loops, (slabs.blocking.nq, slabs.blocking.nk)
    shards = [range(first, first + slabs.height) for first in range(0, nq, slabs.height)]
    widths = [nk] * len(shards)
    if slabs.shrunk:
        spans = (blocks.ptr[shard.start : shard.stop + 1] for shard in shards)
        widths = [max(1, loops.longest(span, blocks.runs)) for span in spans]
    largest = max(int(blocks.runs[:, 1].max(initial=1)) - 1, 0)
    tables = slabs.tables((len(slabs.masks), nq, max(widths)), largest)
    iotas = {table.dtype: np.arange(largest + 1, dtype=table.dtype) for table in (tables[DATA],)}
    for kind, table in slabs.to_fill(tables):
        flat = table.reshape(-1, max(widths))
        iota = iotas.get(table.dtype) if kind == DATA else flat[0, :0]
        for rows, same in slabs.heads():
            if same is not None:
                table[rows] = table[same]
                continue
            numbers = np.arange(rows.start, rows.stop)[:, None] * nq
            lines = slabs.masks[rows, None].astype(np.int64) * nq
            for shard, own in zip(shards, widths, strict=True):
                q = np.arange(shard.start, shard.stop)
                loops.fill_rows(
                    kind, blocks.ptr, blocks.runs, (lines + q).ravel(), (numbers + q).ravel(),
                    own, slabs.shrunk, slabs.keep, iota, flat,
                )  # fmt: skip
    return tables


def _dkv(slabs: _Slabs) -> dict[int, _Ints]:
    """Tables whose lines are columns."""
    blocks, loops, (nq, nk) = slabs.blocks, slabs.loops, (slabs.blocking.nq, slabs.blocking.nk)
    height, firsts = slabs.height, range(0, nq, slabs.height)
    masks = (len(blocks.ptr) - 1) // nq
    shards = [slabs.columns]
    if len(firsts) > 1:  # a shard counts its q blocks from its first
        shards = [turned(blocks, masks, nk, (first, first + height)) for first in firsts]
    heights = [height] * len(shards)
    if slabs.shrunk:
        heights = [max(1, loops.longest(shard.ptr, shard.runs)) for shard in shards]
    largest = max(*(int(shard.runs[:, 1].max(initial=1)) for shard in shards), 1) - 1
    tables = slabs.tables((len(slabs.masks), max(heights) * len(shards), nk), largest)
    for kind, table in slabs.to_fill(tables):
        for number, (shard, own) in enumerate(zip(shards, heights, strict=True)):
            part = table[:, number * max(heights) : (number + 1) * max(heights)]
            for rows, same in slabs.heads():
                if same is not None:
                    part[rows] = part[same]
                    continue
                edges = np.zeros((rows.stop - rows.start, nk), np.int64)
                if kind != STATE:
                    loops.column_edges(kind, shard.ptr, shard.runs, slabs.masks[rows], edges)
                for row, edge in zip(range(rows.start, rows.stop), edges, strict=True):
                    mask = int(slabs.masks[row])
                    if slabs.shrunk:
                        loops.fill_columns(
                            kind, shard.ptr, shard.runs, mask * nk, edge, own, slabs.keep, part[row]
                        )
                    else:
                        first = mask * nq + firsts[number]
                        loops.fill_grid_columns(
                            kind, blocks.ptr, blocks.runs, first, edge, part[row]
                        )
    return tables
