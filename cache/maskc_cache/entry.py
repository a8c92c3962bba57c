"""What a store tells about its files."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["Collected", "Entry"]


class Entry(msgspec.Struct, frozen=True):
    """A plan file of a store.

    Attributes:
        key: its key.
        path: the file.
        nbytes: its size.
        mtime: when it was published or, give or take an hour, last used; seconds since the epoch.
    """

    key: str
    path: Path
    nbytes: int
    mtime: float


class Collected(msgspec.Struct, frozen=True):
    """What a collection did.

    Attributes:
        removed: plans, and records of what spec files mean, that it removed.
        freed: bytes on disk that they took.
        kept: how many of them stay.
        kept_bytes: bytes on disk that they take.
        swept: leavings of killed processes, and damaged files set aside, that it removed.
    """

    removed: int
    freed: int
    kept: int
    kept_bytes: int
    swept: int
