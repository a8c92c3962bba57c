"""Masks -> splash attention's tables, as `process_mask` and `process_mask_dkv` make them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskc import checks, packed
from maskc.block_runs import turned
from maskc.blocking import BlockGrid
from maskc.canonical import canonical
from maskc.emit import SplashLayout, splash_tables
from maskc.lower import lower
from maskc.splash.expressions import expression_of
from maskc.splash.masks import Logical, MaskFunction, MultiHeadMask
from maskc_cache.plan import SplashMaskInfo, SplashTables, smallest_dtype

__all__ = ["MaskInfo", "process_mask", "process_mask_dkv"]

MaskInfo = SplashMaskInfo
_Ints = npt.NDArray[np.signedinteger[Any]]
Shrink = bool | Literal["heads"]


def process_mask(
    mask: MultiHeadMask,
    block_shape: tuple[int, int],
    *,
    downcast_smem_data: bool = True,
    head_shards: int = 1,
    q_seq_shards: int = 1,
    shrink_grid: Shrink = True,
    computable: bool | None = None,
    partial_mask_blocks_dtype: npt.DTypeLike = np.bool_,
) -> tuple[MaskInfo, MaskFunction | None]:
    """The tables of the forward and dq passes, bit for bit JAX's where JAX has an answer.

    Args:
        mask: a mask per head.
        block_shape: `(block_q, block_kv)`.
        downcast_smem_data: the smallest integer dtype for each small table.
        head_shards: over how many devices the heads are split.
        q_seq_shards: over how many devices the queries are split.
        shrink_grid: drop empty blocks, where all heads have one mask; "heads" does so too where
            they differ, each head's own, to the width of the widest. That makes the whole grid
            first.
        computable: whether a mask is recomputed by the kernel instead of loaded. None is as JAX
            has it: leaves are, operators are not. True is operators too, of operands that are;
            False is no mask at all, as FJFormer has it for windows.
        partial_mask_blocks_dtype: bool as in JAX and ejKernel, int32 as in FJFormer.

    Returns:
        The tables, and the mask function if the kernel is to recompute the mask.

    Raises:
        ValueError: blocks or shards do not divide the lengths or heads, or the mask has no heads.
        TypeError: a mask cannot be hashed.
        NotImplementedError: a computable mask that does not define `__eq__` and `__hash__`.
    """
    layout = _layout(head_shards, q_seq_shards, shrink_grid, downcast_smem_data)
    return _process(
        mask, block_shape, layout, "fwd", shrink_grid, computable, partial_mask_blocks_dtype
    )


def process_mask_dkv(
    mask: MultiHeadMask,
    block_shape: tuple[int, int],
    *,
    downcast_smem_data: bool = True,
    head_shards: int = 1,
    q_seq_shards: int = 1,
    shrink_grid: Shrink = True,
    computable: bool | None = None,
    partial_mask_blocks_dtype: npt.DTypeLike = np.bool_,
) -> tuple[MaskInfo, MaskFunction | None]:
    """The tables of the dkv pass; everything is as for `process_mask`."""
    layout = _layout(head_shards, q_seq_shards, shrink_grid, downcast_smem_data)
    return _process(
        mask, block_shape, layout, "dkv", shrink_grid, computable, partial_mask_blocks_dtype
    )


def _layout(
    head_shards: int, q_seq_shards: int, shrink_grid: Shrink, downcast_smem_data: bool
) -> SplashLayout:
    if shrink_grid not in {True, False, "heads"}:
        raise checks.fail("shrink_grid", "True, False or 'heads'", shrink_grid)
    return SplashLayout(head_shards, q_seq_shards, bool(shrink_grid), downcast_smem_data)


def _process(
    mask: MultiHeadMask,
    block_shape: tuple[int, int],
    layout: SplashLayout,
    direction: Literal["fwd", "dkv"],
    shrink_grid: Shrink,
    computable: bool | None,
    dtype: npt.DTypeLike,
) -> tuple[MaskInfo, MaskFunction | None]:
    shape: tuple[int, ...] = getattr(mask, "shape", ())
    if len(shape) != 3:
        raise ValueError(f"mask: expected a MultiHeadMask, 3-dim, got {mask!r} of shape {shape}")
    check_blocks(shape, block_shape, layout.head_shards, layout.q_seq_shards)
    grid = BlockGrid(shape[1], shape[2], *block_shape)
    numbers: dict[Any, int] = {}
    by_object = {id(one): one for one in mask.masks}  # one object may serve many heads
    number = {key: numbers.setdefault(one, len(numbers)) for key, one in by_object.items()}
    head_mask = np.array([number[id(one)] for one in mask.masks], np.int32)
    # masks are unique by description, as in JAX; by meaning fewer of them could be left
    forms = [canonical(expression_of(m, remember=True), grid.q_len, grid.kv_len) for m in numbers]
    blocks = lower(forms, grid)
    columns = turned(blocks, len(forms), grid.nk)
    tables = splash_tables(blocks, columns, grid, head_mask, layout, direction)
    if shrink_grid == "heads" and len(numbers) > 1:
        tables = _shrunk(tables, layout, direction)
    function = _function(next(iter(numbers)), computable) if len(numbers) == 1 else None
    if function is not None:
        positions = next(iter(numbers)).q_sequence
        return MaskInfo(tables.data_next, None, tables.block_mask, None, positions), function
    partial = None
    if tables.mask_next is not None:
        partial = packed.unpack(blocks.bits, grid.block_kv)
        partial = partial.swapaxes(1, 2) if direction == "dkv" else partial
        partial = partial.astype(dtype, copy=False)
    return MaskInfo(tables.data_next, tables.mask_next, tables.block_mask, partial, None), None


def _function(mask: Any, computable: bool | None) -> MaskFunction | None:
    """The function by which a kernel is to recompute the mask of all heads."""
    if computable is False or (computable is None and isinstance(mask, Logical)):
        return None
    if not hasattr(mask, "q_sequence"):
        return None
    function: MaskFunction = mask.mask_function
    return function


def _shrunk(
    tables: SplashTables, layout: SplashLayout, direction: Literal["fwd", "dkv"]
) -> SplashTables:
    """Whole grids without their empty blocks, each line's own, as JAX does for a single mask.

    Blocks stand at the left of a row (fwd) or the bottom of a column (dkv); padding is 0.
    """
    rows, nq, nk = tables.block_mask.shape
    slabs = rows, layout.q_seq_shards, nq // layout.q_seq_shards, nk
    state = tables.block_mask.reshape(slabs)
    axis = 3 if direction == "fwd" else 2
    size = max(1, int((state > 0).sum(axis).max()))
    if direction == "fwd":
        order = np.argsort(state == 0, axis, kind="stable")[..., :size]
    else:
        order = np.argsort(state > 0, axis, kind="stable")[:, :, -size:]
    kept = np.take_along_axis(state, order, axis)

    def cut(table: _Ints) -> _Ints:
        found = np.take_along_axis(table.reshape(slabs), order, axis)
        found = np.where(kept > 0, found, 0).reshape(rows, -1, nk if axis == 2 else size)
        fits = smallest_dtype(int(found.max())) if layout.downcast_smem_data else np.int32
        return found.astype(fits)

    mask_next = None if tables.mask_next is None else cut(tables.mask_next)
    return SplashTables(cut(tables.data_next), mask_next, cut(tables.block_mask))


def check_blocks(
    shape: tuple[int, ...], block_shape: tuple[int, int], head_shards: int, q_seq_shards: int
) -> None:
    """Refuse blocks and shards that do not divide what they cut.

    Raises:
        ValueError: they do not.
        ZeroDivisionError: one of them is 0.
    """
    head_count, q_seq_len, kv_seq_len = shape
    q_block_size, kv_block_size = block_shape
    named = {
        "q_block_size": q_block_size,
        "kv_block_size": kv_block_size,
        "q_seq_shards": q_seq_shards,
        "head_shards": head_shards,
    }
    for name, value in named.items():
        if not value:
            raise ZeroDivisionError(f"{name}=0 divides nothing; expected 1 or more")
        if value < 0:
            raise ValueError(f"{name}={value}: expected 1 or more")
    if not q_seq_len or not kv_seq_len:
        raise ValueError(f"mask: expected queries and keys, got a mask of shape {shape}")
    if q_seq_len % q_block_size:
        raise ValueError(f"{q_block_size=} should divide {q_seq_len=}.")
    if kv_seq_len % kv_block_size:
        raise ValueError(f"{kv_block_size=} should divide {kv_seq_len=}.")
    if q_seq_len % q_seq_shards:
        raise ValueError(f"{q_seq_shards=} should divide {q_seq_len=}.")
    q_seq_len_per_shard = q_seq_len // q_seq_shards
    if q_seq_len_per_shard % q_block_size:
        raise ValueError(f"{q_block_size=} should divide {q_seq_len_per_shard=}.")
    if head_count % head_shards:
        raise ValueError(f"{head_shards=} should divide {head_count=}.")
