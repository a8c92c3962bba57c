"""What programs call: load a plan, attend under it."""

from maskc_runtime.dispatch import attention
from maskc_runtime.errors import (
    ArgumentShapeError,
    ArgumentTypeError,
    PlanLookupError,
    PlanReferenceError,
)
from maskc_runtime.plans import PlanRef, load_plan
from maskc_runtime.view import PlanFacts, PlanView

__all__ = [
    "ArgumentShapeError",
    "ArgumentTypeError",
    "PlanFacts",
    "PlanLookupError",
    "PlanRef",
    "PlanReferenceError",
    "PlanView",
    "attention",
    "load_plan",
]
