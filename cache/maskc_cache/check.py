"""What must hold inside a plan, as code.

`check_ranges` is cheap and runs on every load: after it, no index of the plan can point outside
its arrays. `verify` adds the invariants that make the plan the one plan of its mask. Both work on
the lists as they are, so they take memory in proportion to the plan, however long its lengths say
that the sequences are.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from maskc_cache.errors import PlanCorruptError
from maskc_cache.plan import (
    MAX_INTERVALS,
    BlockLists,
    BlockState,
    Direction,
    Plan,
    SplashTables,
    blocks_along,
    smallest_dtype,
)

__all__ = ["check_ranges", "verify"]

_Array: TypeAlias = npt.NDArray[Any]
_Kind: TypeAlias = Literal["full", "partial"]

_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4)}
_UINT8, _INT32 = np.dtype(np.uint8), np.dtype(np.int32)
_INTS = (np.dtype(np.int8), np.dtype(np.int16), _INT32)
_DIRECTIONS: tuple[Direction, ...] = ("fwd", "dq", "dkv")
_KINDS: tuple[_Kind, ...] = ("full", "partial")


def check_ranges(plan: Plan) -> None:
    """Refuse a plan with an index that points outside its arrays.

    Raises:
        PlanCorruptError: with the section, the place, the value and what was expected.
    """
    if plan.head_mask.dtype != _INT32 or plan.head_mask.ndim != 1:
        raise _array_error("head_mask", plan.head_mask, (None,), (_INT32,))
    if not plan.heads or plan.heads % plan.head_shards:
        raise PlanCorruptError(
            f"head_mask: expected one head or more in each of {plan.head_shards} equal shards, "
            f"got {plan.heads}"
        )
    masks = _checked_masks(plan.head_mask)
    for direction in _DIRECTIONS:
        if direction != "dq" or plan.dq is not plan.fwd:
            _check_lists(direction, plan.lists(direction), masks, plan.grid(direction))
    for direction, tables in _tables(plan):
        _check_tables(plan, direction, tables)
    _check_bounds(plan)


def verify(plan: Plan) -> None:
    """Refuse a plan that breaks any invariant; for tests, `maskc verify` and the careful.

    Raises:
        PlanCorruptError: with the section and what does not hold.
    """
    check_ranges(plan)
    for direction in _DIRECTIONS:
        _verify_lists(direction, plan.lists(direction), plan.grid(direction))
        _verify_blocks(plan, direction)
        _verify_edges(plan, direction)
    _verify_agreement(plan, "dq", "fwd")
    _verify_agreement(plan, "dkv", "fwd")
    _verify_agreement(plan, "dkv", "dq")
    for direction, tables in _tables(plan):
        _verify_tables(plan, direction, tables)
    _verify_bounds(plan)
    if plan.digest != dataclasses.replace(plan).digest:  # a copy computes its digest afresh
        raise PlanCorruptError("digest: an array was changed after the digest was computed")


def _tables(plan: Plan) -> list[tuple[Direction, SplashTables]]:
    both: list[tuple[Direction, SplashTables | None]]
    both = [("fwd", plan.splash_fwd), ("dkv", plan.splash_dkv)]
    return [(direction, tables) for direction, tables in both if tables is not None]


def _list(lists: BlockLists, kind: _Kind) -> tuple[_Array, _Array]:
    """The offsets and the columns of the full or of the partial blocks."""
    if kind == "full":
        return lists.full_ptr, lists.full_idx
    return lists.partial_ptr, lists.partial_idx


def _place(entry: int, ptr: _Array, rows: int) -> str:
    """Where a list entry belongs, for error messages."""
    mask, row = divmod(int(np.searchsorted(ptr, entry, side="right")) - 1, rows)
    return f"{entry} (mask {mask}, row {row})"


# --- ranges -------------------------------------------------------------------------------------


def _array_error(
    name: str, array: _Array, shape: tuple[int | None, ...], dtypes: tuple[np.dtype[Any], ...]
) -> PlanCorruptError:
    """What is wrong with an array that is not of a shape (None may be any) and of some dtype."""
    if array.dtype not in dtypes:
        allowed = ", ".join(map(str, dtypes))
        return PlanCorruptError(f"{name}: expected dtype {allowed}, got {array.dtype}")
    want = ", ".join("any" if n is None else str(n) for n in shape)
    return PlanCorruptError(f"{name}: expected shape [{want}], got {list(array.shape)}")


def _outside(array: _Array, stop: int) -> int | None:
    """The flat position of an element not in [0, stop), or None.

    One pass over the array, since a negative is huge when read as unsigned.
    """
    if not array.size:
        return None
    unsigned = array.view(_UNSIGNED[array.itemsize])
    at = int(unsigned.argmax())
    return at if unsigned.item(at) >= stop else None


def _range_error(name: str, array: _Array, stop: int, at: int, place: str) -> PlanCorruptError:
    expected = f"values from 0 to {stop - 1}" if stop else "no values"
    return PlanCorruptError(f"{name}: expected {expected}, got {array.flat[at]} at {place}")


def _checked_masks(head_mask: _Array) -> int:
    """How many masks there are, once they are numbered by first use."""
    if not np.count_nonzero(head_mask):
        return 1
    largest = np.maximum.accumulate(head_mask)  # so far
    if (
        head_mask[0] != 0
        or _outside(head_mask, len(head_mask)) is not None
        or np.count_nonzero(head_mask[1:] - largest[:-1] > 1)
    ):
        raise PlanCorruptError("head_mask: masks are not numbered by first use")
    return int(largest[-1]) + 1


def _check_lists(name: str, lists: BlockLists, masks: int, grid: tuple[int, int]) -> None:
    rows, columns = grid
    blocks, ids = lists.partial_blocks, lists.partial_id
    bits = (lists.block_q, -(-lists.block_kv // 8))
    if blocks.dtype != _UINT8 or blocks.shape[1:] != bits:
        raise _array_error(f"{name}.partial_blocks", blocks, (None, *bits), (_UINT8,))
    for kind in _KINDS:
        ptr, idx = _list(lists, kind)
        if ptr.dtype != _INT32 or ptr.shape != (masks * rows + 1,):
            raise _array_error(f"{name}.{kind}_ptr", ptr, (masks * rows + 1,), (_INT32,))
        if idx.dtype not in _INTS or idx.ndim != 1:
            raise _array_error(f"{name}.{kind}_idx", idx, (None,), _INTS)
        falls = ptr[1:] < ptr[:-1]
        if ptr.item(0) or ptr.item(-1) != len(idx) or falls.item(falls.argmax()):
            raise PlanCorruptError(
                f"{name}.{kind}_ptr: expected offsets that rise from 0 to {len(idx)}"
            )
        if (at := _outside(idx, columns)) is not None:
            place = _place(at, ptr, rows)
            raise _range_error(f"{name}.{kind}_idx", idx, columns, at, place)
    if ids.dtype not in _INTS or ids.shape != lists.partial_idx.shape:
        raise _array_error(f"{name}.partial_id", ids, lists.partial_idx.shape, _INTS)
    if (at := _outside(ids, len(blocks))) is not None:
        place = _place(at, lists.partial_ptr, rows)
        raise _range_error(f"{name}.partial_id", ids, len(blocks), at, place)


def _check_tables(plan: Plan, direction: Direction, tables: SplashTables) -> None:
    name, lists = f"splash_{direction}", plan.lists(direction)
    nq, nk = blocks_along(plan.q_len, lists.block_q), blocks_along(plan.kv_len, lists.block_kv)
    shape = tables.block_mask.shape
    if len(shape) != 3 or shape[0] not in {plan.heads, plan.head_shards}:
        raise PlanCorruptError(
            f"{name}.block_mask: expected [heads or head_shards, ...], got {list(shape)}"
        )
    kept, shrunk = (shape[1], shape[2]) if direction == "fwd" else (shape[2], shape[1])
    rows, columns = plan.grid(direction)
    if kept != rows or not 0 < shrunk <= columns:
        raise PlanCorruptError(f"{name}.block_mask: {list(shape)} does not fit {nq} x {nk} blocks")
    stops = {
        "block_mask": (tables.block_mask, len(BlockState)),
        "data_next": (
            tables.data_next,
            nk if direction == "fwd" else blocks_along(nq, plan.q_seq_shards),
        ),
        "mask_next": (tables.mask_next, len(lists.partial_blocks)),
    }
    for field, (table, stop) in stops.items():
        if table is None:
            continue
        if table.dtype not in _INTS or table.shape != shape:
            raise _array_error(f"{name}.{field}", table, shape, _INTS)
        if (at := _outside(table, stop)) is not None:
            place = str([int(n) for n in np.unravel_index(at, shape)])
            raise _range_error(f"{name}.{field}", table, stop, at, place)


def _bounds(plan: Plan) -> list[tuple[str, int, _Array | None, tuple[Direction, ...]]]:
    """Each side's name, most intervals, bounds, and the directions whose rows it bounds."""
    if (bounds := plan.row_bounds) is None:
        return []
    return [
        ("q", bounds.q_intervals, bounds.q, ("fwd", "dq")),
        ("kv", bounds.kv_intervals, bounds.kv, ("dkv",)),
    ]


