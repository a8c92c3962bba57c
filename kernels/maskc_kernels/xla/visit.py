"""Walking one row of the block lists: first its full blocks, then its partial ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp

from maskc_kernels.xla.tiles import take

if TYPE_CHECKING:
    from maskc_kernels.tables import BlockTable

__all__ = ["Step", "masked", "visit"]

Carry = TypeVar("Carry")
Step = Callable[[Carry, jax.Array, jax.Array | None], Carry]
"""(carry, number of the block on the other side, bool [block_q, block_kv] or None) -> carry."""


def visit(table: BlockTable, row: jax.Array, step: Step[Carry], carry: Carry) -> Carry:
    """Run `step` over the non-empty blocks of one row of the lists, in a fixed order.

    The trip counts are read from the lists at run time, so time falls with density and the
    program is the same for every mask.

    Args:
        table: the lists.
        row: int32 [], the row's number, `mask * rows + row of blocks`.
        step: called with None for full blocks, with the mask for partial ones.
        carry: what the first step gets.
    """

    def full(at: jax.Array, carry: Carry) -> Carry:
        return step(carry, _entry(table.full_idx, at), None)

    def partial(at: jax.Array, carry: Carry) -> Carry:
        number = _entry(table.partial_id, at)
        bits = take(jnp.asarray(table.partial_blocks), number)
        return step(carry, _entry(table.partial_idx, at), _unpack(bits, table.block_kv))

    # An empty list has nothing that could be indexed, not even in a loop that never runs.
    if table.full_idx.shape[0]:
        carry = jax.lax.fori_loop(*_span(table.full_ptr, row), full, carry)
    if table.partial_idx.shape[0]:
        carry = jax.lax.fori_loop(*_span(table.partial_ptr, row), partial, carry)
    return carry


def masked(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Scores [vectors, group * block_q, block_kv] with -inf where the mask forbids."""
    if mask is None:
        return scores
    folded = scores.reshape(scores.shape[0], -1, *mask.shape)
    return jnp.where(mask[None, None], folded, -jnp.inf).reshape(scores.shape)


def _entry(array: jax.typing.ArrayLike, at: jax.Array) -> jax.Array:
    # Tables use the smallest integers; arithmetic on them needs room.
    return take(jnp.asarray(array), at).astype(jnp.int32)


def _span(ptr: jax.typing.ArrayLike, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _entry(ptr, row), _entry(ptr, row + 1)


def _unpack(bits: jax.Array, block_kv: int) -> jax.Array:
    """uint8 [block_q, ceil(block_kv / 8)] -> bool [block_q, block_kv]."""
    shifts = jnp.arange(8, dtype=jnp.uint8)[None, None]
    spread = (bits[:, :, None] >> shifts) & jnp.uint8(1)
    flat = spread.reshape(bits.shape[0], -1).astype(jnp.bool_)
    return jax.lax.slice_in_dim(flat, 0, block_kv, axis=1)
