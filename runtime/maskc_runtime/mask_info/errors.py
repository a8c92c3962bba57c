"""What a `MaskInfo` refuses."""

from maskc_runtime.errors import ArgumentShapeError, ArgumentTypeError, MaskcError

__all__ = [
    "ArgumentShapeError",
    "ArgumentTypeError",
    "NotSegmentsError",
    "SeqlensError",
    "TracedMaskError",
]


class NotSegmentsError(MaskcError, ValueError):
    """No pair of segment id arrays means the same as this mask."""


class SeqlensError(MaskcError, ValueError):
    """An array is no cumulative sequence lengths, or could be read as either kind of them."""


class TracedMaskError(MaskcError, TypeError):
    """A value is needed on the host, and it is traced."""
