"""Block lists -> splash attention's tables, bit for bit as JAX's `process_mask(_dkv)` makes them.

Source of the definition: `jax.experimental.pallas.ops.tpu.splash_attention` (JAX 0.10.2 to 0.12,
which agree). Where JAX fails, the answer here is the one that its kernel could run: a q shard with
no block at all keeps a width of one empty column, and a mask with nothing partial has no
`mask_next`, sharded or not.

Every slab (the part of the tables that one device walks) goes through the same small passes:
walk (lists -> blocks in walk order) -> live cells of the padded lines -> next pointers -> turn
(dkv's lines are columns). They work on the lists, so a shrunk table never costs its full grid, and
nothing is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskc.blocking import BlockGrid
from maskc.walk import Walk, next_flagged, walk
from maskc_cache.plan import BlockLists, BlockState, SplashTables, smallest_dtype

__all__ = ["Prefetch", "SplashLayout", "splash_tables"]

_Ints = npt.NDArray[np.signedinteger[Any]]
_Bools = npt.NDArray[np.bool_]
_DType = np.dtype[np.signedinteger[Any]]
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
    lists: BlockLists,
    blocking: BlockGrid,
    head_mask: _Ints,
    layout: SplashLayout,
    direction: Literal["fwd", "dkv"],
) -> SplashTables:
    """The tables of one direction.

    Args:
        lists: the direction's block lists: rows are q blocks for fwd, kv blocks for dkv.
        blocking: the blocking that `lists` was made for.
        head_mask: int [heads], the unique mask of each head.
        layout: shards, shrinking, dtypes and padding.
        direction: "fwd" or "dkv".

    Returns:
        `data_next`, `mask_next` and `block_mask`, each [rows, q blocks, width] for fwd and
        [rows, width, kv blocks] for dkv, with one row per head or per head shard.
    """
    rows, may_shrink = _table_rows(head_mask, layout)
    head_shards = [tuple(masks) for masks in rows.reshape(layout.head_shards, -1).tolist()]
    height = blocking.nq // layout.q_seq_shards
    walks = [
        {
            masks: walk(
                lists, _lines(masks, blocking, q, direction), q if direction == "dkv" else None
            )
            for masks in head_shards
        }
        for q in (range(q, q + height) for q in range(0, blocking.nq, height))
    ]
    unshrunk = blocking.nk if direction == "fwd" else height
    widths = [_longest_line(shard) if may_shrink else unshrunk for shard in walks]
    form = _Form(
        width=max(widths),
        turned=direction == "dkv",
        shrunk=may_shrink,
        keep=not may_shrink or layout.prefetch == "keep",
        dtypes=_dtypes(lists, layout, unshrunk),
    )
    parts = []
    for shard, width in zip(walks, widths, strict=True):
        slabs = {masks: _slab(w, width, len(masks), form) for masks, w in shard.items()}
        parts.append(_joined([slabs[masks] for masks in head_shards], axis=0))
    data_next, mask_next, block_mask = _joined(parts, axis=1)
    return SplashTables(data_next, mask_next if len(lists.partial_blocks) else None, block_mask)


def _table_rows(head_mask: _Ints, layout: SplashLayout) -> tuple[_Ints, bool]:
    """The unique mask that each table row speaks for, and whether rows may shrink.

    One row per head shard if no shard mixes masks, else one per head.
    """
    shards = head_mask.reshape(layout.head_shards, -1)
    uniform = bool((shards == shards[:, :1]).all())
    rows = shards[:, 0] if uniform else head_mask
    return rows, layout.shrink_grid and uniform and not head_mask.any()


def _dtypes(lists: BlockLists, layout: SplashLayout, columns: int) -> tuple[_DType, _DType, _DType]:
    """The dtypes of data_next, mask_next and block_mask: what holds the largest value of each.

    Every live column and every partial block's number is in some table, so their maxima decide.
    """
    if not layout.downcast_smem_data:
        int32: _DType = np.dtype(np.int32)
        return int32, int32, int32
    columns_of = [idx for idx in (lists.full_idx, lists.partial_idx) if len(idx)]
    # dkv counts q blocks within their shard; the remainder is only taken where that matters
    largest = [int(idx.max()) for idx in columns_of]
    if max(largest, default=0) >= columns:
        largest = [int((idx % columns).max()) for idx in columns_of]
    return (
        smallest_dtype(max(largest, default=0)),
        smallest_dtype(len(lists.partial_blocks) - 1),
        np.dtype(np.int8),
    )


def _lines(masks: tuple[int, ...], blocking: BlockGrid, q: range, direction: str) -> _Ints:
    """The list rows of a slab in walk order: fwd (table row, q, kv), dkv (kv, table row, q)."""
    each = np.array(masks)
    if direction == "fwd":
        lines = each[:, None] * blocking.nq + np.arange(q.start, q.stop)
    else:
        lines = np.arange(blocking.nk)[:, None] + each * blocking.nk
    return lines.ravel()


# --- slab: a walk as padded tables ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """What all slabs of a call have in common.

    Attributes:
        width: cells per line of the final tables.
        turned: dkv: lines are the tables' columns, and blocks sit at their lower ends.
        shrunk: only non-empty blocks have cells, else every block has one.
        keep: cells without a block hold the next values, else 0.
        dtypes: of data_next, mask_next and block_mask.
    """

    width: int
    turned: bool
    shrunk: bool
    keep: bool
    dtypes: tuple[_DType, _DType, _DType]


def _longest_line(walks: dict[tuple[int, ...], Walk]) -> int:
    """The width of a shrunk q shard; one empty column if it has no block."""
    return max(1, *(int(w.counts.max()) for w in walks.values()))


def _slab(w: Walk, own: int, rows: int, form: _Form) -> list[_Ints]:
    """The three tables of a slab of `rows` table rows, its own lines being `own` cells long."""
    data_dtype, mask_dtype, state_dtype = form.dtypes
    live, partial_cells = _cells(w, own, form)
    state = np.multiply(live, BlockState.FULL, dtype=state_dtype)
    state.ravel()[partial_cells] = BlockState.PARTIAL
    data, mask = np.zeros(live.shape, data_dtype), np.zeros(live.shape, mask_dtype)
    data[state == BlockState.FULL] = w.full.astype(data_dtype, copy=False)
    data.ravel()[partial_cells] = w.partial
    number = w.number.astype(mask_dtype, copy=False)
    if form.keep:
        cells = np.flatnonzero(live)
        data = next_flagged(cells, data.ravel()[cells], live.size).reshape(live.shape)
        mask = next_flagged(partial_cells, number, live.size).reshape(live.shape)
    else:
        if number.any():  # with one partial block, all are 0
            mask[live] = next_flagged(w.place, number, len(w.full) + len(w.partial))
        for table in (data, mask):  # JAX extends narrow q shards with their last entries
            table[:, own:] = table[:, own - 1 : own]
    if not form.turned:
        return [table.reshape(rows, -1, form.width) for table in (data, mask, state)]
    data, state = (_turned(table.reshape(-1, rows, form.width)) for table in (data, state))
    if number.any():
        return [data, _turned(mask.reshape(-1, rows, form.width)), state]
    return [data, mask.reshape(data.shape), state]  # zeros look the same from every side


def _cells(w: Walk, own: int, form: _Form) -> tuple[_Bools, _Ints]:
    """Which cells of [lines, width] hold a block, and the flat numbers of the partial ones'."""
    counts, partial_first = w.counts, w.line * form.width
    if not form.shrunk:
        live = np.zeros((len(counts), form.width), np.bool_)
        partial_cells = partial_first + w.partial
        live.ravel()[partial_cells] = True
        full_counts = counts - np.bincount(w.line, minlength=len(counts))
        full_first = np.repeat(np.arange(len(counts)) * form.width, full_counts)
        live.ravel()[full_first + w.full] = True
        return live, partial_cells
    small = smallest_dtype(form.width)  # an eighth of the time of comparing int64
    lane, height = np.arange(form.width, dtype=small), counts.astype(small)[:, None]
    rank = w.place - (counts.cumsum() - counts)[w.line]
    if not form.turned:
        return lane < height, partial_first + rank
    live = lane >= own - height
    live[:, own:] = False
    return live, partial_first + rank + (own - counts)[w.line]


