"""The drivers that need a process of their own; `python -m faults NAME ...` runs one."""

import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults import Counts
from faults.plans import large_image, many, tiny
from maskc_cache import ObjectStore, PlanError, Store, StoreError, decode, encode, read_plan
from maskc_cache import evict as evict_module
from maskc_cache import publish as publish_module
from maskc_cache.publish import publish


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(work: Callable[[], object]) -> int:
    """A forked process that does `work`; its exit code says whether it raised."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def _failures(pids: list[int]) -> int:
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)


def _strangers(root: Path) -> list[Path]:
    """Files that are neither plans nor the lock."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".plan" and path.name != "gc.lock"
    ]


def kill(kills: int, way: str) -> Counts:
    """SIGKILL a publisher of 2 MB plans at a random moment, then read all that it published."""
    if way == "named":
        publish_module.os.O_TMPFILE = os.O_DIRECTORY
    image = large_image(2)
    plan = decode(image)
    counts: Counter[str] = Counter(bad=0, healed=0, litter=0, unswept=0, published=0, kills=kills)
    chance = random.Random(0)
    with _folder() as root:
        store = Store(root)
        folder = store.path(plan.key).parent
        folder.mkdir(parents=True)

        def work() -> None:
            for number in itertools.count():
                publish(image, folder / f"{number}.plan")

        for _ in range(kills):
            pid = _child(work)
            time.sleep(chance.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for path in folder.glob("*.plan"):
                counts["published"] += 1
                try:
                    counts["bad"] += read_plan(path) != plan
                except PlanError:
                    counts["bad"] += 1
                path.unlink()
        litter = _strangers(root)
        counts["litter"] = len(litter)
        store.put(plan)
        counts["healed"] += store.get(plan.key) == plan
        evict_module._sweep.__kwdefaults__["age"] = evict_module._LITTER_AGE = -1.0
        store.gc()
        counts["unswept"] = len(_strangers(root))
    return counts


def race(processes: int, keys: int, turns: int) -> Counts:
    """Processes put, get and remove plans of the same keys: the right plan or a miss."""
    plans = many(keys)
    with _folder() as root:

        def work(seed: int) -> None:
            store, chance = Store(root), random.Random(seed)
            for _ in range(turns):
                plan = chance.choice(plans)
                match chance.randrange(8):
                    case 0 | 1 | 2:
                        store.put(plan)
                    case 3:
                        store.remove(plan.key)
                    case _:
                        found = store.get(plan.key, plan.canonical)
                        assert found is None or found.digest == plan.digest

        pids = [_child(lambda seed=seed: work(seed)) for seed in range(processes)]
        failed = _failures(pids)
        left = list(Store(root).verify())
        return {
            "processes": processes,
            "keys": keys,
            "operations": processes * turns,
            "failed": failed,
            "left": len(left),
            "bad": sum(problem is not None for _, problem in left),
            "litter": len(_strangers(root)),
        }


def siege(seconds: int) -> Counts:
    """Two writers, three readers, two collectors and a saboteur, all on one small store."""
    plans = many(64)
    bound = 20 * 8192
    with _folder() as root:
        end = time.monotonic() + seconds
        tally = root / "tally"
        tally.mkdir()

        def write(store: Store, chance: random.Random, counts: Counter[str]) -> None:
            store.put(chance.choice(plans))
            counts["puts"] += 1

        def read(store: Store, chance: random.Random, counts: Counter[str]) -> None:
            plan = chance.choice(plans)
            found = store.get(plan.key, plan.canonical, mmap=False)
            counts["reads"] += 1
            counts["hits"] += found is not None
            counts["wrong"] += found is not None and found.digest != plan.digest

        def collect(store: Store, chance: random.Random, counts: Counter[str]) -> None:
            counts["evicted"] += store.gc(chance.randrange(bound)).removed
            time.sleep(0.005)

        def sabotage(store: Store, chance: random.Random, counts: Counter[str]) -> None:
            path = store.path(chance.choice(plans).key)
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                at = chance.randrange(os.fstat(file.fileno()).st_size or 1)
                if chance.random() < 0.3:
                    file.truncate(at)
                else:
                    file.seek(at)
                    old = file.read(1)
                    file.seek(at)
                    file.write(bytes([(old or b"\0")[0] ^ 1 << chance.randrange(8)]))
                counts["sabotaged"] += 1
            time.sleep(0.002)

        def work(role: Callable[..., None], seed: int) -> None:
            store, chance = Store(root, max_bytes=bound), random.Random(seed)
            counts: Counter[str] = Counter()
            while time.monotonic() < end:
                role(store, chance, counts)
            (tally / str(seed)).write_text(json.dumps(counts))

        roles = [write, write, read, read, read, collect, collect, sabotage]
        pids = [_child(lambda r=r, s=s: work(r, s)) for s, r in enumerate(roles)]
        failed = _failures(pids)
        total: Counter[str] = Counter(failed=failed, wrong=0, reads=0, sabotaged=0, evicted=0)
        for file in tally.iterdir():
            total.update(json.loads(file.read_text()))
        return total


def bombs(extra_mb: int) -> Counts:
    """Files that promise much memory, read where there is little."""
    from faults.mutants import bombs as all_bombs

    named = all_bombs()
    decode(encode(tiny()))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (extra_mb << 20),) * 2)
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, image in named.items():
        started = time.perf_counter()
        try:
            decode(image)
        except PlanError:
            slowest = max(slowest, time.perf_counter() - started)
        else:
            raise AssertionError(name)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"bombs": len(named), "slowest_ms": int(1000 * slowest), "grown_kib": grown}


