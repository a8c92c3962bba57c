"""What programs call: load a plan, attend under it."""

from maskc_runtime.arguments import SegmentIds
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
from maskc_runtime.traced import TracedPlan
from maskc_runtime.view import PlanFacts, PlanView

__all__ = [
    "ArgumentShapeError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "BackendError",
    "PlanFacts",
    "PlanLookupError",
    "PlanRef",
    "PlanReferenceError",
    "PlanView",
    "SegmentIds",
    "TracedPlan",
    "attention",
    "load_plan",
]
