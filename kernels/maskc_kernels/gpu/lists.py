"""What the kernels read of a plan: rows of blocks, their order, and masks as 32-bit words.

All of it is made from the plan's own arrays by a few XLA operations at the start of each pass, on
the device, so a plan keeps one bank of masks in one orientation and a new mask is new data for an
old program. The dearest of them, the transposed bank, costs one shift and one add per bit of the
unique partial blocks; the kernel that reads it multiplies head_dim numbers per bit, at least once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable, TableArray

__all__ = ["RowLists", "longest_first", "mask_words", "row_lists", "transposed_words"]

WORD = 32
FULL_COST, PARTIAL_COST = 10, 13
"""Time of a block; only the order of work depends on it."""


class RowLists(NamedTuple):
    """The operands of one kernel that come from the plan.

    `lists` is masks * rows; with segment ids every batch entry has lists of its own, and each
    array but `words` a leading axis.

    Attributes:
        order: int32 [lists], the rows of each mask, longest first.
        full_ptr: int32 [lists + 1], offsets into `full_idx`.
        full_idx: signed integers [n_full], never empty.
        partial_ptr: int32 [lists + 1], offsets into `partial_idx` and `partial_id`.
        partial_idx: signed integers [n_partial], never empty.
        partial_id: signed integers [n_partial], which block of `words` applies; None with bounds.
        words: uint32 [unique, positions, words], one row per position on the side of the rows,
            bits along the other side, least significant first; None with bounds.
        bounds: int32 [masks, 2 or 4, length], the intervals of every row; None without.
    """

    order: jax.Array
    full_ptr: jax.Array
    full_idx: jax.Array
    partial_ptr: jax.Array
    partial_idx: jax.Array
    partial_id: jax.Array | None
    words: jax.Array | None
    bounds: jax.Array | None


def row_lists(
    table: BlockTable, rows: int, bounds: TableArray | None = None, *, transposed: bool = False
) -> RowLists:
    """The operands for one pass.

    Args:
        table: lists of the pass.
        rows: rows per mask.
        bounds: the intervals of its rows; with them no words are made.
        transposed: the rows are blocks of keys, as in the dkv pass.
    """
    words = None
    if bounds is None:
        words = mask_words(table.partial_blocks)
        words = _not_empty(transposed_words(words) if transposed else words)
    full_ptr, partial_ptr = jnp.asarray(table.full_ptr), jnp.asarray(table.partial_ptr)
    return RowLists(
        order=longest_first(full_ptr, partial_ptr, rows),
        full_ptr=full_ptr,
        full_idx=_not_empty(table.full_idx),
        partial_ptr=partial_ptr,
        partial_idx=_not_empty(table.partial_idx),
        partial_id=_not_empty(table.partial_id) if bounds is None else None,
        words=words,
        bounds=None if bounds is None else jnp.asarray(bounds),
    )


def longest_first(full_ptr: jax.Array, partial_ptr: jax.Array, rows: int) -> jax.Array:
    """The rows of each mask by falling cost, so that no long one starts when the rest is done.

    Args:
        full_ptr: int32 [..., masks * rows + 1].
        partial_ptr: the same for partial blocks.
        rows: rows per mask.

    Returns:
        int32 [..., masks * rows].
    """
    cost = FULL_COST * jnp.diff(full_ptr) + PARTIAL_COST * jnp.diff(partial_ptr)
    by_mask = cost.reshape(*cost.shape[:-1], cost.shape[-1] // rows, rows)
    return jnp.argsort(-by_mask, axis=-1).astype(jnp.int32).reshape(cost.shape)


def mask_words(partial_blocks: TableArray) -> jax.Array:
    """uint8 [unique, block_q, bytes] -> uint32 [unique, block_q, words]; the same memory."""
    octets = jnp.asarray(partial_blocks)
    octets = jnp.pad(octets, ((0, 0), (0, 0), (0, -octets.shape[2] % 4)))
    grouped = octets.reshape(*octets.shape[:2], octets.shape[2] // 4, 4)
    words: jax.Array = jax.lax.bitcast_convert_type(grouped, jnp.uint32)
    return words


def transposed_words(words: jax.Array) -> jax.Array:
    """Words along kv into words along q.

    Args:
        words: uint32 [unique, block_q, kv_words].

    Returns:
        uint32 [unique, kv_words * 32, ceil(block_q / 32)].
    """
    unique, block_q, kv_words = words.shape
    q_words = -(-block_q // WORD)
    words = jnp.pad(words, ((0, 0), (0, q_words * WORD - block_q), (0, 0)))
    number = jnp.arange(WORD, dtype=jnp.uint32)
    rows = words.reshape(unique, q_words, WORD, kv_words, 1)
    bits = (rows >> number[None, None, None, None]) & jnp.uint32(1)
    packed = (bits << number[None, None, :, None, None]).sum(2, dtype=jnp.uint32)
    turned: jax.Array = packed.reshape(unique, q_words, kv_words * WORD).swapaxes(1, 2)
    return turned


def _not_empty(array: TableArray) -> jax.Array:
    """A buffer of no bytes has no address."""
    array = jnp.asarray(array)
    if array.shape[0]:
        return array
    return jnp.zeros((1, *array.shape[1:]), array.dtype)
