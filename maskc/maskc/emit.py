"""Block lists -> splash attention's tables, bit for bit as JAX's `process_mask(_dkv)` makes them.

Source of the definition: `jax.experimental.pallas.ops.tpu.splash_attention` (JAX 0.10.2 to 0.12,
which agree). Where JAX fails, the answer here is the one that its kernel could run: a q shard with
no block at all keeps a width of one empty column, and a mask with nothing partial has no
`mask_next`, sharded or not.

Tables are written run by run from the last line to the first, in memory order, so a shrunk table
never costs its full grid and nothing is sorted or transposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskc import table_loops
from maskc.block_runs import MaskBlocks, turned
from maskc.blocking import BlockGrid
from maskc.jit import loops_for
from maskc.memory import empty
from maskc.table_loops import DATA, MASK, STATE
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
    loops = loops_for(table_loops, blocks.work + len(columns.ptr))
    tables = fill(_Slabs(blocks, columns, blocking, masks, layout, shrunk, loops))
    return SplashTables(tables[DATA], tables.get(MASK), tables[STATE])


def _table_rows(head_mask: _Ints, layout: SplashLayout) -> tuple[_Ints, bool]:
    """The unique mask that each table row speaks for, and whether rows may shrink.

    One row per head shard if no shard mixes masks, else one per head.
    """
    if not head_mask.any():
        return np.zeros(layout.head_shards, np.int64), layout.shrink_grid
    shards = head_mask.reshape(layout.head_shards, -1)
    uniform = bool((shards == shards[:, :1]).all())
    return (shards[:, 0] if uniform else head_mask).astype(np.int64), False


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
        loops: plain or compiled ones.
    """

    blocks: MaskBlocks
    columns: MaskBlocks
    blocking: BlockGrid
    masks: _Ints
    layout: SplashLayout
    shrunk: bool
    loops: Any

    @property
    def keep(self) -> bool:
        """Whether padding holds what comes next."""
        return self.layout.prefetch == "keep"

    @property
    def height(self) -> int:
        """Rows of blocks of a q shard."""
        return self.blocking.nq // self.layout.q_seq_shards

    def heads(self) -> Iterator[tuple[slice, slice | None]]:
        """The table rows of each head shard, and earlier ones that are just the same."""
        count, seen = len(self.masks) // self.layout.head_shards, dict[bytes, slice]()
        if count == len(self.masks):
            yield slice(0, count), None
            return
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
    firsts, widths = range(0, nq, slabs.height), [nk] * slabs.layout.q_seq_shards
    longest, largest = loops.extent(blocks.ptr, blocks.runs)
    if slabs.shrunk:  # of one mask
        spans = (blocks.ptr[first : first + slabs.height + 1] for first in firsts)
        widths = [longest]
        if len(firsts) > 1:
            widths = [loops.extent(span, blocks.runs)[0] for span in spans]
    width = max(widths)
    tables = slabs.tables((len(slabs.masks), nq, width), largest)
    iota = np.arange(largest + 1, dtype=tables[DATA].dtype)
    for rows, same in slabs.heads():
        if same is not None:
            for table in tables.values():
                table[rows] = table[same]
            continue
        for first, own in zip(firsts, widths, strict=True):
            lines = nq, first, first + slabs.height
            for kind, table in slabs.to_fill(tables):
                loops.fill_rows(
                    kind, blocks.ptr, blocks.runs, slabs.masks[rows], lines, own, slabs.shrunk,
                    slabs.keep, iota if kind == DATA else table[0, 0, :0], table[rows],
                )  # fmt: skip
    return tables


def _dkv(slabs: _Slabs) -> dict[int, _Ints]:
    """Tables whose lines are columns."""
    loops, (nq, nk), height = slabs.loops, (slabs.blocking.nq, slabs.blocking.nk), slabs.height
    masks, firsts, shards = (len(slabs.blocks.ptr) - 1) // nq, range(0, nq, height), [slabs.columns]
    if len(firsts) > 1:  # a shard counts its q blocks from its first
        shards = [turned(slabs.blocks, masks, nk, (at, at + height)) for at in firsts]
    extents = [loops.extent(shard.ptr, shard.runs) for shard in shards]
    heights = [longest if slabs.shrunk else height for longest, _ in extents]
    tall, largest = max(heights), max(last for _, last in extents)
    tables = slabs.tables((len(slabs.masks), tall * len(shards), nk), largest)
    for rows, same in slabs.heads():
        if same is not None:
            for table in tables.values():
                table[rows] = table[same]
            continue
        for number, (shard, own) in enumerate(zip(shards, heights, strict=True)):
            part = slice(number * tall, (number + 1) * tall)
            parts = [(kind, table[rows, part]) for kind, table in slabs.to_fill(tables)]
            _columns(slabs, shard, slabs.masks[rows], firsts[number], own, parts)
    return tables


def _columns(
    slabs: _Slabs,
    shard: MaskBlocks,
    masks: _Ints,
    first: int,
    own: int,
    parts: Sequence[tuple[int, _Ints]],
) -> None:
    """Fill all kinds of tables of one head shard and q shard, each [table rows, rows, kv blocks].

    Args:
        slabs: what the tables are made of.
        shard: the runs of the shard's columns.
        masks: the mask of each table row.
        first: the shard's first row of blocks.
        own: rows of the tables that are the shard's.
        parts: (kind, table), each [table rows, rows, kv blocks].
    """
    loops, blocks, nk = slabs.loops, slabs.blocks, slabs.blocking.nk
    edges = np.zeros((3, len(masks), nk), np.int64)
    for kind, _ in parts:
        if kind != STATE:
            loops.column_edges(kind, shard.ptr, shard.runs, masks, edges[kind])
    if not slabs.shrunk:
        for kind, table in parts:
            lines = slabs.blocking.nq, first
            loops.fill_grid_columns(kind, blocks.ptr, blocks.runs, masks, lines, edges[kind], table)
        return
    for row, mask in enumerate(masks.tolist()):
        turns = loops.column_turns(shard.ptr, shard.runs, mask * nk, nk, own)
        for kind, table in parts:
            edge, part = edges[kind, row], table[row]
            part.fill(0)  # all of it at once, at the speed of memory; most of it may be padding
            loops.fill_columns(kind, shard.runs, turns, edge, own, slabs.keep, part)
