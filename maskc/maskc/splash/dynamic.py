"""Splash tables of a dense mask that is data: every tile is kept, nothing is shared or shrunk."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskc.splash.tables import MaskInfo, check_blocks
from maskc_cache.plan import BlockState, smallest_dtype

__all__ = ["process_dynamic_mask", "process_dynamic_mask_dkv"]

_Ints = npt.NDArray[np.signedinteger[Any]]


def process_dynamic_mask(
    mask: npt.ArrayLike,
    block_shape: tuple[int, int],
    *,
    downcast_smem_data: bool = True,
    head_shards: int = 1,
    q_seq_shards: int = 1,
    shrink_grid: bool = True,
) -> tuple[MaskInfo, None]:
    """The tables of the forward and dq passes, as numpy arrays; bit for bit those of JAX.

    This is for values that are at hand. `process_mask` makes smaller tables of them, and a mask
    that is traced is for `maskc.runtime.plan_of_mask`, which builds its lists on the device.

    Args:
        mask: bool [heads, q_len, kv_len], numpy's or any array that numpy can read.
        block_shape: `(block_q, block_kv)`.
        downcast_smem_data: smaller integer dtypes for the small tables, by the counts of blocks.
        head_shards: over how many devices the heads are split.
        q_seq_shards: over how many devices the queries are split.
        shrink_grid: has no effect, as in JAX.

    Returns:
        The tables with `is_dynamic_mask` True and `partial_mask_blocks` bool [heads, q blocks,
        kv blocks, block_q, block_kv] (dkv: the last two swapped), and None for the mask function.

    Raises:
        ValueError: not 3-dim, not bool, or blocks or shards do not divide its shape.
        TypeError: the mask is traced.
    """
    del shrink_grid
    shards = head_shards, q_seq_shards
    return _process(mask, block_shape, *shards, downcast_smem_data, "fwd"), None


def process_dynamic_mask_dkv(
    mask: npt.ArrayLike,
    block_shape: tuple[int, int],
    *,
    downcast_smem_data: bool = True,
    head_shards: int = 1,
    q_seq_shards: int = 1,
    shrink_grid: bool = True,
) -> tuple[MaskInfo, None]:
    """The tables of the dkv pass; everything is as for `process_dynamic_mask`."""
    del shrink_grid
    shards = head_shards, q_seq_shards
    return _process(mask, block_shape, *shards, downcast_smem_data, "dkv"), None


def _process(
    given: npt.ArrayLike,
    block_shape: tuple[int, int],
    head_shards: int,
    q_seq_shards: int,
    downcast: bool,
    direction: Literal["fwd", "dkv"],
) -> MaskInfo:
    mask = _dense(given)
    check_blocks(mask.shape, block_shape, head_shards, q_seq_shards)
    (heads, q_len, kv_len), (block_q, block_kv) = mask.shape, block_shape
    nq, nk = q_len // block_q, kv_len // block_kv
    tiles = mask.reshape(heads, nq, block_q, nk, block_kv).swapaxes(2, 3)
    partial, full = tiles.any((3, 4)), tiles.all((3, 4))
    state = np.where(full, BlockState.FULL, np.where(partial, BlockState.PARTIAL, 0))
    rows = nq // q_seq_shards
    columns = np.arange(nk)[None, None] if direction == "fwd" else (np.arange(nq) % rows)[:, None]
    slab = heads // head_shards, rows, nk
    within = (np.arange(heads) % slab[0])[:, None, None] * rows + (np.arange(nq) % rows)[:, None]
    numbers = within * nk + np.arange(nk)

    def table(values: _Ints, count: int) -> _Ints:
        return values.astype(smallest_dtype(count) if downcast else np.int32)

    return MaskInfo(
        data_next=table(np.where(partial, columns, 0), nk if direction == "fwd" else rows),
        mask_next=table(np.where(state == BlockState.PARTIAL, numbers, 0), int(np.prod(slab))),
        block_mask=table(state, BlockState.FULL),
        partial_mask_blocks=tiles.swapaxes(3, 4) if direction == "dkv" else tiles,
        q_sequence=None,
        is_dynamic_mask=True,
    )


def _dense(given: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    try:
        mask = np.asarray(given)
    except TypeError as error:  # what JAX raises for a tracer
        raise TypeError(
            "mask: expected an array of known values, got a traced one; under jit, "
            "maskc.runtime.plan_of_mask builds block lists of it on the device, for attention"
        ) from error
    if mask.ndim != 3:
        raise ValueError(f"mask: expected a 3-dim mask, got shape {mask.shape}")
    if mask.dtype != np.bool_:
        raise ValueError(f"mask: expected a bool mask, got {mask.dtype}")
    return mask
