"""A directory of plan files by key: publish once, read verified, never half a file.

    <root>/v<major>/<first two digits>/<key>.plan
    <root>/v<major>/quarantine/          what turned out to be damaged, for an hour
    <root>/v<major>/gc.lock              held while old plans are removed (see `evict`)

The first writer of a key wins, and others keep their own bytes. Readers take no lock. Plans of more
than `MAX_DECODED` bytes are not kept, since readers would refuse them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from maskc_cache.check import verify
from maskc_cache.entry import Collected, Entry
from maskc_cache.errors import PlanCorruptError, PlanError, StoreError
from maskc_cache.format import MAJOR, MAX_DECODED, decode, encode, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from maskc_cache.evict import Collector
    from maskc_cache.plan import Plan

__all__ = ["DEFAULT_MAX_BYTES", "Store", "default_root"]

DEFAULT_MAX_BYTES = 1 << 30
"""The bound of a store that names no other, or 5 % of the disk if that is less."""

_KEY = re.compile(r"[0-9a-f]{32}")
_TOUCH_AFTER = 3600.0  # seconds; a hit on a plan used since writes nothing
_MISSES = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EACCES, errno.EPERM}
_NOT_A_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO}  # a planted link, directory or socket
_FULL = {errno.ENOSPC, errno.EDQUOT}


def default_root() -> Path:
    """`$MASKC_CACHE`, or the user's cache directory."""
    if chosen := os.environ.get("MASKC_CACHE"):
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("maskc")


def _default_max_bytes() -> int | None:
    """`$MASKC_CACHE_MAX_BYTES`, if it is set."""
    if not (text := os.environ.get("MASKC_CACHE_MAX_BYTES")):
        return None
    try:
        return _checked_bound(int(text))
    except ValueError:
        raise StoreError(
            f"MASKC_CACHE_MAX_BYTES: expected a number of bytes, like 2_000_000_000, got {text!r}"
        ) from None


def _checked_bound(max_bytes: int) -> int:
    if max_bytes < 0:
        raise ValueError(f"max_bytes: expected 0 or more, got {max_bytes}")
    return max_bytes


