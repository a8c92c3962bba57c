"""The bytes of a spec file, before anybody asks what they mean."""

from __future__ import annotations

from pathlib import Path

from maskc.errors import SpecError

__all__ = ["read_bytes"]

_MAX_BYTES = 16 << 20  # a spec is written by hand; arrays go into files


def read_bytes(path: Path) -> bytes:
    """The content of a spec file.

    Raises:
        SpecError: the file cannot be read, or is too large to be written by hand.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot read the spec: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise SpecError(f"{path}: a spec of {len(content):,} bytes; put arrays into .npy files")
    return content
