"""The bound of a store: who goes, who stays, and by which clock."""

import dataclasses
import fcntl
import os
import time

import pytest

from maskc import Local, compile_mask
from maskc_cache import Collected, Store, StoreError
from maskc_cache import evict as evict_module
from maskc_cache import store as store_module

YEARS = 10 * 365 * 86400
BLOCK = 4096


@pytest.fixture(scope="module")
def some():
    """Twenty plans of one block on disk each."""
    return [
        compile_mask(Local(left, 0), q_len=64, block_q=16, block_kv=16, splash=False)
        for left in range(20)
    ]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", max_bytes=1 << 30)


def fill(store, plans):
    """Put plans; the first was used least recently. Returns what they take on disk."""
    now = time.time()
    for at, plan in enumerate(plans):
        path = store.put(plan)
        os.utime(path, (now - 1000 + at,) * 2)
    return sum(evict_module.space_of(store.path(plan.key).stat()) for plan in plans)


def kept(store, plans):
    return [at for at, plan in enumerate(plans) if store.has(plan.key)]


def test_the_least_recently_used_go_first(store, some):
    space = fill(store, some)
    one = space // len(some)
    assert store.gc(space) == Collected(0, 0, 20, space, 0)
    store.touch(some[0].key)
    collected = store.gc(10 * one)
    assert collected == Collected(11, 11 * one, 9, 9 * one, 0)
    assert kept(store, some) == [0, *range(12, 20)]
    assert store.gc(0) == Collected(9, 9 * one, 0, 0, 0)


def test_publications_keep_to_the_bound_by_themselves(tmp_path, some):
    bound = 8 * BLOCK
    store = Store(tmp_path, max_bytes=bound)
    for plan in some:
        path = store.put(plan)
        assert path.is_file()
        assert sum(evict_module.space_of(e.path.stat()) for e in store.list()) <= bound
    again = Store(tmp_path, max_bytes=bound)  # another process: the count is in the directory
    again.put(dataclasses.replace(some[0], canonical=b"another"))
    assert sum(evict_module.space_of(e.path.stat()) for e in again.list()) <= bound


def test_one_plan_over_the_bound_is_still_kept(tmp_path, some):
    store = Store(tmp_path, max_bytes=0)
    for plan in some[:3]:
        store.put(plan)
        assert [entry.key for entry in store.list()] == [plan.key]


def test_a_total_is_believed_for_ten_minutes(store, some, monkeypatch):
    scans = []
    real = evict_module._by_use
    monkeypatch.setattr(evict_module, "_by_use", lambda *a: (scans.append(1), real(*a))[1])
    for plan in some[:10]:
        store.put(plan)
    assert len(scans) == 1
    lock = store._collector._lock
    total, since = map(int, lock.read_text().split())
    assert total == sum(evict_module.space_of(e.path.stat()) for e in store.list())
    lock.write_text(f"{total} {since - 700}")
    store.put(some[10])
    assert len(scans) == 2
    lock.write_text("nonsense")
    store.put(some[11])
    assert len(scans) == 3


def test_a_hit_is_written_down_once_an_hour(store, some):
    plan = some[0]
    path = store.put(plan)
    now = time.time()
    for ago, renewed in [(100, False), (3500, False), (3700, True), (-YEARS, True), (now, True)]:
        os.utime(path, (now - ago,) * 2)
        before = path.stat().st_mtime
        assert store.get(plan.key) == plan
        assert (path.stat().st_mtime != before) == renewed, ago
        if renewed:
            assert abs(path.stat().st_mtime - now) < 60


