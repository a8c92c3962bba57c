"""What programs call: load a plan, attend under it."""

from maskc_runtime.arguments import SegmentIds
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
from maskc_runtime.plans import PlanRef, load_plan
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
    "PlanFacts",
    "PlanLookupError",
    "PlanRef",
    "PlanReferenceError",
    "PlanView",
    "SegmentIds",
    "TracedPlan",
    "attention",
    "blocksparse_attention",
    "load_plan",
    "plan_of_mask",
    "shard_plan",
    "sharded_attention",
    "stack_plans",
]
