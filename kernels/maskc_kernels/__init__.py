"""Attention kernels over plan arrays. They see lists and bits, never a mask expression.

A backend is one subpackage: `maskc_kernels.tpu` (Pallas), `maskc_kernels.gpu` (Triton), and
`maskc_kernels.xla`, which runs wherever XLA does.
"""

from maskc_kernels import reference
from maskc_kernels.reference import dense_attention
from maskc_kernels.tables import AttentionTables, BlockTable
from maskc_kernels.xla import block_sparse_attention

__all__ = [
    "AttentionTables",
    "BlockTable",
    "block_sparse_attention",
    "dense_attention",
    "reference",
]
