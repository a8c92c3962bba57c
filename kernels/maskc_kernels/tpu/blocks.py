"""Which blocks to compile a plan in, by generation of TPU."""

from __future__ import annotations

from typing import TypedDict

import jax
import jax.numpy as jnp

from maskc_kernels.tpu.config import DTYPES

__all__ = ["BLOCKS", "PassBlocks", "recommended_blocks"]


class PassBlocks(TypedDict):
    """Block sizes of every pass, by the names that `compile_mask` has for them."""

    block_q: int
    block_kv: int
    block_q_dq: int
    block_kv_dq: int
    block_q_dkv: int
    block_kv_dkv: int


_Pair = tuple[int, int]
_ByBytes = dict[int, tuple[_Pair, ...]]

_WIDE, _SQUARE = (1024, 1024), (512, 512)
_NARROW_UNIT: _ByBytes = {256: (_WIDE,) * 3, 512: (_WIDE, _SQUARE, _SQUARE), 1024: (_SQUARE,) * 3}
_WIDE_UNIT: _ByBytes = {512: (_WIDE,) * 3, 1024: (_SQUARE,) * 3}

BLOCKS: dict[str, _ByBytes] = {
    "v5e": _NARROW_UNIT,
    "v5p": _NARROW_UNIT,
    "v6e": _WIDE_UNIT,
    "tpu7x": _WIDE_UNIT,
}
"""By generation and by the most bytes of a head (head_dim x size of an element): blocks q x kv of
the forward, dq and dkv passes. A fused backward pass has the blocks of dkv.

From the compiler's schedules for bfloat16 (libtpu 0.0.52, jax 0.12; `python benchmarks/tpu.py
measure` and `blocks` for every generation), in blocks of 512x512, 512x1024, 1024x512 and 1024x1024
of head_dim 64, 128 and 256. docs/tpu-benchmarks.md has the whole table. Thousands of cycles per
head of its four masks together, head_dim 128 and 256, in 512x512 and 1024x1024:

- v5e: forward 11,565 and 9,801, 20,518 and 18,729; fused 25,187 and 24,916, 47,808 and 49,225;
- v5p: forward 11,575 and 9,826, 20,533 and 18,738; fused 25,162 and 24,906, 47,758 and 49,209;
- v6e: forward 8,975 and 5,776, 9,723 and 6,624; fused 12,619 and 10,261, 15,135 and 13,403;
- tpu7x: forward 9,729 and 6,321, 11,479 and 7,116; fused 13,013 and 10,359, 15,472 and 13,484.

The matrix unit of v5e and v5p, 128 wide, is busy nearly always in the backward passes, and at
head_dim 256 computes what 512x512 leaves out faster. Waiting for HBM is not in these figures.
Not chosen by cycles: float32 has the blocks of the bfloat16 heads that take as many bytes, and
heads of more than 512 bytes (float32 beyond 128, bfloat16 beyond 256) those of 512x512, in which
float32 and head_dim 256 take 10.1 MiB of VMEM; bfloat16 takes 12.8 MiB in those of 1024x1024.
"""


def recommended_blocks(
    generation: str, *, head_dim: int = 128, dtype: jax.typing.DTypeLike = jnp.bfloat16
) -> PassBlocks:
    """Blocks in which attention takes the fewest modelled cycles.

    They were chosen over causal, windowed, packed and prefix masks of long sequences. A mask of
    much finer structure (documents far shorter than a block) may want smaller ones.

    Args:
        generation: "v5e", "v5p", "v6e" or "tpu7x".
        head_dim: of queries and keys, or of values if that is more.
        dtype: of q, k and v.

    Returns:
        Arguments for `compile_mask`.

    Raises:
        ValueError: there is no such generation, or the kernels do not take such inputs.
    """
    if generation not in BLOCKS:
        raise ValueError(f"generation: expected one of {', '.join(BLOCKS)}, got {generation!r}")
    if jnp.dtype(dtype).name not in DTYPES:
        raise ValueError(
            f"dtype: the TPU kernels take {' or '.join(DTYPES)}, got {jnp.dtype(dtype).name}"
        )
    size = head_dim * jnp.dtype(dtype).itemsize
    table = BLOCKS[generation]
    chosen = next((blocks for most, blocks in sorted(table.items()) if size <= most), None)
    if head_dim < 1 or chosen is None:
        raise ValueError(
            f"head_dim: blocks are known for 1 to {max(table) // jnp.dtype(dtype).itemsize} in "
            f"{jnp.dtype(dtype).name}, got {head_dim}"
        )
    (q, kv), (q_dq, kv_dq), (q_dkv, kv_dkv) = chosen
    return PassBlocks(
        block_q=q, block_kv=kv, block_q_dq=q_dq, block_kv_dq=kv_dq,
        block_q_dkv=q_dkv, block_kv_dkv=kv_dkv,
    )  # fmt: skip
