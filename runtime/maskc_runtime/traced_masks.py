"""A plan built on the device, from a dense mask that is only known there."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from maskc_kernels.compact import compacted
from maskc_kernels.tables import AttentionTables, BlockTable
from maskc_runtime.errors import ArgumentShapeError, ArgumentTypeError, ArgumentValueError
from maskc_runtime.traced import TracedPlan

__all__ = ["plan_of_mask"]

DEFAULT_BLOCK = 128


def plan_of_mask(
    mask: jax.typing.ArrayLike,
    *,
    heads: int | None = None,
    block_q: int | None = None,
    block_kv: int | None = None,
    block_q_dq: int | None = None,
    block_kv_dq: int | None = None,
    block_q_dkv: int | None = None,
    block_kv_dkv: int | None = None,
) -> TracedPlan:
    """The plan of a dense mask, under `jax.jit` and with shapes that do not depend on the mask.

    Time is one pass over the mask. Without knowing it, every block may be partial, so the plan has
    room for all of them as bits: an eighth of the mask, for each pass with blocks of its own. A
    mask that is known when the function is traced is better compiled (`maskc.compile_mask`).

    Args:
        mask: bool [q_len, kv_len] for all heads, or [heads or 1, q_len, kv_len]; traced or not.
        heads: number of query heads; None is the mask's first axis, or 1.
        block_q: queries per block of the forward pass, by default 128 or the length if shorter.
        block_kv: keys per block, likewise.
        block_q_dq: queries per block of the dq pass; None is `block_q`. Likewise the others.
        block_kv_dq: see block_q_dq.
        block_q_dkv: see block_q_dq.
        block_kv_dkv: see block_q_dq.

    Returns:
        A plan for `attention`.

    Raises:
        ArgumentTypeError: the mask is not of booleans.
        ArgumentShapeError: it has another shape.
        ArgumentValueError: a block size that is not positive.
    """
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise ArgumentTypeError(
            f"mask: expected bool, got {array.dtype.name} of shape {array.shape}"
        )
    if array.ndim not in {2, 3} or not array.size:
        raise ArgumentShapeError(
            "mask: expected [q_len, kv_len] or [heads or 1, q_len, kv_len], got shape "
            f"{array.shape}"
        )
    array = array if array.ndim == 3 else array[None]
    count, q_len, kv_len = array.shape
    heads = count if heads is None else heads
    if count not in {1, heads}:
        raise ArgumentShapeError(f"mask: expected [{heads} or 1, q_len, kv_len], got {array.shape}")
    fwd = _positive(block_q, q_len), _positive(block_kv, kv_len)
    dq = block_q_dq or fwd[0], block_kv_dq or fwd[1]
    dkv = block_q_dkv or fwd[0], block_kv_dkv or fwd[1]
    tables = _tables(array, heads, fwd, dq, dkv)
    return TracedPlan("built on the device", q_len, kv_len, heads, tables)


def _positive(block: int | None, length: int) -> int:
    if block is not None and block < 1:
        raise ArgumentValueError(f"block size: expected a positive integer, got {block}")
    return min(DEFAULT_BLOCK, length) if block is None else block


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _tables(
    mask: jax.Array,
    heads: int,
    fwd: tuple[int, int],
    dq: tuple[int, int],
    dkv: tuple[int, int],
) -> AttentionTables:
    head_mask = jnp.arange(heads, dtype=jnp.int32) if len(mask) > 1 else jnp.zeros(heads, jnp.int32)
    rows = {blocks: _table(mask, blocks, turned=False) for blocks in {fwd, dq}}
    return AttentionTables(head_mask, rows[fwd], rows[dq], _table(mask, dkv, turned=True))


def _table(mask: jax.Array, blocks: tuple[int, int], *, turned: bool) -> BlockTable:
    """The lists of one pass; with `turned`, rows are kv blocks."""
    block_q, block_kv = blocks
    masks, q_len, kv_len = mask.shape
    nq, nk = -(-q_len // block_q), -(-kv_len // block_kv)
    ragged = ((0, 0), (0, nq * block_q - q_len), (0, nk * block_kv - kv_len))
    cells = jnp.pad(mask, ragged).reshape(masks, nq, block_q, nk, block_kv).swapaxes(2, 3)
    full, some = cells.all((3, 4)), cells.any((3, 4))
    numbers = jnp.arange(masks * nq * nk, dtype=jnp.int32).reshape(masks, nq, nk)
    if turned:
        full, some, numbers = (x.swapaxes(1, 2) for x in (full, some, numbers))
    rows, columns = (nk, nq) if turned else (nq, nk)
    ptr = jnp.arange(masks * rows + 1, dtype=jnp.int32) * columns
    idx = jnp.arange(masks * rows * columns, dtype=jnp.int32) % columns
    full_ptr, (full_idx,) = compacted(full.reshape(1, -1), ptr, idx)
    partial = (some & ~full).reshape(1, -1)
    partial_ptr, (partial_idx, partial_id) = compacted(partial, ptr, idx, numbers.reshape(-1))
    bits = _packed(cells.reshape(-1, block_q, block_kv))
    return BlockTable(
        block_q, block_kv, full_ptr, full_idx, partial_ptr, partial_idx, partial_id, bits
    )


def _packed(blocks: jax.Array) -> jax.Array:
    """Bool [n, block_q, block_kv] -> uint8 [n, block_q, ceil(block_kv / 8)]."""
    *lead, block_kv = blocks.shape
    padded = jnp.pad(blocks, ((0, 0), (0, 0), (0, -block_kv % 8)))
    return jnp.packbits(padded.reshape(*lead, -1, 8), axis=-1, bitorder="little")[..., 0]