def _check_bounds(plan: Plan) -> None:
    for side, most, array, _ in _bounds(plan):
        name, length, other = f"row_bounds.{side}", plan.q_len, plan.kv_len
        if side == "kv":
            length, other = other, length
        if (array is None) != (most > MAX_INTERVALS):
            raise PlanCorruptError(f"{name}: present iff rows have up to {MAX_INTERVALS} intervals")
        if array is None:
            continue
        shape = (plan.masks, 2 * max(most, 1), length)
        if array.dtype != _INT32 or array.shape != shape:
            raise _array_error(name, array, shape, (_INT32,))
        if (at := _outside(array, other + 1)) is not None:
            place = str([int(n) for n in np.unravel_index(at, array.shape)])
            raise _range_error(name, array, other + 1, at, place)
        if (falls := array[:, ::2] > array[:, 1::2]).any():
            mask, interval, row = np.unravel_index(int(np.argmax(falls)), falls.shape)
            raise PlanCorruptError(
                f"{name}: interval {interval} of mask {mask}, row {row} stops before it starts"
            )


# --- invariants ---------------------------------------------------------------------------------


def _cells(lists: BlockLists, kind: _Kind, columns: int) -> _Array:
    """Each entry's row * columns + column, int64; ascending in a plan that holds."""
    ptr, idx = _list(lists, kind)
    return np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)) * columns + idx


