"""Every error that the plan artefact and its store raise, in one small hierarchy."""

__all__ = [
    "MaskcError",
    "NotAPlanError",
    "PlanCorruptError",
    "PlanError",
    "PlanVersionError",
    "StoreError",
]


class MaskcError(Exception):
    """Base of every error that maskc raises on purpose; its text is fit to show to a user."""


class PlanError(MaskcError):
    """A plan, or the file that should hold one, is not usable."""


class NotAPlanError(PlanError):
    """The bytes are not a plan file at all (wrong magic, or too short to carry a preamble)."""


class PlanVersionError(PlanError):
    """The file is a plan of a format version, dtype, codec or flag that this reader lacks."""


class PlanCorruptError(PlanError):
    """The file claims to be a plan, and a length, checksum, range or invariant does not hold."""


class StoreError(MaskcError):
    """The plan store cannot be read or written; compiling without it still works."""
