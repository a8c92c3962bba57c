"""What programs call: load a plan, attend under it."""

from maskc_kernels.segment_ids import SegmentIds
from maskc_runtime.block_arguments import BlockParams
from maskc_runtime.blocksparse import blocksparse_attention
from maskc_runtime.dispatch import attention
from maskc_runtime.errors import (
    ArgumentShapeError,
    ArgumentTypeError,
    ArgumentValueError,
    BackendError,
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
from maskc_runtime.serialization import register_serialization
from maskc_runtime.sharding import sharded_attention
from maskc_runtime.stack import shard_plan, stack_plans
from maskc_runtime.traced import TracedPlan
from maskc_runtime.traced_masks import plan_of_mask
from maskc_runtime.view import PlanFacts, PlanView

__all__ = [
    "ArgumentShapeError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "BackendError",
    "BlockParams",
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
    "SegmentIds",
    "SeqlenPairs",
    "SeqlensError",
    "TracedMaskError",
    "TracedPlan",
    "attention",
    "attention_mask_to_qkv_cu_seqlens",
    "blocksparse_attention",
    "cu_seqlens_to_mask",
    "get_debug_mode",
    "load_plan",
    "mask_to_segment_ids",
    "plan_of_mask",
    "qkv_cu_seqlens_to_attention_mask",
    "qkv_cu_seqlens_to_qkv_masks",
    "qkv_masks_to_cu_seqlens",
    "segment_ids_to_mask",
    "segment_ids_to_qkv_masks",
    "set_debug_mode",
    "shard_plan",
    "sharded_attention",
    "stack_plans",
]

register_serialization()
