"""A directory of plan files by key: publish once, read verified, never half a file.

    <root>/v<major>/<first two digits>/<key>.plan
    <root>/v<major>/quarantine/          what turned out to be damaged

The first writer of a key wins, and others keep their own bytes. Readers take no lock. Plans of more
than `MAX_DECODED` bytes are not kept, since readers would refuse them.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import platformdirs

from maskc_cache.errors import PlanError, StoreError
from maskc_cache.format import MAJOR, MAX_DECODED, encode, read_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from maskc_cache.plan import Plan

__all__ = ["Entry", "Store", "default_root"]

_KEY = re.compile(r"[0-9a-f]{32}")
_MISSES = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EACCES, errno.EPERM}
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}
_NOT_A_FILE = {errno.ELOOP, errno.EISDIR}  # a planted link or directory
_NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_PROC = {errno.ENOENT, errno.EXDEV}


def default_root() -> Path:
    """`$MASKC_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("MASKC_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("maskc")


@dataclass(frozen=True, slots=True)
class Entry:
    """A plan file of a store.

    Attributes:
        key: its key.
        path: the file.
        nbytes: its size.
        mtime: when it was published, seconds since the epoch.
    """

    key: str
    path: Path
    nbytes: int
    mtime: float


class Store:
    """A content-addressed directory of plan files.

    Args:
        root: the directory; None is `default_root()`. It is made when the first plan is put.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()
        self._home = self.root / f"v{MAJOR}"

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def path(self, key: str) -> Path:
        """Where the plan of a key is, or would be.

        Raises:
            ValueError: `key` is not 32 lower-case hex digits.
        """
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"key: expected 32 lower-case hex digits, got {key!r}")
        return self._home / key[:2] / f"{key}.plan"

    def has(self, key: str) -> bool:
        """Whether there is a file for the key; only `get` tells whether it is good."""
        try:
            return self.path(key).is_file()
        except OSError:
            return False

    def get(self, key: str, canonical: bytes | None = None, *, mmap: bool = False) -> Plan | None:
        """The plan of a key, verified, or None.

        A damaged file is moved to the quarantine, so that the next `put` heals it.

        Args:
            key: 32 hex digits.
            canonical: the canonical form that the plan must have; another one is a miss.
            mmap: map the file instead of reading it (see `read_plan`).

        Raises:
            StoreError: the directory cannot be read, for a reason other than absence.
        """
        path = self.path(key)
        try:
            plan = read_plan(path, mmap=mmap, follow_symlinks=False)
        except PlanError:
            self._quarantine(path)
            return None
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                self._quarantine(path)
            elif error.errno not in _MISSES:
                raise StoreError(f"{path}: {error.strerror}") from error
            return None
        if plan.key != key:
            self._quarantine(path)
            return None
        return plan if canonical in {None, plan.canonical} else None

    def put(self, plan: Plan) -> Path:
        """Publish a plan, unless its key is there already.

        Returns:
            The file of the key.

        Raises:
            StoreError: the plan cannot be written; the store is as it was.
        """
        path = self.path(plan.key)
        try:
            if not path.is_file():
                image = _image(plan)
                path.parent.mkdir(parents=True, exist_ok=True)
                _publish(image, path)
        except (OSError, PlanError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"{path}: {reason}") from error
        return path

    def remove(self, key: str) -> bool:
        """Forget a plan; whether there was one. Who has it open keeps it.

        Raises:
            StoreError: the file is there and cannot be removed.
        """
        path = self.path(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        return True

    def list(self) -> Iterator[Entry]:
        """The entries, in the order of their keys."""
        for path in sorted(self._home.glob("??/*.plan")):
            if _KEY.fullmatch(path.stem) and path == self.path(path.stem):
                try:
                    status = path.stat()
                except OSError:
                    continue  # removed since it was listed, or not ours to see
                yield Entry(path.stem, path, status.st_size, status.st_mtime)

    def find(self, prefix: str) -> Sequence[str]:
        """The keys that begin with `prefix`."""
        return [entry.key for entry in self.list() if entry.key.startswith(prefix)]

    def _quarantine(self, path: Path) -> None:
        """Move a damaged entry aside; if even that fails it stays a miss."""
        aside = self._home / "quarantine"
        try:
            aside.mkdir(exist_ok=True)
            path.rename(aside / f"{path.stem}.{uuid.uuid4().hex}")
        except OSError:
            return


def _image(plan: Plan) -> bytes:
    size = sum(array.nbytes for _, array in plan.arrays())
    if size > MAX_DECODED:
        raise PlanError(f"{size:,} bytes decoded, more than the {MAX_DECODED:,} that readers take")
    return encode(plan)


def _publish(image: bytes, path: Path) -> None:
    """Make `path` hold `image` in one step, or leave it to whoever was first."""
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        _publish_named(image, path)
        return
    with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
        _write(file, image)
        try:
            # src_dir_fd has no meaning for an absolute path, but with one Python calls linkat,
            # which unlike link follows the magic link to the unnamed file
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINK | _NO_PROC:
                raise
            _publish_named(image, path)


def _publish_named(image: bytes, path: Path) -> None:
    """The same through a file with a name of its own."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            _write(file, image)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: BinaryIO, image: bytes) -> None:
    """All bytes to the disk: a name must not appear before what it names."""
    file.write(image)
    file.flush()
    os.fdatasync(file.fileno())