def _by_query(plan: Plan, direction: Direction, kind: _Kind) -> tuple[_Array, _Array]:
    """Each entry's (mask * q blocks + q block) * kv blocks + kv block, sorted, and that order."""
    rows, columns = plan.grid(direction)
    cells = _cells(plan.lists(direction), kind, columns)
    if direction == "dkv":
        row, q = np.divmod(cells, columns)
        mask, kv = np.divmod(row, rows)
        cells = (mask * columns + q) * rows + kv
    order = np.argsort(cells, kind="stable")
    return cells[order], order


def _verify_lists(name: str, lists: BlockLists, grid: tuple[int, int]) -> None:
    rows, columns = grid
    index = smallest_dtype(columns - 1)
    cells = {}
    for kind in _KINDS:
        ptr, idx = _list(lists, kind)
        if idx.dtype != index:
            raise PlanCorruptError(f"{name}.{kind}_idx: expected {index}, got {idx.dtype}")
        cells[kind] = _cells(lists, kind, columns)
        if (falls := np.diff(cells[kind]) <= 0).any():
            place = _place(int(np.argmax(falls)), ptr, rows)
            raise PlanCorruptError(f"{name}.{kind}_idx: not ascending at {place}")
    if len(both := np.intersect1d(cells["full"], cells["partial"], assume_unique=True)):
        mask, row = divmod(int(both[0]) // columns, rows)
        raise PlanCorruptError(
            f"{name}: mask {mask}, row {row} lists a block as full and partial, {both[0] % columns}"
        )
    if lists.partial_id.dtype != smallest_dtype(max(len(lists.partial_blocks) - 1, 0)):
        raise PlanCorruptError(f"{name}.partial_id: {lists.partial_id.dtype} is not the smallest")


def _verify_blocks(plan: Plan, direction: Direction) -> None:
    """Partial blocks: distinct, really partial, no bits beyond a block's keys, in order."""
    name, lists = f"{direction}.partial_blocks", plan.lists(direction)
    blocks = lists.partial_blocks
    counts = np.bitwise_count(blocks).sum(axis=(1, 2), dtype=np.int64)
    bad = np.flatnonzero((counts == 0) | (counts == lists.block_q * lists.block_kv))
    if len(bad):
        raise PlanCorruptError(f"{name}: block {bad[0]} is not partial")
    spare = -lists.block_kv % 8
    if spare and np.any(blocks[:, :, -1] >> (8 - spare)):
        raise PlanCorruptError(f"{name}: bits set beyond the {lists.block_kv} keys of a block")
    if len({block.tobytes() for block in blocks}) != len(blocks):
        raise PlanCorruptError(f"{name}: a block is stored twice")
    in_order = lists.partial_id[_by_query(plan, direction, "partial")[1]]
    used, first = np.unique(in_order, return_index=True)
    if not np.array_equal(used, np.arange(len(blocks))) or np.any(np.diff(first) < 0):
        raise PlanCorruptError(f"{direction}.partial_id: not numbered by first appearance")


def _keys_before(stop: int, block_kv: int) -> npt.NDArray[np.uint8]:
    """The packed bits of a block's row in which the first `stop` keys are set."""
    keys = np.zeros(block_kv, np.bool_)
    keys[:stop] = True
    return np.packbits(keys, bitorder="little")


def _verify_edges(plan: Plan, direction: Direction) -> None:
    """Nothing is attended beyond the lengths, where blocks cross a ragged edge."""
    lists = plan.lists(direction)
    nq, nk = blocks_along(plan.q_len, lists.block_q), blocks_along(plan.kv_len, lists.block_kv)
    rest_q, rest_kv = plan.q_len % lists.block_q, plan.kv_len % lists.block_kv
    for kind in _KINDS:
        cells, order = _by_query(plan, direction, kind)
        last_q, last_kv = cells // nk % nq == nq - 1, cells % nk == nk - 1
        if kind == "full":
            beyond_q, beyond_kv = bool(last_q.any()), bool(last_kv.any())
        elif not len(cells):
            continue  # blocks may be of any size if there are none
        else:
            ids = lists.partial_id[order]
            outside = ~_keys_before(rest_kv, lists.block_kv)
            beyond_q = bool(lists.partial_blocks[np.unique(ids[last_q]), rest_q:].any())
            beyond_kv = bool((lists.partial_blocks[np.unique(ids[last_kv])] & outside).any())
        for side, rest, beyond in (("q_len", rest_q, beyond_q), ("kv_len", rest_kv, beyond_kv)):
            if rest and beyond:
                raise PlanCorruptError(
                    f"{direction}.{kind}_idx: a block attends beyond {side}={getattr(plan, side)}"
                )


def _verify_agreement(plan: Plan, name: Direction, other_name: Direction) -> None:
    """Two directions with the same blocks hold the same blocks, one of them transposed."""
    one, other = plan.lists(name), plan.lists(other_name)
    if one.blocks != other.blocks or one is other:
        return
    for kind in _KINDS:
        cells, order = _by_query(plan, name, kind)
        expected, expected_order = _by_query(plan, other_name, kind)
        same = np.array_equal(cells, expected)
        if same and kind == "partial":
            same = np.array_equal(one.partial_id[order], other.partial_id[expected_order])
        if not same:
            raise PlanCorruptError(f"{name}: not the same {kind} blocks as {other_name}")
    if not np.array_equal(one.partial_blocks, other.partial_blocks):
        raise PlanCorruptError(f"{name}.partial_blocks: not the same blocks as {other_name}'s")
    if name == "dq" or one.partial_blocks is not other.partial_blocks:
        raise PlanCorruptError(f"{name}: a copy of {other_name}; it must be the same object")


def _verify_tables(plan: Plan, direction: Direction, tables: SplashTables) -> None:
    """The non-empty entries of the splash tables are the block lists."""
    name, lists, columns = f"splash_{direction}", plan.lists(direction), plan.grid(direction)[1]
    if (tables.mask_next is None) != (len(lists.partial_blocks) == 0):
        raise PlanCorruptError(f"{name}.mask_next: present iff something is partial")
    shards = plan.head_mask.reshape(plan.head_shards, -1)
    per_head = len(tables.block_mask) == plan.heads
    if not per_head and np.any(shards != shards[:, :1]):
        raise PlanCorruptError(f"{name}: one row for a head shard with several masks")
    state, ids = tables.block_mask, tables.mask_next
    data = _absolute(plan, direction, tables.data_next)
    if direction == "dkv":
        state, data = state.swapaxes(1, 2), data.swapaxes(1, 2)
        ids = None if ids is None else ids.swapaxes(1, 2)
    for row, mask in enumerate(plan.head_mask if per_head else shards[:, 0]):
        where = f"{name} row {row}: not the blocks of mask {mask}"
        for kind in _KINDS:
            at = np.nonzero(state[row] == BlockState[kind.upper()])
            span, cells = _mask_cells(lists, kind, int(mask), state.shape[1], columns)
            if not np.array_equal(at[0] * columns + data[row][at], cells):
                raise PlanCorruptError(f"{where} ({kind})")
            if kind == "partial" and ids is not None:
                numbers = lists.partial_id[span]
                if not np.array_equal(ids[row][at], numbers):
                    raise PlanCorruptError(f"{where} (mask_next)")


def _verify_bounds(plan: Plan) -> None:
    """The bounds of a row say what the blocks of every direction say of it."""
    from maskc_cache.row_ends import most_intervals, read_bounds  # ranges need none

    for side, most, array, directions in _bounds(plan):
        for direction in directions:
            if direction == "dq" and plan.dq is plan.fwd:
                continue
            if (actual := most_intervals(plan, direction)) != most:
                raise PlanCorruptError(
                    f"row_bounds.{side}: rows of up to {most} intervals, but those of "
                    f"{direction}'s blocks have up to {actual}"
                )
            if array is None:
                continue
            differ = (array != read_bounds(plan, direction, most)).any(axis=1)
            if differ.any():
                mask, row = np.unravel_index(int(np.argmax(differ)), differ.shape)
                raise PlanCorruptError(
                    f"row_bounds.{side}: mask {mask}, row {row} is {array[mask, :, row].tolist()}, "
                    f"which is not what {direction}'s blocks hold"
                )


def _absolute(plan: Plan, direction: Direction, data_next: _Array) -> _Array:
    """`data_next` as int64 block numbers of the whole mask; dkv's count within a q shard."""
    data = data_next.astype(np.int64)
    if direction == "fwd":
        return data
    shards, nq = plan.q_seq_shards, blocks_along(plan.q_len, plan.dkv.block_q)
    height = data.shape[1]
    if nq % shards or height % shards:
        raise PlanCorruptError(f"splash_dkv: not whole blocks in each of {shards} q shards")
    starts = np.arange(height) // (height // shards) * (nq // shards)
    shifted: _Array = data + starts[:, None]
    return shifted


def _mask_cells(
    lists: BlockLists, kind: _Kind, mask: int, rows: int, columns: int
) -> tuple[slice, _Array]:
    """One mask's span of the list, and the row * columns + column of its entries."""
    ptr, idx = _list(lists, kind)
    offsets = ptr[mask * rows : (mask + 1) * rows + 1]
    span = slice(int(offsets[0]), int(offsets[-1]))
    return span, np.repeat(np.arange(rows), np.diff(offsets)) * columns + idx[span]
