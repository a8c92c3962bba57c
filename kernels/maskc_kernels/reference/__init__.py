"""Attention by its definition, and the small types and helpers of JAX's TPU `flash_attention`."""

from maskc_kernels.reference.blocks import (
    MIN_BLOCK_SIZE,
    NUM_LANES,
    NUM_SUBLANES,
    BlockSizes,
    below_or_on_diag,
)
from maskc_kernels.reference.dense import dense_attention
from maskc_kernels.reference.mha import (
    DEFAULT_MASK_VALUE,
    mha_reference,
    mha_reference_bwd,
    mha_reference_no_custom_vjp,
)
from maskc_kernels.segment_ids import SegmentIds

__all__ = [
    "DEFAULT_MASK_VALUE",
    "MIN_BLOCK_SIZE",
    "NUM_LANES",
    "NUM_SUBLANES",
    "BlockSizes",
    "SegmentIds",
    "below_or_on_diag",
    "dense_attention",
    "mha_reference",
    "mha_reference_bwd",
    "mha_reference_no_custom_vjp",
]