def full_disk(puts: int, kind: str) -> Counts:
    """Put more than fits on a tmpfs, or files larger than a limit allows.

    Needs to be run under `unshare --mount`, except for "EFBIG".
    """
    plans = many(puts)
    with _folder() as root:
        if kind != "EFBIG":
            options = "size=4m" if kind == "ENOSPC" else "size=64m,nr_inodes=60"
            _mount("-t", "tmpfs", "-o", options, "tmpfs", str(root))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        store = Store(root, max_bytes=1 << 30)
        if kind == "ENOSPC":  # others leave room for 4 of 5
            (root / "ballast").write_bytes(bytes((4 << 20) - puts * 4 // 5 * 4096))
        counts: Counter[str] = Counter(put=0, refused=0, bad=0, litter=0)
        for plan in plans:
            try:
                store.put(plan)
                counts["put"] += 1
                counts["bad"] += store.get(plan.key) != plan
            except StoreError:
                counts["refused"] += 1
        counts["bad"] += sum(problem is not None for _, problem in store.verify())
        counts["left"] = len(list(store.list()))
        counts["litter"] = len([p for p in _strangers(root) if p.name != "ballast"])
        if kind == "ENOSPC":  # nothing of ours is left to remove
            while store.gc(0).kept:
                pass
            with contextlib.suppress(OSError):
                (root / "more").write_bytes(bytes(4 << 20))
            try:
                store.put(plans[0])
            except StoreError as error:
                counts["said_no"] = "No space left" in str(error)
            (root / "more").unlink()
            store.put(plans[0])
            counts["healed"] = store.get(plans[0].key) is not None
        if kind != "EFBIG":
            _unmount(str(root))
        return counts


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _unmount(path: str) -> None:
    subprocess.run(["umount", "--lazy", path], check=True)


def read_only(kind: str) -> Counts:
    """Hits work and nothing is written: a directory of somebody else, or mounted read-only."""
    plan, other = many(2)
    with _folder() as root:
        root.chmod(0o755)
        store = Store(root / "cache")
        path = store.put(plan)
        fresh = root / "fresh"
        fresh.mkdir()
        before = sorted(p.name for p in root.rglob("*"))
        os.utime(path, (0, 0))
        if kind == "EROFS":
            for place in (store.root, fresh):
                _mount("--bind", str(place), str(place))
                _mount("-o", "remount,ro,bind", str(place))
        else:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        counts = {
            "hits": int(store.get(plan.key, plan.canonical) == plan),
            "misses": int(store.get(other.key) is None) + int(Store(fresh).get(plan.key) is None),
            "refused": sum(_refused(s.put, other) for s in (store, Store(fresh)))
            + _refused(store.remove, plan.key)
            + _refused(store.gc),
            "touched": int(store.touch(plan.key)),
        }
        if kind == "EROFS":
            for place in (store.root, fresh):
                _unmount(str(place))
        counts["changed"] = int(sorted(p.name for p in root.rglob("*")) != before)
        return counts


def _refused(function: Callable[..., object], *arguments: object) -> int:
    try:
        function(*arguments)
    except StoreError:
        return 1
    return 0


def unreadable() -> Counts:
    """An entry of mode 000 is a miss for who may not read it, and stays."""
    plan = tiny()
    with _folder() as root:
        root.chmod(0o755)
        store = Store(root / "cache")
        path = store.put(plan)
        path.chmod(0)
        store.root.chmod(0o777)

        def work() -> None:
            os.setgroups([])
            os.setuid(65534)
            assert store.get(plan.key) is None
            store.put(plan)

        failed = _failures([_child(work)])
        return {"failed": failed, "kept": int(path.is_file())}


def group() -> Counts:
    """Two users of one group share a setgid directory: both publish, read, touch and collect."""
    plans = many(4)
    with _folder() as root:
        root.chmod(0o755)
        shared = root / "shared"
        shared.mkdir()
        os.chown(shared, 0, 4242)
        shared.chmod(0o2775)

        def work(user: int, puts: int, removed: int) -> None:
            os.umask(0o002)
            os.setgroups([])
            os.setgid(4242 if user == 1001 else 4243)
            os.setgroups([4242])
            os.setuid(user)
            store = Store(shared)
            store.put(plans[puts])
            for plan in plans[:2]:
                if store.has(plan.key):
                    assert store.get(plan.key) == plan
                    assert store.touch(plan.key)
            if removed:
                assert store.gc(0).removed == removed

        failed = _failures([_child(lambda: work(1001, 0, 0))])
        failed += _failures([_child(lambda: work(1002, 1, 0))])
        modes = {stat.S_IMODE(p.stat().st_mode) for p in shared.rglob("*.plan")}
        groups = {p.stat().st_gid for p in shared.rglob("*")}
        failed += _failures([_child(lambda: work(1001, 2, 3))])
        return {
            "failed": failed,
            "modes_right": int(modes == {0o664}),
            "groups_right": int(groups == {4242}),
        }


def descriptors(limit: int, plans_held: int) -> Counts:
    """Plans hold no descriptor; to run out of them is no damage."""
    plan = tiny()
    with _folder() as root:
        store = Store(root)
        store.put(plan)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        before = len(list(Path("/proc/self/fd").iterdir()))
        held = [store.get(plan.key) for _ in range(plans_held)]
        counts = {"held": len(held), "leaked": len(list(Path("/proc/self/fd").iterdir())) - before}
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        counts["refused"] = _refused(store.get, plan.key) + _refused(store.put, many(2)[1])
        for descriptor in taken:
            os.close(descriptor)
        counts["hit_after"] = int(store.get(plan.key) == plan)
        return counts


def interrupted(turns: int) -> Counts:
    """Signals every half millisecond."""
    plan = decode(large_image(2))
    signal.signal(signal.SIGALRM, lambda *_: None)
    counts: Counter[str] = Counter(turns=turns, right=0)
    with _folder() as root:
        store = Store(root)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for _ in range(turns):
            store.remove(plan.key)
            store.put(plan)
            counts["right"] += store.get(plan.key) == plan
        signal.setitimer(signal.ITIMER_REAL, 0)
    return counts


def forked(children: int) -> Counts:
    """A store that is used before the fork is used after it, in parent and children."""
    plans = many(8)
    with _folder() as root:
        store = Store(root)
        for plan in plans[:4]:
            store.put(plan)

        def work() -> None:
            for plan in plans:
                store.put(plan)
                assert store.get(plan.key) == plan

        failed = _failures([_child(work) for _ in range(children)])
        work()
        return {"children": children, "failed": failed}


def shortened(turns: int) -> Counts:
    """Files that others truncate or overwrite after they were read: the plan stays as it was."""
    plan = decode(large_image(2))
    same = 0
    with _folder() as root:
        store = Store(root)
        for turn in range(turns):
            path = store.put(plan)
            loaded = store.get(plan.key)
            with path.open("r+b") as file:
                if turn % 2:
                    file.truncate(4096)
                else:
                    file.write(bytes(1 << 20))
            del loaded.__dict__["digest"]  # so that it is computed from the arrays again
            same += loaded == plan
            store.remove(plan.key)
    return {"turns": turns, "same": same}


def forked_remote(url: str) -> Counts:
    """A remote that is used before a fork says in the child that it cannot be used there."""
    remote = ObjectStore(url)
    assert remote.get(tiny().key) == tiny()

    def refused() -> None:
        for place in (remote, ObjectStore(url)):
            with pytest.raises(StoreError, match="forked process"):
                place.get(tiny().key)

    failed = _failures([_child(refused)])
    assert remote.get(tiny().key) == tiny()
    return {"failed": failed}