def _turned(table: _Ints) -> _Ints:
    """[lines, rows, cells] -> [rows, cells, lines].

    Large ones go by strips of lines that stay in cache, 8 bytes of a column at a time: five times
    as fast as element by element.
    """
    lines, rows, cells = table.shape
    pack = 8 // table.itemsize
    if table.size < _LARGE or lines % pack:
        return np.ascontiguousarray(table.transpose(1, 2, 0))
    turned = np.empty((rows * cells, lines // pack), np.int64)
    flat = table.reshape(lines, rows * cells)
    for start in range(0, lines, _STRIP):
        strip = flat[start : start + _STRIP]
        words = np.empty((len(strip) // pack, rows * cells, pack), table.dtype)
        for i in range(pack):
            words[:, :, i] = strip[i::pack]
        at = start // pack
        turned[:, at : at + len(words)] = words.view(np.int64)[:, :, 0].T
    return turned.view(table.dtype).reshape(rows, cells, lines)


_LARGE = 1 << 16  # cells; below, the table fits a core's nearest cache anyway
_STRIP = 512  # lines; measured best of 64 to 512 for 2048 x 2048 tables


def _joined(slabs: list[list[_Ints]], axis: int) -> list[_Ints]:
    """The tables of several slabs along an axis; those of one as they are."""
    if len(slabs) == 1:
        return slabs[0]
    return [np.concatenate(tables, axis=axis) for tables in zip(*slabs, strict=True)]
