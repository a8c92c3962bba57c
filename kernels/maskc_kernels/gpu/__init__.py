"""Block-sparse attention in Triton, called through jax-triton, for NVIDIA GPUs.

Importing this package imports no Triton; the first attention that is traced does, and needs the
`gpu` extra.
"""

from maskc_kernels.gpu.attention import block_sparse_attention
from maskc_kernels.gpu.config import Tile, Tiles
from maskc_kernels.gpu.refusals import refusal
from maskc_kernels.gpu.target import architecture, installed

__all__ = ["Tile", "Tiles", "architecture", "block_sparse_attention", "installed", "refusal"]