@pytest.mark.parametrize("allowed", [True, False])
def test_a_plan_from_the_future_is_not_pinned(store, some, monkeypatch, allowed):
    space = fill(store, some)
    pinned = store.path(some[3].key)
    os.utime(pinned, (time.time() + YEARS,) * 2)
    if not allowed:
        real = os.utime

        def utime(path, *args, **kwargs):
            if path == pinned:
                raise PermissionError(1, "not yours")
            real(path, *args, **kwargs)

        monkeypatch.setattr(evict_module.os, "utime", utime)
    store.gc(space // 2)
    assert (3 in kept(store, some)) == allowed  # as used now, or as used least recently
    store.gc(0)
    assert kept(store, some) == []


def test_plans_of_the_epoch_go_first(store, some):
    space = fill(store, some)
    os.utime(store.path(some[7].key), (0, 0))
    store.gc(space - 1)
    assert 7 not in kept(store, some)


def test_a_plan_used_meanwhile_stays(store, some, monkeypatch):
    fill(store, some)
    real = evict_module._remove

    def remove(plans, wanted, spare):
        store.touch(some[0].key)
        return real(plans, wanted, spare)

    monkeypatch.setattr(evict_module, "_remove", remove)
    store.gc(0)
    assert kept(store, some) == [0]


def test_two_do_not_collect_at_once(store, some):
    fill(store, some)
    with store._collector._lock.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store._collector.collect(0, polite=True) is None
        assert len(kept(store, some)) == 20
        assert store.gc(0).removed == 20  # asked for by name


def test_locks_may_be_unsupported(store, some, monkeypatch):
    fill(store, some)
    monkeypatch.setattr(evict_module.fcntl, "flock", raises(OSError(37, "No locks available")))
    assert store.gc(0).removed == 20
    monkeypatch.setattr(evict_module.fcntl, "flock", raises(OSError(5, "Input/output error")))
    with pytest.raises(StoreError, match="Input/output error"):
        store.gc(0)


def raises(error):
    def function(*_args, **_options):
        raise error

    return function


def test_old_leavings_are_swept(store, some, monkeypatch):
    path = store.put(some[0])
    home = store.root / "v1"
    quarantine = home / "quarantine"
    (quarantine / "folder").mkdir(parents=True)
    (quarantine / "folder" / "file").touch()
    (quarantine / "link").symlink_to(home)
    leavings = [path.parent / ".x.tmp", home / ".y.tmp", quarantine / "folder", quarantine / "link"]
    strangers = [path.parent / ".nfs0001.tmp", path.parent / "mine.txt"]
    for file in [*leavings[:2], *strangers]:
        file.touch()
    assert store.gc().swept == 0
    monkeypatch.setattr(evict_module, "_LITTER_AGE", -1.0)
    monkeypatch.setitem(evict_module._sweep.__kwdefaults__, "age", -1.0)
    assert store.gc().swept == 4
    assert not any(os.path.lexists(file) for file in leavings)
    assert all(file.exists() for file in [path, *strangers])


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_planted_lock_file_is_set_aside(store, some, tmp_path, kind):
    fill(store, some)
    lock, victim = store._collector._lock, tmp_path / "victim"
    victim.write_text("precious")
    lock.unlink()
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    assert store.gc(0).removed == 20
    assert victim.read_text() == "precious"


def test_linked_folders_are_not_collected(store, some, tmp_path):
    other = Store(tmp_path / "other")
    path = other.put(some[0])
    (store.root / "v1").mkdir(parents=True)
    (store.root / "v1" / path.parent.name).symlink_to(path.parent)
    (store.root / "v1" / "quarantine").symlink_to(path.parent)
    assert list(store.list()) == []
    store.gc(0)
    assert path.is_file()


def test_the_default_bound(tmp_path, monkeypatch):
    monkeypatch.delenv("MASKC_CACHE_MAX_BYTES", raising=False)
    disk = os.statvfs(tmp_path)
    assert Store(tmp_path).max_bytes == min(1 << 30, disk.f_blocks * disk.f_frsize // 20)
    assert Store(tmp_path / "none").max_bytes == store_module.DEFAULT_MAX_BYTES
    monkeypatch.setenv("MASKC_CACHE_MAX_BYTES", "2_000_000")
    assert Store(tmp_path).max_bytes == 2_000_000
    assert Store(tmp_path, max_bytes=5).max_bytes == 5
    for text in ("2 GB", "-1"):
        monkeypatch.setenv("MASKC_CACHE_MAX_BYTES", text)
        with pytest.raises(StoreError, match=f"expected a number of bytes, .* got '{text}'"):
            Store(tmp_path)
    with pytest.raises(ValueError, match="max_bytes: expected 0 or more, got -1"):
        Store(tmp_path, max_bytes=-1)
    with pytest.raises(ValueError, match="max_bytes: expected 0 or more, got -1"):
        Store(tmp_path, max_bytes=5).gc(-1)


def test_collecting_nothing(tmp_path):
    store = Store(tmp_path / "none")
    assert store.gc() == Collected(0, 0, 0, 0, 0)
    assert not store.root.exists()
