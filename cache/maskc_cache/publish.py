"""Files that appear whole or not at all: an unnamed file gets its bytes first and its name last."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["TEMPORARY", "publish", "replace"]

TEMPORARY = ".tmp"
"""How names end that a killed process may leave behind, where files cannot be unnamed."""

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}
_NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_PROC = {errno.ENOENT, errno.EXDEV}


def publish(image: bytes, path: Path) -> bool:
    """Make `path` hold `image` in one step, or leave it to whoever was first.

    The file gets the permissions that the umask leaves, and the group that its folder hands on.

    Returns:
        Whether this call made the file. Whoever lost must not expect to see the winner's file:
        network file systems may deny for a while that it is there.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path.parent, flags, 0o666)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        return _publish_named(image, path)
    try:
        _write(descriptor, image)
        try:
            # src_dir_fd has no meaning for an absolute path, but with one Python calls linkat,
            # which unlike link follows the magic link to the unnamed file
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINK | _NO_PROC:
                raise
            return _publish_named(image, path)
    finally:
        os.close(descriptor)
    return True


def _publish_named(image: bytes, path: Path) -> bool:
    """The same through a file with a name of its own."""
    temporary = _write_beside(image, path)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def replace(image: bytes, path: Path) -> None:
    """Make `path` hold `image`, whatever it held before; readers see the old file or the new one.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    temporary = _write_beside(image, path)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_beside(image: bytes, path: Path) -> Path:
    """A file in the folder of `path` with a name that nobody can foresee."""
    temporary = path.with_name(f".{os.urandom(16).hex()}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write(descriptor, image)
        finally:
            os.close(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write(descriptor: int, image: bytes) -> None:
    """All bytes to the disk: a name must not appear before what it names."""
    rest = memoryview(image)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fdatasync(descriptor)
