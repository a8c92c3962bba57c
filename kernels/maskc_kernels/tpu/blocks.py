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

BLOCKS: dict[str, dict[int, tuple[_Pair, ...]]] = {
    "v5e": {512: ((1024, 1024), (1024, 1024), (1024, 1024)), 1024: ((512, 512),) * 3},
    "v5p": {512: ((1024, 1024), (1024, 1024), (1024, 1024)), 1024: ((512, 512),) * 3},
    "v6e": {512: ((1024, 1024), (1024, 1024), (1024, 1024)), 1024: ((512, 512),) * 3},
    "tpu7x": {512: ((1024, 1024), (1024, 1024), (1024, 1024)), 1024: ((512, 512),) * 3},
}
"""By generation and by the most bytes of a head (head_dim x size of an element): blocks q x kv of
the forward, dq and dkv passes. A fused backward pass has the blocks of dkv.

From the compiler's schedules for head_dim 128 in bfloat16 (libtpu 0.0.52, jax 0.12; `python
benchmarks/tpu.py blocks`): thousands of cycles per head of the four masks of docs/tpu-benchmarks.md
together, in blocks of 512x512, 512x1024 and 1024x1024:

- v5e: forward 11,565, 10,432, 9,797; dq 16,365, 15,961, 15,430; dkv 20,653, 20,549, 20,202;
  fused 25,901, 25,672, 25,221;
- v6e: forward 9,008, 6,711, 5,778; dq 10,103, 9,041, 8,274; dkv 11,826, 9,799, 8,983; fused
  13,175, 11,343, 10,515;
- tpu7x, cycles of one full block only: forward 1,009, 1,464, 2,500, so 1024x1024 takes 0.62 times
  as long per score as 512x512;
- v5p has v5e's matrix unit and takes its blocks; it was not measured.

Heads of up to 512 bytes (bfloat16 to 256, float32 to 128) take up to 8.5 MiB of VMEM in blocks of
1024x1024, larger ones 7.1 MiB in those of 512x512 (float32, 256).
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
