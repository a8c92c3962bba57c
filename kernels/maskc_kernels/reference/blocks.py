"""The tile sizes of TPU flash attention, and its test of blocks against the diagonal."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, fields
from typing import Any, TypeVar

__all__ = ["MIN_BLOCK_SIZE", "NUM_LANES", "NUM_SUBLANES", "BlockSizes", "below_or_on_diag"]

NUM_LANES = 128
"""Lanes of a TPU's vector registers."""

NUM_SUBLANES = 8
"""Sublanes of a TPU's vector registers."""

MIN_BLOCK_SIZE = 128
"""The smallest block of keys that TPU flash attention takes."""

_MOST = 512  # tokens of a default block: what users of splash attention measured best
_TILE = 128 * 1024  # elements of a default block of q, k or v, so that several fit VMEM

_Index = TypeVar("_Index", int, Any)


@dataclass(frozen=True)
class BlockSizes:
    """Tile sizes of TPU flash attention. They change its speed and hardly its numbers.

    A minor block is a part of its major one: it is not larger and divides it.

    Attributes:
        block_q: queries per block of the forward pass.
        block_k_major: keys per block that it loads.
        block_k: keys per step inside of it.
        block_b: batch rows per block.
        block_q_major_dkv: queries per block that the dkv pass loads.
        block_k_major_dkv: keys per block that it loads.
        block_k_dkv: keys per step inside of it.
        block_q_dkv: queries per step inside of it.
        block_k_major_dq: keys per block that the dq pass loads.
        block_k_dq: keys per step inside of it.
        block_q_dq: queries per block of the dq pass.

    Raises:
        ValueError: a size is not an integer of 1 or more, or a minor block is no part of its
            major one.
    """

    block_q: int
    block_k_major: int
    block_k: int
    block_b: int

    block_q_major_dkv: int | None = None
    block_k_major_dkv: int | None = None
    block_k_dkv: int | None = None
    block_q_dkv: int | None = None

    block_k_major_dq: int | None = None
    block_k_dq: int | None = None
    block_q_dq: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"BlockSizes.{field.name}: expected an integer >= 1, got {value!r}"
                )
            object.__setattr__(self, field.name, int(value))
        for minor, major in _PARTS.items():
            part, whole = getattr(self, minor), getattr(self, major)
            if part is not None and whole is not None and whole % part:
                raise ValueError(
                    f"BlockSizes.{minor}: expected a divisor of {major}={whole}, got {part}"
                )

    @property
    def has_backward_blocks(self) -> bool:
        """Whether all seven sizes of the backward passes are set."""
        return all(getattr(self, field.name) is not None for field in fields(self))

    @classmethod
    def get_default(
        cls, batch_size: int, num_heads: int, q_seq_len: int, kv_len: int, d_model: int
    ) -> BlockSizes:
        """Sizes that fit a shape, for all passes.

        Blocks are the largest multiples of 128 that divide the length, up to 512 tokens and, for
        wide heads, 128 Ki elements. A length that has no such divisor is one block if it is
        that short, else it is cut into blocks of 128, which leave a ragged edge.

        Args:
            batch_size: batch rows; has no influence.
            num_heads: query heads; has no influence.
            q_seq_len: number of queries.
            kv_len: number of keys.
            d_model: width of a head.

        Raises:
            ValueError: a length or width is not 1 or more.
        """
        del batch_size, num_heads
        for name, value in {"q_seq_len": q_seq_len, "kv_len": kv_len, "d_model": d_model}.items():
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")
        q, k = _default(q_seq_len, d_model), _default(kv_len, d_model)
        return cls(
            block_q=q, block_k_major=k, block_k=k, block_b=1,
            block_q_major_dkv=q, block_k_major_dkv=k, block_k_dkv=k, block_q_dkv=q,
            block_k_major_dq=k, block_k_dq=k, block_q_dq=q,
        )  # fmt: skip


_PARTS = {
    "block_k": "block_k_major",
    "block_q_dkv": "block_q_major_dkv",
    "block_k_dkv": "block_k_major_dkv",
    "block_k_dq": "block_k_major_dq",
}


def _default(length: int, width: int) -> int:
    most = max(MIN_BLOCK_SIZE, min(_MOST, _TILE // width // MIN_BLOCK_SIZE * MIN_BLOCK_SIZE))
    for block in range(most, 0, -MIN_BLOCK_SIZE):
        if length % block == 0:
            return block
    return length if length <= most else MIN_BLOCK_SIZE


def below_or_on_diag(r: _Index, r_blk_size: int, c: _Index, c_blk_size: int) -> Any:
    """Whether any element of block (r, c) lies on the diagonal or below it.

    Exactly those blocks have work under a causal mask.

    Args:
        r: row of the block; an integer or an array, traced or not.
        r_blk_size: elements per block along the rows.
        c: column of the block, likewise.
        c_blk_size: elements per block along the columns.

    Returns:
        A bool, or an array of them.
    """
    return (r + 1) * r_blk_size - 1 >= c * c_blk_size
