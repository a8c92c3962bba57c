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
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc import column_table_loops, table_loops
from maskc.block_runs import MaskBlocks, part_of, turned
from maskc.blocking import BlockGrid
from maskc.jit import loops_for
from maskc.memory import empties
from maskc.table_loops import DATA, MASK, STATE
from maskc_cache.plan import BlockState, SplashTables, smallest_dtype

__all__ = ["Prefetch", "SplashLayout", "splash_tables"]

_Ints = npt.NDArray[np.signedinteger[Any]]
_Tables = dict[int, _Ints]
_INT32 = np.iinfo(np.int32).max
Prefetch = Literal["jax", "keep"]
"""What the padding of shrunk tables holds; see `SplashLayout.prefetch`."""


class SplashLayout(NamedTuple):
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
    made = _fwd if direction == "fwd" else _dkv
    tables = made(_Slabs(blocks, columns, blocking, masks, layout, shrunk))
    return SplashTables(tables[DATA], tables.get(MASK), tables[STATE])


def _table_rows(head_mask: _Ints, layout: SplashLayout) -> tuple[_Ints, bool]:
    """The unique mask that each table row speaks for, and whether rows may shrink.

    One row per head shard if no shard mixes masks, else one per head.
    """
    if not any(head_mask.tolist()):
        return np.zeros(layout.head_shards, np.int64), layout.shrink_grid
    shards = head_mask.reshape(layout.head_shards, -1)
    uniform = bool((shards == shards[:, :1]).all())
    return (shards[:, 0] if uniform else head_mask).astype(np.int64), False


