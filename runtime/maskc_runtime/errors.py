"""What the runtime refuses; every class extends the one hierarchy of `maskc_cache.errors`."""

from maskc_cache.errors import MaskcError

__all__ = [
    "ArgumentShapeError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "BackendError",
    "MaskcError",
    "PlanLookupError",
    "PlanReferenceError",
]


class ArgumentShapeError(MaskcError, ValueError):
    """An array does not have the shape that the other arrays or the plan call for."""


class ArgumentTypeError(MaskcError, TypeError):
    """An array has a dtype, or an argument a type, that attention cannot compute with."""


class ArgumentValueError(MaskcError, ValueError):
    """An argument is out of range, or does not go together with another one."""


class BackendError(MaskcError, ValueError):
    """The backend that was asked for does not exist, is not installed, or cannot run the call."""


class PlanLookupError(MaskcError, LookupError):
    """A plan reference is well formed and names nothing, or more than one plan."""


class PlanReferenceError(MaskcError, TypeError):
    """A value is no kind of plan reference at all."""
