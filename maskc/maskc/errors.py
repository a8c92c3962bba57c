"""The compiler's errors; they extend the hierarchy of `maskc_cache.errors`."""

from maskc_cache.errors import MaskcError

__all__ = ["MaskArgumentError", "MaskcError", "SmemError", "SpecError"]


class MaskArgumentError(MaskcError, ValueError):
    """A mask node or a compile parameter got a value that it cannot mean anything with."""


class SmemError(MaskcError):
    """Tables do not fit a TPU's scalar memory; the text names the settings that would."""


class SpecError(MaskcError):
    """A spec file is wrong; the text names file, line, column and what was expected there."""