class _Slabs(NamedTuple):
    """What tables are made of: a slab is the part of them that one device walks.

    Attributes:
        blocks: the blocks of all masks, with q blocks as rows.
        columns: the same with kv blocks as rows.
        blocking: their blocking.
        masks: int [rows], the mask of each table row.
        layout: as the caller wants it.
        shrunk: only blocks have cells; then all table rows are of one mask.
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
    def height(self) -> int:
        """Rows of blocks of a q shard."""
        return self.blocking.nq // self.layout.q_seq_shards

    def shards(self) -> list[MaskBlocks]:
        """The rows of blocks of each q shard."""
        if self.layout.q_seq_shards == 1:
            return [self.blocks]
        nq, height = self.blocking.nq, self.height
        masks = self.blocks.lines // nq
        return [part_of(self.blocks, masks, at, at + height) for at in range(0, nq, height)]

    def heads(self) -> Iterator[tuple[slice, slice | None]]:
        """The table rows of each head shard, and earlier ones that are just the same."""
        count = len(self.masks) // self.layout.head_shards
        seen: dict[bytes, slice] = {}
        for first in range(0, len(self.masks), count):
            rows = slice(first, first + count)
            masks = self.masks[rows].tobytes()
            yield rows, seen.get(masks)
            seen.setdefault(masks, rows)

    def tables(self, shape: tuple[int, int, int], largest: int, *, zeros: bool = False) -> _Tables:
        """Tables to fill, by kind, in the dtypes that hold their largest values.

        Without a partial block there is no `mask_next`, and with one it is 0 everywhere.

        Args:
            shape: of each table.
            largest: the largest value of `data_next`.
            zeros: whether they are to be of zeros.
        """
        unique, most = len(self.blocks.bits), {STATE: int(BlockState.FULL), DATA: largest}
        if unique > 1:
            most[MASK] = unique - 1
        small = self.layout.downcast_smem_data
        dtypes = [smallest_dtype(value if small else _INT32) for value in most.values()]
        made = dict(zip(most, empties(shape, dtypes, zeros=zeros), strict=True))
        if unique == 1:
            made[MASK] = np.zeros(shape, smallest_dtype(0 if small else _INT32))
        return made

    @property
    def to_fill(self) -> tuple[int, ...]:
        """The tables that are not filled already; block_mask first, which says what is padding."""
        return (STATE, MASK, DATA) if len(self.blocks.bits) > 1 else (STATE, DATA)


def _fwd(slabs: _Slabs) -> _Tables:
    """Tables whose lines are rows."""
    (nq, nk), shards = (slabs.blocking.nq, slabs.blocking.nk), slabs.shards()
    widths = [shard.sizes[2] if slabs.shrunk else nk for shard in shards]
    largest = slabs.blocks.sizes[3]
    tables = slabs.tables((len(slabs.masks), nq, max(widths)), largest)
    _fill_rows(slabs, shards, widths, largest, tables)
    return tables


def _fill_rows(
    slabs: _Slabs,
    shards: Sequence[MaskBlocks],
    widths: Sequence[int],
    largest: int,
    tables: _Tables,
) -> None:
    """Fill tables whose lines are rows.

    Args:
        slabs: what the tables are made of.
        shards: the rows of blocks of each q shard.
        widths: the cells of each line that are a shard's.
        largest: the largest value of `data_next`.
        tables: what to fill.
    """
    _, nq, width = tables[STATE].shape
    iota = np.arange(largest + 1, dtype=tables[DATA].dtype)
    for rows, same in slabs.heads():
        if same is not None:
            for table in tables.values():
                table[rows] = table[same]
            continue
        masks, states = slabs.masks[rows], tables[STATE][rows].reshape(-1, nq * width)
        like = np.empty(len(masks), np.int64)
        for number, (shard, own) in enumerate(zip(shards, widths, strict=True)):
            loops = loops_for(table_loops, shard.work)
            height = slabs.height
            lines = height, number * height, width
            for kind in slabs.to_fill:
                table = tables[kind][rows]
                cells = table.reshape(-1, nq * width)
                loops.fill_rows(
                    kind, shard.bands, shard.ptr, shard.runs, masks, lines, own, slabs.shrunk,
                    slabs.keep, iota if kind == DATA else cells[0, :0], states, like, cells,
                )  # fmt: skip
                _copy_rows(like, table[:, number * height : (number + 1) * height])


def _copy_rows(like: _Ints, table: _Ints) -> None:
    """Copy table rows that are like others, as many at once as lie side by side, there and here."""
    source, first = like.tolist(), 0
    for row in range(1, len(source) + 1):
        if row < len(source) and source[row] == source[row - 1] + 1:
            continue
        if source[first] != first:
            table[first:row] = table[source[first] : source[first] + row - first]
        first = row


def _dkv(slabs: _Slabs) -> _Tables:
    """Tables whose lines are columns."""
    nk, height, parts, shards = slabs.blocking.nk, slabs.height, slabs.shards(), [slabs.columns]
    if len(parts) > 1:  # a shard counts its q blocks from its first
        masks = slabs.columns.lines // nk
        shards = [turned(part, masks, nk) for part in parts]
    heights = [shard.sizes[2] if slabs.shrunk else height for shard in shards]
    tall, largest = max(heights), max(shard.sizes[3] for shard in shards)
    # zeros are fastest all at once, but copies and little padding are as well written just once
    found = sum(sum(shard.sizes[:2]) for shard in shards)
    copied = sum(len(shard.ptr) for shard in shards) < nk // 2
    zeros = slabs.shrunk and not (copied and 2 * found > tall * nk * len(shards))
    tables = slabs.tables((len(slabs.masks), tall * len(shards), nk), largest, zeros=zeros)
    cut = list(zip(parts, shards, heights, strict=True))
    _fill_columns(slabs, cut, tables, zeros=zeros)
    return tables


def _fill_columns(
    slabs: _Slabs,
    shards: Sequence[tuple[MaskBlocks, MaskBlocks, int]],
    tables: _Tables,
    *,
    zeros: bool,
) -> None:
    """Fill tables whose lines are columns.

    Args:
        slabs: what the tables are made of.
        shards: (rows of blocks, columns, rows of the tables that are its own) of each q shard.
        tables: what to fill.
        zeros: whether they are of zeros already.
    """
    tall = tables[STATE].shape[1] // len(shards)
    for rows, same in slabs.heads():
        if same is not None:
            for table in tables.values():
                table[rows] = table[same]
            continue
        for number, (blocks, columns, own) in enumerate(shards):
            part = slice(number * tall, (number + 1) * tall)
            kinds = [(kind, tables[kind][rows, part]) for kind in slabs.to_fill]
            if slabs.shrunk:
                _fill_shrunk(columns, own, kinds, keep=slabs.keep, zeros=zeros)
            else:
                _fill_grid(blocks, columns, slabs.masks[rows], kinds)


def _fill_grid(
    blocks: MaskBlocks, columns: MaskBlocks, masks: _Ints, tables: Sequence[tuple[int, _Ints]]
) -> None:
    """Fill tables of one head shard and q shard that have a cell for every block.

    Args:
        blocks: the shard's rows of blocks.
        columns: the shard's columns.
        masks: the mask of each table row.
        tables: (kind, table), each [table rows, rows, kv blocks].
    """
    loops = loops_for(column_table_loops, blocks.work + columns.work)
    like = np.empty(len(masks), np.int64)
    for kind, table in tables:
        loops.fill_grid_columns(
            kind, blocks.bands, blocks.ptr, blocks.runs,
            columns.bands, columns.ptr, columns.runs, masks, like, table,
        )  # fmt: skip
        _copy_rows(like, table)


def _fill_shrunk(
    columns: MaskBlocks, own: int, tables: Sequence[tuple[int, _Ints]], *, keep: bool, zeros: bool
) -> None:
    """Fill tables of one head shard and q shard that have cells for blocks only.

    Args:
        columns: the shard's columns, of the one mask that there is.
        own: rows of the tables that are the shard's.
        tables: (kind, table), each [1, rows, kv blocks]; the first is block_mask.
        keep: whether padding holds what comes next.
        zeros: whether the tables are of zeros already.
    """
    loops = loops_for(column_table_loops, columns.work)
    arrays, states = (columns.bands, columns.ptr, columns.runs), tables[0][1][0]
    latest = np.empty(own + 1, np.int32)
    turns = np.empty((2 * (len(columns.runs) + len(columns.ptr)), 4), np.int32)
    loops.column_turns(*arrays, own, latest, turns)
    for kind, table in tables:
        loops.fill_columns(kind, *arrays, latest, turns, own, keep, zeros, states, table[0])
