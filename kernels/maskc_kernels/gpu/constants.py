"""The sizes and options that a kernel is compiled for, as one argument."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Constants"]


@dataclass(frozen=True, slots=True)
class Constants:
    """What is no operand; another value makes another kernel.

    Attributes:
        heads: query heads.
        kv_heads: kv heads.
        q_len: queries.
        kv_len: keys.
        head_dim: of q and k.
        v_head_dim: of v.
        width: `head_dim`, padded to a power of two.
        v_width: `v_head_dim`, padded.
        block_q: queries per block of the plan.
        block_kv: keys per block of the plan.
        tile_q: queries per step; divides `block_q`.
        tile_kv: keys per step; divides `block_kv`.
        block_rows: rows of words of a partial block.
        row_words: words per row.
        intervals: of each row, 1 or 2; 0 for masks as words.
        row_lanes: threads that hold a row of scores between them.
        masks: unique masks.
        rows: rows of blocks per mask.
        together: lanes whose programs start side by side.
        soft_cap: bound on the scaled scores; None for none.
        has_segments: every batch entry has segment ids, and lists of its own.
        has_full: some list of full blocks has an entry.
        has_partial: some list of partial blocks has an entry.
        precision: of products of float32.
        has_bias: whether there is one.
        bias_batch_stride: elements from one batch entry of the bias to the next; 0 if all share.
        bias_head_stride: from one head to the next.
        bias_row_stride: from one query to the next.
        has_sinks: whether heads have sinks.
        bias_heads: heads of the bias.
        sharing_batches: batch entries per batch entry of the bias.
        sharing_heads: heads per head of the bias.
    """

    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    v_head_dim: int
    width: int
    v_width: int
    block_q: int
    block_kv: int
    tile_q: int
    tile_kv: int
    block_rows: int
    row_words: int
    intervals: int
    row_lanes: int
    masks: int
    rows: int
    together: int
    soft_cap: float | None
    has_segments: bool
    has_full: bool
    has_partial: bool
    precision: str
    has_bias: bool
    bias_batch_stride: int
    bias_head_stride: int
    bias_row_stride: int
    has_sinks: bool = False
    bias_heads: int = 1
    sharing_batches: int = 1
    sharing_heads: int = 1

    @property
    def group(self) -> int:
        """Query heads per kv head."""
        return self.heads // self.kv_heads

    @property
    def q_ragged(self) -> bool:
        """Whether the last block of queries has some behind the end."""
        return self.q_len % self.block_q != 0

    @property
    def kv_ragged(self) -> bool:
        """Whether the last block of keys has some behind the end."""
        return self.kv_len % self.block_kv != 0

    @property
    def ragged(self) -> bool:
        """Whether either has."""
        return self.q_ragged or self.kv_ragged
