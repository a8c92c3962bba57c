"""Keeping a store within its bound: the plans that were used least recently go first.

What counts is the space on disk (`st_blocks`), and "used" is a file's mtime, which a hit renews at
most once an hour; so there is no index that could be lost or disagree. Ages are judged by the clock
of the file system, since hosts that share a directory have clocks of their own.

Readers take no lock: who has a file open keeps it, and who comes too late has a miss. So no plan
needs a time of grace, and the bound holds however fast plans come.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from maskc_cache.entry import Collected
from maskc_cache.publish import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Collector", "entries", "set_aside", "space_of"]

_ENTRY = re.compile(r"([0-9a-f]{32})\.(plan|spec)")  # .spec: what a spec file means (maskc)
_FOLDER = re.compile(r"[0-9a-f]{2}")
_LITTER_AGE = 3600.0  # seconds; no publication takes as long
_SCAN_EVERY = 600.0  # seconds for which the total of an earlier scan is believed
_KEEP = 0.9  # of the bound is left, so that not every publication has to collect
_SLACK = 2.0  # seconds by which file times are rounded at worst
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def space_of(status: os.stat_result) -> int:
    """Bytes on disk; never less than the size, for file systems that pack small files elsewhere."""
    return max(status.st_blocks * 512, status.st_size)


def entries(home: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Key, file and status of each plan, unordered; links and other strangers are passed over."""
    return (entry for entry in _entries(_files(home)) if entry[1].suffix == ".plan")


def _files(home: Path) -> Iterator[os.DirEntry[str]]:
    """Whatever lies in the folders of the entries."""
    for folder in _scan(home):
        if _FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
            yield from _scan(folder.path)


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing if it is not there, a link, or not ours to see."""
    try:
        if os.path.islink(folder):  # noqa: PTH114  # a path or a string
            return []
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _entries(files: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, Path, os.stat_result]]:
    for file in files:
        match, path = _ENTRY.fullmatch(file.name), Path(file.path)
        if match and file.name.startswith(path.parent.name):
            with contextlib.suppress(OSError):  # gone since it was listed
                status = file.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield match[1], path, status


def set_aside(path: Path, quarantine: Path) -> None:
    """Move what should not be there to the quarantine.

    Raises:
        OSError: even that fails, and it stays.
    """
    quarantine.mkdir(parents=True, exist_ok=True)
    path.rename(quarantine / f"{path.stem}.{os.urandom(16).hex()}")


class Collector:
    """Knows when a store's directory is over its bound, and brings it back.

    Args:
        home: the directory of the entries' folders.
        quarantine: where damaged files are set aside.
    """

    def __init__(self, home: Path, quarantine: Path) -> None:
        self._home = home
        self._quarantine = quarantine
        self._lock = home / "gc.lock"  # its text: bytes counted since, and when, the last scan

    def after_publication(self, path: Path, max_bytes: int) -> None:
        """Collect if the bound may have been crossed; `path` was just published and stays.

        Other than that a publication costs no scan: for a while the last one's total, and what
        was added to it, is believed.
        """
        with contextlib.suppress(OSError):
            status = path.stat(follow_symlinks=False)
            total, since = self._counted()
            total += space_of(status)
            if total > max_bytes or abs(status.st_mtime - since) > _SCAN_EVERY:
                self.collect(max_bytes, spare=path, polite=True)
            else:
                self._count(total, since)

    def _counted(self) -> tuple[int, int]:
        """Bytes at the last scan and published since, and when it was; long ago if unknown."""
        try:
            with open(self._lock, "rb", opener=_open_regular) as lock:
                total, since = lock.read(60).split()
                return int(total), int(since)
        except (OSError, ValueError):
            return 0, 0

    def _count(self, total: int, since: int) -> None:
        """Two publishers at once may lose a count, which the next scan finds again."""
        with (
            contextlib.suppress(OSError),  # a full disk may have no room even for this
            open(self._lock, "r+b", buffering=0, opener=_open_regular) as lock,
        ):
            lock.write(b"%-19d %-19d\n" % (total, since))

    def collect(
        self, max_bytes: int, *, spare: Path | None = None, free: int = 0, polite: bool = False
    ) -> Collected | None:
        """Sweep leavings, and remove the least recently used plans while there are too many.

        Args:
            max_bytes: the bound; if it is crossed, 90 % of it are left.
            spare: a file that stays in any case.
            free: remove plans of so many bytes even within the bound, and empty folders, for a
                disk that is full or has no more inodes.
            polite: leave it to another process that is at it.

        Returns:
            What was done; None if it was left to another process.

        Raises:
            OSError: the directory cannot be written.
        """
        with self._locked() as (descriptor, taken):
            if taken and polite:
                return None
            os.utime(descriptor)
            now = os.fstat(descriptor).st_mtime
            files = list(_files(self._home))
            damaged = _scan(self._quarantine)
            swept = _sweep(damaged, now, age=-1.0 if free else _LITTER_AGE)
            swept += _sweep([*files, *_scan(self._home)], now, suffix=TEMPORARY)
            plans = sorted(_by_use(files, now))
            total = sum(size for _, size, _, _ in plans)
            target = total if total <= max_bytes else int(max_bytes * _KEEP)
            removed, freed = _remove(plans, max(total - target, free), spare)
            if free:
                _remove_empty(self._home)
            self._count(total - freed, int(now))
        return Collected(removed, freed, len(plans) - removed, total - freed, swept)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[tuple[int, bool]]:
        """The lock file's descriptor, and whether another process holds the lock."""
        try:  # one look: to ask twice could set aside what another process has just made
            planted = not stat.S_ISREG(self._lock.lstat().st_mode)
        except FileNotFoundError:
            planted = False
            self._home.mkdir(parents=True, exist_ok=True)
        if planted:
            with contextlib.suppress(OSError):  # to open it says what is wrong
                set_aside(self._lock, self._quarantine)
        with open(self._lock, "r+b", buffering=0, opener=_open_regular) as lock:
            taken = False
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken = True
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise  # without locks two may collect at once, which removes nothing more
            yield lock.fileno(), taken


