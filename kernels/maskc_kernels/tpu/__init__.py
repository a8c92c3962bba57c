"""Block-sparse attention for TPUs: Pallas kernels over a flat list of non-empty blocks."""

from maskc_kernels.tpu.attention import block_sparse_attention
from maskc_kernels.tpu.blocks import recommended_blocks
from maskc_kernels.tpu.config import KernelConfig
from maskc_kernels.tpu.limits import refusal

__all__ = ["KernelConfig", "block_sparse_attention", "recommended_blocks", "refusal"]
