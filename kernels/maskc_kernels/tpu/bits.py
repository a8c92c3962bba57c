"""Partial blocks as a TPU applies them: 32 rows of a block in one int32 word per column.

A vector register holds 8 rows x 128 columns. Word (8 w + s, c) holds, in bit b, row
256 w + 8 b + s of column c: so one register of words has the mask of 32 registers of scores, and
picking one of them is one operation with a constant, no shuffle.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable

__all__ = ["ROWS", "mask_words", "unpack_words", "word_rows"]

ROWS = 256
"""Rows of a block that 8 rows of words hold."""

_SUBLANES = 8
_BITS = 32


def word_rows(rows: int) -> int:
    """Rows of words for a block of `rows` rows."""
    return -(-rows // ROWS) * _SUBLANES


@functools.partial(jax.jit, static_argnames="transposed")
def mask_words(table: BlockTable, *, transposed: bool = False) -> jax.Array:
    """The table's partial blocks as int32 [unique or 1, word_rows, columns].

    Args:
        table: the lists; rows of a block are queries, columns are keys.
        transposed: rows are keys and columns queries.
    """
    blocks = jnp.asarray(table.partial_blocks)
    rows, columns = (table.block_q, table.block_kv)[:: -1 if transposed else 1]
    unique, tall = blocks.shape[0], word_rows(rows)
    if not unique:  # a kernel takes no empty operand; nothing points at this one
        return jnp.zeros((1, tall, columns), jnp.int32)
    groups = (unique, tall // _SUBLANES, _BITS)
    if transposed:  # a byte has eight rows, the same bit of eight words each
        blocks = _filled(blocks.swapaxes(1, 2), tall * _BITS // 8)
        parts, shape = blocks.reshape(*groups, 1, columns), (*groups, 8, columns)
        place = jax.lax.broadcasted_iota(jnp.uint8, shape, 3)
    else:  # a byte has eight columns
        parts = _filled(blocks, tall * _BITS).reshape(*groups, _SUBLANES, -1, 1)
        place = jax.lax.broadcasted_iota(jnp.uint8, (*parts.shape[:-1], 8), 5)
    # One fused operation, which takes one or two times the words' memory. Unpacked, all blocks
    # could be larger than the device.
    bit = jax.lax.broadcasted_iota(jnp.int32, place.shape, 2)
    words = ((parts >> place & 1).astype(jnp.int32) << bit).sum(2, dtype=jnp.int32)
    return words.reshape(unique, tall, columns)


def _filled(blocks: jax.Array, rows: int) -> jax.Array:
    """With zeros behind the rows."""
    more = rows - blocks.shape[1]
    return jnp.pad(blocks, ((0, 0), (0, more), (0, 0))) if more else blocks


def unpack_words(words: jax.Array, rows: int, first: int = 0) -> jax.Array:
    """Words [word rows, columns] as bool [rows, columns], in a kernel.

    Args:
        words: those that hold the rows.
        rows: how many rows.
        first: how many rows of the words come before them; a multiple of 8.
    """
    columns = words.shape[1]
    groups = []
    at = 0
    while at < rows:
        row = (first + at) % ROWS
        held = (first + at) // ROWS * _SUBLANES
        count = min(ROWS - row, rows - at) // _SUBLANES
        part = words
        if words.shape[0] > _SUBLANES:
            part = jax.lax.slice_in_dim(words, held, held + _SUBLANES)
        shape = (count, _SUBLANES, columns)
        above = _BITS - 1 - row // _SUBLANES - jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        chosen = jax.lax.broadcast_in_dim(part, shape, (1, 2)) << above < 0  # the bit is the sign
        groups.append(chosen.reshape(count * _SUBLANES, columns))
        at += count * _SUBLANES
    return groups[0] if len(groups) == 1 else jnp.concatenate(groups, axis=0)
