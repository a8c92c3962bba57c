"""The arrays that every kernel is driven by: block lists as a pytree, and nothing of masks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import numpy.typing as npt

__all__ = ["AttentionTables", "BlockTable", "Lists", "TableArray"]

TableArray = jax.Array | npt.NDArray[np.integer[Any]]
"""A table on the host (numpy) or on a device (jax)."""


class Lists(Protocol):
    """What `BlockTable.from_lists` reads; the plan artefact's block lists have all of it."""

    @property
    def block_q(self) -> int:
        """Queries per block."""
        ...

    @property
    def block_kv(self) -> int:
        """Keys per block."""
        ...

    @property
    def full_ptr(self) -> TableArray:
        """Offsets into `full_idx`."""
        ...

    @property
    def full_idx(self) -> TableArray:
        """Full blocks of every row."""
        ...

    @property
    def partial_ptr(self) -> TableArray:
        """Offsets into `partial_idx`."""
        ...

    @property
    def partial_idx(self) -> TableArray:
        """Partial blocks of every row."""
        ...

    @property
    def partial_id(self) -> TableArray:
        """Their places in `partial_blocks`."""
        ...

    @property
    def partial_blocks(self) -> TableArray:
        """The unique partial blocks, as bits."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """The non-empty blocks of every unique mask, as compressed rows, for one pass.

    A "row" is a block of queries for the forward and dq passes and a block of keys for the dkv
    pass; the lists name the blocks of the other side. Row `r` of mask `m` is number
    `m * rows + r`; its full blocks are `full_idx[full_ptr[n]:full_ptr[n + 1]]`, and likewise its
    partial ones. Outside the lengths nothing attends, so a full block never crosses a ragged edge.

    A pytree: the block sizes are static, the arrays are leaves.

    Attributes:
        block_q: queries per block.
        block_kv: keys per block.
        full_ptr: int32 [masks * rows + 1], offsets into `full_idx`.
        full_idx: signed integers [n_full], blocks with no mask arithmetic to do.
        partial_ptr: int32 [masks * rows + 1], offsets into `partial_idx` and `partial_id`.
        partial_idx: signed integers [n_partial].
        partial_id: signed integers [n_partial], which of `partial_blocks` applies.
        partial_blocks: uint8 [unique, block_q, ceil(block_kv / 8)], bits along kv, least
            significant first; in (q, kv) orientation for every pass.
    """

    block_q: int = field(metadata={"static": True})
    block_kv: int = field(metadata={"static": True})
    full_ptr: TableArray
    full_idx: TableArray
    partial_ptr: TableArray
    partial_idx: TableArray
    partial_id: TableArray
    partial_blocks: TableArray

    @classmethod
    def from_lists(cls, lists: Lists) -> BlockTable:
        """The same arrays, not copied, from any record that names them alike."""
        return cls(**{entry.name: getattr(lists, entry.name) for entry in fields(cls)})

    def masks(self, rows: int) -> int:
        """How many unique masks the lists hold, given the rows of one of them."""
        return (self.full_ptr.shape[0] - 1) // rows


class AttentionTables(NamedTuple):
    """All that attention reads of a plan, as a pytree.

    Attributes:
        head_mask: int32 [heads], which unique mask each query head uses.
        fwd: lists of the forward pass; rows are q blocks.
        dq: lists of the dq pass; rows are q blocks.
        dkv: lists of the dkv pass; rows are kv blocks.
        q_bounds: int32 [masks, 2 or 4, q_len], or None. In a partial block, query `i` of mask `m`
            attends `kv` iff `q_bounds[m, 0, i] <= kv < q_bounds[m, 1, i]`, or likewise for entries
            2 and 3. The stored bits say the same; a kernel reads either.
        kv_bounds: int32 [masks, 2 or 4, kv_len], or None; the queries that attend each key.
    """

    head_mask: TableArray
    fwd: BlockTable
    dq: BlockTable
    dkv: BlockTable
    q_bounds: TableArray | None = None
    kv_bounds: TableArray | None = None
