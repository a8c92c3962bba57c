"""The runtime mask container, and what converts masks, segment ids and cumulative lengths."""

from maskc_runtime.mask_info.cu_seqlens import (
    CuSeqlens,
    SeqlenPairs,
    attention_mask_to_qkv_cu_seqlens,
    cu_seqlens_to_mask,
    ids_to_cu_seqlens,
    qkv_cu_seqlens_to_attention_mask,
    qkv_cu_seqlens_to_qkv_masks,
    qkv_masks_to_cu_seqlens,
)
from maskc_runtime.mask_info.debug import get_debug_mode, set_debug_mode
from maskc_runtime.mask_info.errors import NotSegmentsError, SeqlensError, TracedMaskError
from maskc_runtime.mask_info.info import MaskInfo
from maskc_runtime.mask_info.planning import MaskOperands
from maskc_runtime.mask_info.segments import (
    mask_to_segment_ids,
    positions_in_segments,
    segment_ids_to_mask,
    segment_ids_to_qkv_masks,
)
from maskc_runtime.mask_info.shardings import MaskSharding

__all__ = [
    "CuSeqlens",
    "MaskInfo",
    "MaskOperands",
    "MaskSharding",
    "NotSegmentsError",
    "SeqlenPairs",
    "SeqlensError",
    "TracedMaskError",
    "attention_mask_to_qkv_cu_seqlens",
    "cu_seqlens_to_mask",
    "get_debug_mode",
    "mask_to_segment_ids",
    "qkv_cu_seqlens_to_attention_mask",
    "qkv_cu_seqlens_to_qkv_masks",
    "qkv_masks_to_cu_seqlens",
    "segment_ids_to_mask",
    "segment_ids_to_qkv_masks",
    "set_debug_mode",
]

# ejKernel's names for them, which programs import though they begin with an underscore
_segment_ids_to_cu_seqlens = ids_to_cu_seqlens
_positions_from_segments_2d = positions_in_segments
