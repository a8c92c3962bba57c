"""File systems that behave like network ones: FUSE mounts of one directory, each with a cache.

Needs root, `/dev/fuse`, libfuse, and the package `mfusepy`.
"""

import contextlib
import errno
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import Counts
from faults.plans import many
from maskc_cache import PlanError, Store, StoreError, read_plan

__all__ = ["network"]

_FAILING = (
    "getattr", "readdir", "open", "create", "read", "write", "fsync", "link", "rename", "unlink",
    "mkdir", "utimens",
)  # fmt: skip
_CACHED = 5.0  # seconds for which a mount believes that a file is not there


def network(turns: int, kind: str) -> Counts:
    """One host misses, another publishes, the first publishes too and keeps its own bytes.

    Args:
        turns: how many plans.
        kind: "cached" as NFS caches names; and with the same cache "nolink" without hard links,
            "short" with short reads and writes, "eio" and "estale" with such an error in 5 % of
            all operations.

    Returns:
        "seen" counts the plans that the second host sees when it puts them, "refused" what ended
        in a `StoreError`, "bad" the plans that are damaged in the directory, and "missing" those
        that are not there.
    """
    counts: Counter[str] = Counter(turns=turns, seen=0, refused=0, bad=0, missing=0, wrong=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backing = folder / "backing"
        backing.mkdir()
        with _mounted(backing, folder / "a", kind) as a, _mounted(backing, folder / "b", kind) as b:
            one, other = Store(a), Store(b)
            for plan in many(turns):
                found = [_tried(counts, other.get, plan.key)]
                _tried(counts, one.put, plan)
                counts["seen"] += other.has(plan.key)
                _tried(counts, other.put, plan)
                found.append(_tried(counts, other.get, plan.key, plan.canonical))
                counts["wrong"] += any(f is not None and f != plan for f in found)
            counts["leaked"] = sum(
                link.is_symlink() and str(link.readlink()).startswith(name)
                for link in Path("/proc/self/fd").iterdir()
            )
            kept = Store(backing)
            for plan in many(turns):
                if kept.has(plan.key):
                    counts["bad"] += _is_bad(kept.path(plan.key), plan)
                else:
                    counts["missing"] += 1
    return counts


def _tried(counts: Counter[str], function: Any, *arguments: object) -> Any:
    try:
        return function(*arguments)
    except StoreError:
        counts["refused"] += 1


def _is_bad(path: Path, plan: object) -> bool:
    try:
        return read_plan(path) != plan
    except PlanError:
        return True


@contextlib.contextmanager
def _mounted(backing: Path, place: Path, kind: str) -> Iterator[Path]:
    place.mkdir()
    command = [sys.executable, "-m", "faults", "network.serve", str(backing), str(place), kind]
    server = subprocess.Popen(command)
    try:
        for _ in range(600):
            if place.is_mount() or server.poll() is not None:
                break
            time.sleep(0.05)
        assert place.is_mount(), f"{place}: not mounted"
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)
        server.wait(30)


def serve(backing: str, place: str, kind: str) -> Counts:
    """Serve a mount until it is unmounted."""
    import mfusepy

    cached = {f"{what}_timeout": _CACHED for what in ("negative", "entry", "attr")}
    options = cached | ({"direct_io": True} if kind == "short" else {})
    mfusepy.FUSE(Passing(backing, kind), place, foreground=True, nothreads=True, **options)
    return {}


class Passing:
    """Every operation of a mount, done in the directory behind it."""

    use_ns = True

    def __init__(self, backing: str, kind: str) -> None:
        self._backing = backing
        self._most = 700 if kind == "short" else 1 << 30
        self._chance = random.Random(kind)
        if kind == "nolink":
            self.link = self._no_link
        if error := {"eio": errno.EIO, "estale": errno.ESTALE}.get(kind):
            for name in _FAILING:
                setattr(self, name, self._failing(getattr(self, name), error))

    def _failing(self, operation: Callable[..., Any], error: int) -> Callable[..., Any]:
        def call(path: str, *arguments: Any) -> Any:
            if path != "/" and self._chance.random() < 0.05:  # or there is no mount at all
                raise OSError(error, os.strerror(error))
            return operation(path, *arguments)

        return call

    def _no_link(self, _target: str, _source: str) -> None:
        raise PermissionError(errno.EPERM, "no links")

    def init(self, _path: str) -> None:
        """Nothing to begin."""

    def destroy(self, _path: str) -> None:
        """Nothing to end."""

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, int]:
        status = os.lstat(self._backing + path)
        names = "mode", "nlink", "uid", "gid", "size", "blocks"
        facts = {f"st_{name}": getattr(status, f"st_{name}") for name in names}
        return facts | {f"st_{t}": getattr(status, f"st_{t}_ns") for t in ("atime", "mtime")}

    def readdir(self, path: str, _fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._backing + path)]  # noqa: PTH208

    def open(self, path: str, flags: int) -> int:
        return os.open(self._backing + path, flags & ~os.O_NOFOLLOW)

    def create(self, path: str, mode: int, _info: object = None) -> int:
        return os.open(self._backing + path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, min(size, self._most), offset)

    def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data[: self._most], offset)

    def fsync(self, _path: str, _datasync: int, fh: int) -> None:
        os.fdatasync(fh)

    def release(self, _path: str, fh: int) -> None:
        os.close(fh)

    def link(self, target: str, source: str) -> None:
        os.link(self._backing + source, self._backing + target)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._backing + old, self._backing + new)  # noqa: PTH104

    def unlink(self, path: str) -> None:
        os.unlink(self._backing + path)  # noqa: PTH108

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._backing + path, mode)  # noqa: PTH102

    def rmdir(self, path: str) -> None:
        os.rmdir(self._backing + path)  # noqa: PTH106

    def utimens(self, path: str, times: Any = None) -> None:
        os.utime(self._backing + path, ns=times)

    def statfs(self, path: str) -> dict[str, int]:
        disk = os.statvfs(self._backing + path)
        names = "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail"
        return {name: getattr(disk, name) for name in names}
