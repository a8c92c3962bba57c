"""Partial blocks as a TPU applies them: 32 rows of a block in one int32 word per column.

A vector register holds 8 rows x 128 columns. Word (8 w + s, c) holds, in bit b, row
256 w + 8 b + s of column c: so one register of words has the mask of 32 registers of scores, and
picking one of them is an AND with a constant, no shuffle.
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
    if not blocks.shape[0]:  # a kernel takes no empty operand; nothing points at this one
        rows, columns = (table.block_q, table.block_kv)[:: -1 if transposed else 1]
        return jnp.zeros((1, word_rows(rows), columns), jnp.int32)

    def pack(block: jax.Array) -> jax.Array:
        dense = jnp.unpackbits(block, axis=1, count=table.block_kv, bitorder="little")
        return _pack(dense.T if transposed else dense)

    # One block at a time: unpacked, all of them could be larger than the device.
    words: jax.Array = jax.lax.map(pack, blocks)
    return words


def _pack(dense: jax.Array) -> jax.Array:
    """Zeros and ones [rows, columns] -> int32 [word_rows, columns]."""
    rows, columns = dense.shape
    padded = jnp.pad(dense, ((0, -rows % ROWS), (0, 0)))
    parts = padded.reshape(-1, _BITS, _SUBLANES, columns).astype(jnp.uint32)
    shifts = jnp.arange(_BITS, dtype=jnp.uint32)[:, None, None]
    words = (parts << shifts).sum(1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.int32).reshape(-1, columns)


def unpack_words(words: jax.Array, rows: int, first: int = 0) -> jax.Array:
    """Words [word_rows, columns] as bool [rows, columns], in a kernel.

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
        part = jax.lax.slice_in_dim(words, held, held + _SUBLANES)
        shape = (count, _SUBLANES, columns)
        numbers = row // _SUBLANES + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        bit = jnp.int32(1) << numbers
        chosen = jnp.broadcast_to(part[None], shape) & bit
        groups.append(chosen.reshape(count * _SUBLANES, columns))
        at += count * _SUBLANES
    return jnp.concatenate(groups, axis=0) != 0
