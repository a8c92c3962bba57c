"""The power cut: what a disk holds at some moment, mounted anew.

The publisher writes to an ext4 file system in a file. It is stopped, the file is copied until two
copies agree, and the copy is mounted, which replays its journal. So the order in which the kernel
writes is kept; what a drive loses of its own cache is not modelled.
"""

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults import Counts
from faults.plans import tiny
from maskc_cache import Plan, Store
from maskc_cache import publish as publish_module

__all__ = ["power_cut"]

_PLANS = 64


def power_cut(cuts: int, way: str) -> Counts:
    """Cut the power of a publisher at random moments, and read everything.

    "bad" are files that have a plan's name and are refused, "wrong" are those that are read as
    another plan, and "lost" are acknowledged plans that are not there, or refused. The last one is
    counted for itself: its name reaches the disk with the next publication, since folders are not
    synced.

    Needs to be run under `unshare --mount`, as root.

    Args:
        cuts: how often.
        way: "synced" as it is; "unsynced" without fdatasync, to see that the cuts are seen.
    """
    counts: Counter[str] = Counter(
        cuts=cuts, read=0, bad=0, wrong=0, acknowledged=0, lost=0, last_lost=0
    )
    plans = _plans()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk, copy = folder / "disk", folder / "copy"
        with disk.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
        with _mounted(disk, folder / "live") as live:
            pid, done = _publisher(live, plans, way)
            try:
                for _ in range(cuts):
                    time.sleep(chance.uniform(0.05, 0.4))
                    os.kill(pid, signal.SIGSTOP)
                    os.waitpid(pid, os.WUNTRACED)
                    last = _last(done)
                    _copy(disk, copy)
                    os.kill(pid, signal.SIGCONT)
                    with _mounted(copy, folder / "replayed") as replayed:
                        _read_all(replayed, plans, last, counts)
            finally:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(done)
    return counts


def _plans() -> list[Plan]:
    """Plans of one block on the disk, and of ten."""
    sizes = (100, 40_000)
    return [
        dataclasses.replace(tiny(), canonical=random.Random(n).randbytes(sizes[n % 2]))
        for n in range(_PLANS)
    ]


def _publisher(root: Path, plans: list[Plan], way: str) -> tuple[int, int]:
    """A process that puts plans in turn, each anew when its turn comes; it and what it says."""
    done, said = os.pipe()
    os.set_blocking(done, False)
    if pid := os.fork():
        os.close(said)
        return pid, done
    try:
        if way == "unsynced":
            publish_module.os.fdatasync = lambda _: None
        store, number = Store(root), 0
        while True:
            plan = plans[number % _PLANS]
            store.remove(plan.key)
            store.put(plan)
            os.write(said, number.to_bytes(8))
            number += 1
    finally:
        os._exit(1)


def _last(done: int) -> int:
    """The number of the last plan that was acknowledged, or less than 0."""
    content = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(done, 1 << 16):
            content = piece
    return int.from_bytes(content[-8:]) if content else -_PLANS


def _copy(disk: Path, copy: Path) -> None:
    """The disk at one moment: the kernel may be writing still."""
    content = b""
    while (again := disk.read_bytes()) != content:
        content = again
    copy.write_bytes(content)


@contextlib.contextmanager
def _mounted(disk: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    options = "loop,commit=1"
    subprocess.run(["mount", "-t", "ext4", "-o", options, str(disk), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _read_all(root: Path, plans: list[Plan], last: int, counts: Counter[str]) -> None:
    """Count what is there; of the acknowledged ones, those that were not removed since."""
    store, by_key = Store(root), {plan.key: plan for plan in plans}
    for entry in list(store.list()):
        found = store.get(entry.key)
        counts["read"] += 1
        counts["bad"] += found is None
        counts["wrong"] += found is not None and found.canonical != by_key[entry.key].canonical
    for number in range(max(last - _PLANS // 2, 0), last + 1):
        counts["acknowledged"] += 1
        counts["last_lost" if number == last else "lost"] += not store.has(
            plans[number % _PLANS].key
        )
