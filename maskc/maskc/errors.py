"""The compiler's errors; they extend the hierarchy of `maskc_cache.errors`."""

from maskc_cache.errors import MaskcError

__all__ = ["MaskArgumentError", "MaskcError", "SpecError"]


class MaskArgumentError(MaskcError, ValueError):
    """A mask node or a compile parameter got a value that it cannot mean anything with."""


class SpecError(MaskcError):
    """A spec file is wrong; the text names file, line, column and what was expected there."""
