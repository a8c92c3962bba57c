"""The names of JAX's `splash_attention_mask` and `splash_attention_mask_info`, compiled by maskc.

Masks here have a shape, are indexed by slices and integers, and give splash attention's tables;
`mask.expression` is the same mask in maskc's own language. Never imports JAX.
"""

from maskc.splash.builders import (
    make_causal_mask,
    make_chunk_attention_mask,
    make_local_attention_mask,
    make_random_mask,
)
from maskc.splash.computable import CausalMask, ChunkedCausalMask, LocalMask, _ComputableMask
from maskc.splash.dynamic import process_dynamic_mask, process_dynamic_mask_dkv
from maskc.splash.masks import (
    ExpressionMask,
    FullMask,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    LogicalXor,
    Mask,
    MaskIndexError,
    MultiHeadMask,
    NumpyMask,
)
from maskc.splash.tables import MaskInfo, process_mask, process_mask_dkv

__all__ = [
    "CausalMask",
    "ChunkedCausalMask",
    "ExpressionMask",
    "FullMask",
    "LocalMask",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "Mask",
    "MaskIndexError",
    "MaskInfo",
    "MultiHeadMask",
    "NumpyMask",
    "_ComputableMask",
    "make_causal_mask",
    "make_chunk_attention_mask",
    "make_local_attention_mask",
    "make_random_mask",
    "process_dynamic_mask",
    "process_dynamic_mask_dkv",
    "process_mask",
    "process_mask_dkv",
]
