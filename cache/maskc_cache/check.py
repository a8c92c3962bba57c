"""What must hold inside a plan, as code.

`check_ranges` is cheap and runs on every load: after it, no index of the plan can point outside
its arrays. `verify` adds the invariants that make the plan the one plan of its mask.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc_cache.errors import PlanCorruptError
from maskc_cache.plan import (
    BlockLists,
    BlockState,
    Direction,
    Plan,
    SplashTables,
    blocks_along,
    smallest_dtype,
)

__all__ = ["check_ranges", "verify"]

_INTS = tuple(np.dtype(d) for d in (np.int8, np.int16, np.int32))
_Array = npt.NDArray[Any]


def check_ranges(plan: Plan) -> None:
    """Refuse a plan with an index that points outside its arrays.

    Raises:
        PlanCorruptError: with the section and the value.
    """
    _check_array("head_mask", plan.head_mask, (None,), (np.dtype(np.int32),))
    if not plan.heads:
        raise PlanCorruptError("head_mask: expected one head or more")
    first = np.unique(plan.head_mask, return_index=True)
    if not np.array_equal(first[0], np.arange(len(first[0]))) or np.any(np.diff(first[1]) < 0):
        raise PlanCorruptError("head_mask: masks are not numbered by first use")
    directions: tuple[Direction, ...] = ("fwd", "dq", "dkv")
    for direction in directions:
        rows, columns = plan.grid(direction)
        _check_lists(direction, plan.lists(direction), plan.masks * rows, columns)
    for direction, tables in (("fwd", plan.splash_fwd), ("dkv", plan.splash_dkv)):
        if tables is not None:
            _check_tables(plan, direction, tables)


def verify(plan: Plan) -> None:
    """Refuse a plan that breaks any invariant; for tests, `maskc verify` and the careful.

    Raises:
        PlanCorruptError: with the section and what does not hold.
    """
    check_ranges(plan)
    directions: tuple[Direction, ...] = ("fwd", "dq", "dkv")
    for direction in directions:
        _verify_lists(direction, plan.lists(direction), plan.grid(direction)[1])
        _verify_blocks(plan, direction)
    for a, b in (("dq", "fwd"), ("dkv", "fwd"), ("dkv", "dq")):
        _verify_agreement(plan, a, b)
    for lists, tables in ((plan.fwd, plan.splash_fwd), (plan.dkv, plan.splash_dkv)):
        stored = bool(len(lists.partial_blocks))
        if tables is not None and (tables.mask_next is not None) != stored:
            raise PlanCorruptError("splash: mask_next is present iff something is partial")


# --- ranges -------------------------------------------------------------------------------------


def _check_array(
    name: str, array: _Array, shape: tuple[int | None, ...], dtypes: tuple[np.dtype[Any], ...]
) -> None:
    if array.dtype not in dtypes:
        allowed = ", ".join(map(str, dtypes))
        raise PlanCorruptError(f"{name}: expected dtype {allowed}, got {array.dtype}")
    fits = len(shape) == array.ndim and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        want = ", ".join("any" if n is None else str(n) for n in shape)
        raise PlanCorruptError(f"{name}: expected shape [{want}], got {list(array.shape)}")


def _check_values(name: str, array: _Array, stop: int) -> None:
    """Every element in [0, stop); one pass, since a negative is huge when read as unsigned."""
    if not array.size:
        return
    unsigned = np.ascontiguousarray(array).view(array.dtype.str.replace("i", "u"))
    if int(unsigned.max()) >= stop:
        at = int(np.argmax(unsigned))
        raise PlanCorruptError(
            f"{name}: expected values from 0 to {stop - 1}, got {array.ravel()[at]} at {at}"
        )


def _check_lists(name: str, lists: BlockLists, rows: int, columns: int) -> None:
    unique = len(lists.partial_blocks)
    bits = (None, lists.block_q, -(-lists.block_kv // 8))
    _check_array(f"{name}.partial_blocks", lists.partial_blocks, bits, (np.dtype(np.uint8),))
    for kind in ("full", "partial"):
        ptr, idx = getattr(lists, f"{kind}_ptr"), getattr(lists, f"{kind}_idx")
        _check_array(f"{name}.{kind}_ptr", ptr, (rows + 1,), (np.dtype(np.int32),))
        _check_array(f"{name}.{kind}_idx", idx, (None,), _INTS)
        if ptr[0] != 0 or ptr[-1] != len(idx) or np.any(ptr[1:] < ptr[:-1]):
            raise PlanCorruptError(
                f"{name}.{kind}_ptr: expected offsets that rise from 0 to {len(idx)}"
            )
        _check_values(f"{name}.{kind}_idx", idx, columns)
    _check_array(f"{name}.partial_id", lists.partial_id, (len(lists.partial_idx),), _INTS)
    _check_values(f"{name}.partial_id", lists.partial_id, unique)


def _check_tables(plan: Plan, direction: Any, tables: SplashTables) -> None:
    name = f"splash_{direction}"
    lists = plan.lists(direction)
    nq, nk = blocks_along(plan.q_len, lists.block_q), blocks_along(plan.kv_len, lists.block_kv)
    shape = tables.block_mask.shape
    if len(shape) != 3 or shape[0] not in {plan.heads, plan.head_shards}:
        raise PlanCorruptError(
            f"{name}.block_mask: expected [heads or head_shards, ...], got {list(shape)}"
        )
    outer, limit = (1, nq) if direction == "fwd" else (2, nk)
    if shape[outer] != limit or not shape[3 - outer]:
        raise PlanCorruptError(f"{name}.block_mask: {list(shape)} does not fit {nq} x {nk} blocks")
    for field in fields(tables):
        if (table := getattr(tables, field.name)) is not None:
            _check_array(f"{name}.{field.name}", table, shape, _INTS)
    _check_values(f"{name}.block_mask", tables.block_mask, len(BlockState))
    target = nk if direction == "fwd" else blocks_along(nq, plan.q_seq_shards)
    _check_values(f"{name}.data_next", tables.data_next, target)
    if tables.mask_next is not None:
        _check_values(f"{name}.mask_next", tables.mask_next, max(len(lists.partial_blocks), 1))


# --- invariants ---------------------------------------------------------------------------------


def _verify_lists(name: str, lists: BlockLists, columns: int) -> None:
    index = smallest_dtype(columns - 1)
    for kind in ("full", "partial"):
        ptr, idx = getattr(lists, f"{kind}_ptr"), getattr(lists, f"{kind}_idx")
        if idx.dtype != index:
            raise PlanCorruptError(f"{name}.{kind}_idx: expected {index}, got {idx.dtype}")
        falls = np.diff(idx.astype(np.int64)) <= 0
        falls[ptr[1:-1][(ptr[1:-1] > 0) & (ptr[1:-1] < len(idx))] - 1] = False
        if falls.any():
            raise PlanCorruptError(f"{name}.{kind}_idx: not ascending at {int(np.argmax(falls))}")
    row = [
        np.repeat(np.arange(len(p) - 1), np.diff(p)) for p in (lists.full_ptr, lists.partial_ptr)
    ]
    full, partial = row[0] * columns + lists.full_idx, row[1] * columns + lists.partial_idx
    if len(both := np.intersect1d(full, partial)):
        raise PlanCorruptError(
            f"{name}: row {both[0] // columns} lists a block as full and partial"
        )
    if lists.partial_id.dtype != smallest_dtype(max(len(lists.partial_blocks) - 1, 0)):
        raise PlanCorruptError(f"{name}.partial_id: {lists.partial_id.dtype} is not the smallest")


def _verify_blocks(plan: Plan, direction: Direction) -> None:
    """Partial blocks: distinct, really partial, within a block's keys, numbered in order."""
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
    rows, columns = plan.grid(direction)
    ids = lists.states(rows, columns)[1]
    in_order = (ids if direction != "dkv" else ids.swapaxes(1, 2)).ravel()
    used, first = np.unique(in_order[in_order >= 0], return_index=True)
    if not np.array_equal(used, np.arange(len(blocks))) or np.any(np.diff(first) < 0):
        raise PlanCorruptError(f"{direction}.partial_id: not numbered by first appearance")


def _verify_agreement(plan: Plan, a: Any, b: Any) -> None:
    """Two directions with the same blocks hold the same blocks, one of them transposed."""
    one, other = plan.lists(a), plan.lists(b)
    if one.blocks != other.blocks:
        return
    states = one.states(*plan.grid(a)), other.states(*plan.grid(b))
    for mine, theirs in zip(*states, strict=True):
        turned = mine.swapaxes(1, 2) if a == "dkv" else mine
        if not np.array_equal(turned, theirs):
            raise PlanCorruptError(f"{a}: not the same blocks as {b}")
    if not np.array_equal(one.partial_blocks, other.partial_blocks):
        raise PlanCorruptError(f"{a}.partial_blocks: not the same blocks as {b}'s")
