"""What programs call: load a plan, attend under it."""

from maskc_runtime.dispatch import attention
from maskc_runtime.errors import (
    ArgumentShapeError,
    ArgumentTypeError,
    PlanLookupError,
    PlanReferenceError,
)
from maskc_runtime.mask_info import (
    CuSeqlens,
    MaskInfo,
    MaskSharding,
    NotSegmentsError,
    Operands,
    SeqlenPairs,
    SeqlensError,
    TracedMaskError,
    attention_mask_to_qkv_cu_seqlens,
    cu_seqlens_to_mask,
    get_debug_mode,
    mask_to_segment_ids,
    qkv_cu_seqlens_to_attention_mask,
    qkv_cu_seqlens_to_qkv_masks,
    qkv_masks_to_cu_seqlens,
    segment_ids_to_mask,
    segment_ids_to_qkv_masks,
    set_debug_mode,
)
from maskc_runtime.plans import PlanRef, load_plan
from maskc_runtime.view import PlanFacts, PlanView

__all__ = [
    "ArgumentShapeError",
    "ArgumentTypeError",
    "CuSeqlens",
    "MaskInfo",
    "MaskSharding",
    "NotSegmentsError",
    "Operands",
    "PlanFacts",
    "PlanLookupError",
    "PlanRef",
    "PlanReferenceError",
    "PlanView",
    "SeqlenPairs",
    "SeqlensError",
    "TracedMaskError",
    "attention",
    "attention_mask_to_qkv_cu_seqlens",
    "cu_seqlens_to_mask",
    "get_debug_mode",
    "load_plan",
    "mask_to_segment_ids",
    "qkv_cu_seqlens_to_attention_mask",
    "qkv_cu_seqlens_to_qkv_masks",
    "qkv_masks_to_cu_seqlens",
    "segment_ids_to_mask",
    "segment_ids_to_qkv_masks",
    "set_debug_mode",
]
