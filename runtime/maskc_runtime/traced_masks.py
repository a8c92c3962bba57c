"""A plan built on the device, from a dense mask that is only known there."""

from __future__ import annotations

import functools
from typing import NamedTuple

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

    Time is one pass over the mask. Any block of it may turn out partial, so the plan has room for
    all of them as bits: an eighth of the mask's bytes, lengths rounded up to whole blocks, once for
    each different block size among the passes. There is no smaller bound that a denser mask would
    not silently break. A mask that is known when the function is traced is better compiled
    (`maskc.compile_mask`).

    Args:
        mask: bool [q_len, kv_len] for all heads, or [heads or 1, q_len, kv_len]; traced or not.
        heads: number of query heads; None is the mask's first axis, or 1.
        block_q: queries per block of the forward pass, by default 128.
        block_kv: keys per block, by default 128.
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
    count = array.shape[0]
    heads = count if heads is None else heads
    if count not in {1, heads}:
        raise ArgumentShapeError(f"mask: expected [{heads} or 1, q_len, kv_len], got {array.shape}")
    fwd = _blocks(DEFAULT_BLOCK, DEFAULT_BLOCK, block_q=block_q, block_kv=block_kv)
    dq = _blocks(*fwd, block_q_dq=block_q_dq, block_kv_dq=block_kv_dq)
    dkv = _blocks(*fwd, block_q_dkv=block_q_dkv, block_kv_dkv=block_kv_dkv)
    plan: TracedPlan = _built(array, heads, fwd, dq, dkv)
    return plan


def _blocks(q: int, kv: int, **given: int | None) -> tuple[int, int]:
    """The blocks of a pass: as given, or else `q` and `kv`."""
    for name, block in given.items():
        if block is not None and block < 1:
            raise ArgumentValueError(f"{name}: expected a positive integer, got {block}")
    own_q, own_kv = given.values()
    return q if own_q is None else own_q, kv if own_kv is None else own_kv


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _built(
    mask: jax.Array,
    heads: int,
    fwd: tuple[int, int],
    dq: tuple[int, int],
    dkv: tuple[int, int],
) -> TracedPlan:
    count, q_len, kv_len = mask.shape
    head_mask = jnp.arange(heads, dtype=jnp.int32) if count > 1 else jnp.zeros(heads, jnp.int32)
    tiles = {blocks: _Tiles.of(mask, blocks) for blocks in (fwd, dq, dkv)}
    rows = {blocks: _table(tiles[blocks], turned=False) for blocks in (fwd, dq)}
    tables = AttentionTables(head_mask, rows[fwd], rows[dq], _table(tiles[dkv], turned=True))
    return TracedPlan.of("built on the device", q_len, kv_len, heads, tables)


class _Tiles(NamedTuple):
    """A mask in blocks of one size.

    Attributes:
        blocks: block_q and block_kv.
        full: bool [masks, q blocks, kv blocks], which are True throughout.
        some: bool likewise, which are True anywhere.
        bits: of every block, uint8 [masks * q blocks * kv blocks, block_q, ceil(block_kv / 8)].
    """

    blocks: tuple[int, int]
    full: jax.Array
    some: jax.Array
    bits: jax.Array

    @classmethod
    def of(cls, mask: jax.Array, blocks: tuple[int, int]) -> _Tiles:
        masks, q_len, kv_len = mask.shape
        block_q, block_kv = blocks
        nq, nk = -(-q_len // block_q), -(-kv_len // block_kv)
        ragged = ((0, 0), (0, nq * block_q - q_len), (0, nk * block_kv - kv_len))
        cells = jnp.pad(mask, ragged).reshape(masks, nq, block_q, nk, block_kv).swapaxes(2, 3)
        bits = _packed(cells.reshape(-1, block_q, block_kv))
        return cls(blocks, cells.all((3, 4)), cells.any((3, 4)), bits)


def _table(tiles: _Tiles, *, turned: bool) -> BlockTable:
    """The lists of one pass; with `turned`, rows are kv blocks."""
    masks, nq, nk = tiles.full.shape
    full, some = tiles.full, tiles.some
    numbers = jnp.arange(full.size, dtype=jnp.int32).reshape(full.shape)
    if turned:
        full, some, numbers = (x.swapaxes(1, 2) for x in (full, some, numbers))
    rows, columns = (nk, nq) if turned else (nq, nk)
    ptr = jnp.arange(masks * rows + 1, dtype=jnp.int32) * columns
    idx = jnp.arange(masks * rows * columns, dtype=jnp.int32) % columns
    full_ptr, (full_idx,) = compacted(full.reshape(1, -1), ptr, idx)
    partial = (some & ~full).reshape(1, -1)
    partial_ptr, (partial_idx, partial_id) = compacted(partial, ptr, idx, numbers.reshape(-1))
    return BlockTable(
        *tiles.blocks, full_ptr, full_idx, partial_ptr, partial_idx, partial_id, tiles.bits
    )


def _packed(blocks: jax.Array) -> jax.Array:
    """Bool [n, block_q, block_kv] -> uint8 [n, block_q, ceil(block_kv / 8)]."""
    *lead, block_kv = blocks.shape
    padded = jnp.pad(blocks, ((0, 0), (0, 0), (0, -block_kv % 8)))
    return jnp.packbits(padded.reshape(*lead, -1, 8), axis=-1, bitorder="little")[..., 0]