def _open_regular(path: str, flags: int) -> int:
    """A descriptor of a regular file, made if it is to be written; links are not followed."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | (os.O_CREAT if flags & os.O_RDWR else 0), 0o666)
    is_regular = False
    try:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        if not is_regular:
            os.close(descriptor)
    if not is_regular:
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


_Used = tuple[float, int, Path, int]


def _by_use(files: Iterable[os.DirEntry[str]], now: float) -> Iterator[_Used]:
    """When each plan was last used, its bytes, its file, and its exact mtime.

    A time in the future is set to now, so that no plan can stay for ever; where that is not allowed
    the plan counts as the least recently used.
    """
    for _, path, status in _entries(files):
        used, exact = status.st_mtime, status.st_mtime_ns
        if used > now + _SLACK:
            try:
                os.utime(path)
                used, exact = now, path.stat(follow_symlinks=False).st_mtime_ns
            except OSError:
                used = 0.0
        yield used, space_of(status), path, exact


def _remove(plans: list[_Used], wanted: int, spare: Path | None) -> tuple[int, int]:
    """Remove plans, in the order given, until `wanted` bytes are free; how many, and their bytes.

    One that was used since it was listed stays.
    """
    removed = freed = 0
    for _, size, path, exact in plans:
        if freed >= wanted:
            break
        with contextlib.suppress(OSError):
            if path != spare and path.stat(follow_symlinks=False).st_mtime_ns == exact:
                path.unlink()
                removed, freed = removed + 1, freed + size
    return removed, freed


def _remove_empty(home: Path) -> None:
    for folder in _scan(home):
        if _FOLDER.fullmatch(folder.name):
            with contextlib.suppress(OSError):  # not empty, or a link
                Path(folder.path).rmdir()


def _sweep(
    files: Iterable[os.DirEntry[str]], now: float, *, suffix: str = "", age: float = _LITTER_AGE
) -> int:
    """Remove what ends in `suffix` and is over `age` seconds old; how many.

    The age is that of the inode, whose time no program can set.
    """
    swept = 0
    for file in files:
        if not file.name.endswith(suffix) or file.name.startswith(".nfs"):
            continue  # .nfs*: a removed file that a client still reads
        with contextlib.suppress(OSError):
            if abs(now - file.stat(follow_symlinks=False).st_ctime) > age:
                if file.is_dir(follow_symlinks=False):
                    shutil.rmtree(file.path)
                else:
                    Path(file.path).unlink()
                swept += 1
    return swept