class Store:
    """A content-addressed directory of plan files, kept within a bound.

    Args:
        root: the directory; None is `default_root()`. It is made when the first plan is put.
        max_bytes: space on disk that the plans may take. When a publication crosses it, the plans
            used least recently are removed until 90 % are left. None is `$MASKC_CACHE_MAX_BYTES`,
            or else 1 GiB or 5 % of the disk, whichever is less.

    Raises:
        ValueError: `max_bytes` is negative.
        StoreError: `$MASKC_CACHE_MAX_BYTES` is not a number.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, max_bytes: int | None = None
    ) -> None:
        self.root = Path(root) if root is not None else default_root()
        self._home = self.root / f"v{MAJOR}"
        self._quarantine = self._home / "quarantine"
        self._bound = _default_max_bytes() if max_bytes is None else _checked_bound(max_bytes)
        self._stuck: set[str] = set()  # keys of damaged files that could not be set aside

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    @cached_property
    def _collector(self) -> Collector:
        from maskc_cache.evict import Collector  # a hit needs none

        return Collector(self._home, self._quarantine)

    def _set_aside(self, path: Path) -> None:
        from maskc_cache.evict import set_aside

        try:
            set_aside(path, self._quarantine)
        except FileNotFoundError:
            pass  # somebody else did it
        except OSError:
            self._stuck.add(path.stem)

    @property
    def max_bytes(self) -> int:
        """The bound, in bytes on disk."""
        if self._bound is not None:
            return self._bound
        try:
            disk = os.statvfs(self.root)
        except OSError:
            return DEFAULT_MAX_BYTES
        return min(DEFAULT_MAX_BYTES, disk.f_blocks * disk.f_frsize // 20)

    def path(self, key: str) -> Path:
        """Where the plan of a key is, or would be.

        Raises:
            ValueError: `key` is not 32 lower-case hex digits.
        """
        return Path(self._file(key))

    def _file(self, key: str) -> str:
        """The same as text; to make a path takes as long as to open it."""
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"key: expected 32 lower-case hex digits, got {key!r}")
        return f"{self._home}/{key[:2]}/{key}.plan"

    def has(self, key: str) -> bool:
        """Whether there is a file for the key; only `get` tells whether it is good."""
        try:
            return stat.S_ISREG(self.path(key).stat(follow_symlinks=False).st_mode)
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
        path = self._file(key)
        try:
            plan, used = self._read(key, path, mmap=mmap)
        except PlanError:
            self._set_aside(Path(path))
            return None
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                self._set_aside(Path(path))
            elif error.errno not in _MISSES:
                raise StoreError(f"{path}: {error.strerror}") from error
            return None
        except MemoryError:
            raise StoreError(f"{path}: not enough memory to read it") from None
        if canonical not in {None, plan.canonical}:
            return None
        if not 0 <= time.time() - used <= _TOUCH_AFTER:
            self.touch(key)
        return plan

    @staticmethod
    def _read(key: str, path: str, *, mmap: bool = False) -> tuple[Plan, float]:
        """The plan of a file, and when it was used."""
        image, status = read_image(path, mmap=mmap, follow_symlinks=False)
        plan = decode(image, source=path)
        if plan.key != key:
            raise PlanCorruptError(f"{path}: holds the plan of another key, {plan.key}")
        return plan, status.st_mtime

    def put(self, plan: Plan) -> Path:
        """Publish a plan, unless its key is there already.

        On a full disk old plans are removed to make room, once.

        Returns:
            The file of the key.

        Raises:
            StoreError: the plan cannot be written; the store is as it was.
        """
        path = self.path(plan.key)
        try:
            if plan.key in self._stuck:
                self._free(path)
            if not self.has(plan.key):
                self._publish(_image(plan), path)
        except (OSError, PlanError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"{path}: {reason}") from error
        return path

    def _free(self, path: Path) -> None:
        """Try again to set aside what is damaged, since nobody else could put the plan there."""
        from maskc_cache.evict import set_aside

        if self.has(path.stem):
            set_aside(path, self._quarantine)
        self._stuck.discard(path.stem)

    def _publish(self, image: bytes, path: Path) -> None:
        try:
            made = self._publish_once(image, path)
        except OSError as error:
            if error.errno in _FULL:
                self._collector.collect(self.max_bytes, free=4 * len(image))
            elif error.errno != errno.ENOENT:  # another process on a full disk took our folder
                raise
            made = self._publish_once(image, path)
        if made:
            self._collector.after_publication(path, self.max_bytes)

    def _publish_once(self, image: bytes, path: Path) -> bool:
        """Publish where a folder is or can be, and nothing but a plan is in the entry's place."""
        from maskc_cache.publish import publish

        for place, is_right in ((path.parent, stat.S_ISDIR), (path, stat.S_ISREG)):
            try:
                if not is_right(place.stat(follow_symlinks=False).st_mode):
                    self._set_aside(place)
            except FileNotFoundError:
                pass
        path.parent.mkdir(parents=True, exist_ok=True)
        return publish(image, path)

    def touch(self, key: str) -> bool:
        """Count a plan as used now; whether there is one that lets us."""
        try:
            os.utime(self.path(key), follow_symlinks=False)
        except OSError:
            return False
        return True

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
        """The entries, in the order of their keys.

        Raises:
            StoreError: the directory is there and cannot be read.
        """
        from maskc_cache.evict import entries

        try:
            os.scandir(self._home).close()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}") from error
        for key, path, status in sorted(entries(self._home), key=lambda entry: entry[0]):
            yield Entry(key, path, status.st_size, status.st_mtime)

    def find(self, prefix: str) -> Sequence[str]:
        """The keys that begin with `prefix`."""
        return [entry.key for entry in self.list() if entry.key.startswith(prefix)]

    def verify(self) -> Iterator[tuple[Entry, str | None]]:
        """Each entry with what is wrong with it, or None; every invariant is checked.

        A damaged file is moved to the quarantine, as by `get`. One that cannot be read stays.
        """
        for entry in self.list():
            try:
                verify(self._read(entry.key, str(entry.path))[0])
            except PlanError as error:
                self._set_aside(entry.path)
                yield entry, str(error)
            except OSError as error:
                if error.errno != errno.ENOENT:  # removed since it was listed
                    yield entry, f"{entry.path}: {error.strerror}"
            else:
                yield entry, None

    def gc(self, max_bytes: int | None = None) -> Collected:
        """Remove the plans used least recently while there are too many, and old leavings.

        Args:
            max_bytes: another bound than the store's, for this once.

        Raises:
            ValueError: `max_bytes` is negative.
            StoreError: the directory cannot be written.
        """
        bound = self.max_bytes if max_bytes is None else _checked_bound(max_bytes)
        try:
            if not self._home.is_dir():
                return Collected(0, 0, 0, 0, 0)
            collected = self._collector.collect(bound)
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}") from error
        assert collected is not None  # noqa: S101  # only a polite collection may be left to others
        return collected


def _image(plan: Plan) -> bytes:
    size = sum(array.nbytes for _, array in plan.arrays())
    if size > MAX_DECODED:
        raise PlanError(f"{size:,} bytes decoded, more than the {MAX_DECODED:,} that readers take")
    return encode(plan)
