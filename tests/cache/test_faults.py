"""What a store promises, against real faults, with a bounded budget; `tests/gate.py` runs it all.

Where mounts or other users are not to be had, the tests that need them are skipped and say so.
"""

import errno
import os
import time

import faults
import pytest
from faults import mutants
from faults.machine import MOUNTS, lacks_fuse, lacks_loops, lacks_mounts
from faults.plans import many, tiny

from maskc import Causal, CompileRequest, compile_cached, compile_mask
from maskc_cache import Store, decode, encode, open_tiers

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become other users")


@pytest.fixture(scope="module")
def mounts():
    """The command that gives a process its own mounts."""
    if reason := lacks_mounts():
        pytest.skip(reason)
    return MOUNTS


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["O_TMPFILE", "named"])
def test_a_killed_publisher_leaves_a_whole_plan_or_none(way):
    counts = faults.run("kill", 120, way)
    assert counts["bad"] == 0
    assert counts["published"] > 0
    assert counts["healed"] == 1
    assert counts["unswept"] == 0
    assert (counts["litter"] == 0) == (way == "O_TMPFILE")  # so some were killed at the right time


def test_a_race_gives_the_right_plan_or_a_miss():
    counts = faults.run("race", 8, 24, 150)
    assert counts["left"] > 0
    assert (counts["failed"], counts["bad"], counts["litter"]) == (0, 0, 0)


def test_readers_are_right_while_plans_are_evicted_and_damaged():
    counts = faults.run("siege", 4)
    assert (counts["failed"], counts["wrong"]) == (0, 0)
    assert min(counts[name] for name in ("reads", "hits", "evicted", "sabotaged")) > 0


def test_a_store_works_across_a_fork():
    assert faults.run("forked", 4)["failed"] == 0


def test_signals_interrupt_nothing():
    counts = faults.run("interrupted", 30)
    assert counts["right"] == counts["turns"]


# --- disks and permissions ----------------------------------------------------------------------


def test_a_full_disk(mounts):
    counts = faults.run("full_disk", 100, "ENOSPC", prefix=mounts)
    assert (counts["put"], counts["refused"]) == (100, 0)  # each found room, made if need be
    assert 0 < counts["left"] < 100
    assert (counts["bad"], counts["litter"]) == (0, 0)
    assert counts["said_no"]
    assert counts["healed"]


def test_a_disk_without_inodes(mounts):
    counts = faults.run("full_disk", 100, "inodes", prefix=mounts)
    assert (counts["put"], counts["refused"]) == (100, 0)
    assert 0 < counts["left"] < 60
    assert (counts["bad"], counts["litter"]) == (0, 0)


def test_a_limit_on_the_size_of_files():
    assert faults.run("full_disk", 20, "EFBIG") == {
        "put": 0, "refused": 20, "bad": 0, "litter": 0, "left": 0,
    }  # fmt: skip


READ_ONLY = {"hits": 1, "misses": 2, "refused": 4, "touched": 0, "changed": 0}


def test_a_read_only_mount_gives_hits(mounts):
    assert faults.run("read_only", "EROFS", prefix=mounts) == READ_ONLY


@needs_root
def test_a_directory_of_somebody_else_gives_hits():
    assert faults.run("read_only", "EACCES") == READ_ONLY


@needs_root
def test_an_entry_that_may_not_be_read_is_a_miss():
    assert faults.run("unreadable") == {"failed": 0, "kept": 1}


@needs_root
def test_a_group_shares_a_directory():
    assert faults.run("group") == {"failed": 0, "modes_right": 1, "groups_right": 1}


def test_descriptors_run_out():
    counts = faults.run("descriptors", 64, 3000)
    assert counts == {"held": 3000, "leaked": 0, "refused": 2, "hit_after": 1}


def test_a_plan_stays_as_it_was_read():
    counts = faults.run("shortened", 6)
    assert counts["same"] == counts["turns"]


def test_a_power_cut_leaves_whole_plans_and_loses_none():
    if reason := lacks_loops():
        pytest.skip(reason)
    counts = faults.run("power.power_cut", 3, "synced", prefix=MOUNTS)
    assert min(counts["read"], counts["acknowledged"]) > 0
    assert (counts["bad"], counts["wrong"], counts["lost"]) == (0, 0, 0)
    blind = faults.run("power.power_cut", 3, "unsynced", prefix=MOUNTS)
    assert blind["bad"] > 0  # or the cuts would not be seen
    assert blind["wrong"] == 0


# --- other hosts --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cached", "nolink", "short", "eio", "estale"])
def test_two_hosts_on_a_network_file_system(kind):
    if reason := lacks_fuse():
        pytest.skip(reason)
    counts = faults.run("network.network", 8, kind, prefix=MOUNTS)
    assert (counts["bad"], counts["wrong"], counts["leaked"]) == (0, 0, 0)
    if kind not in {"eio", "estale"}:
        assert (counts["seen"], counts["refused"], counts["missing"]) == (0, 0, 0)


def test_the_loser_of_a_race_never_sees_the_winner(tmp_path, monkeypatch):
    """A host whose file system says for a while that the winner's file is not there."""
    plan = tiny()
    path = Store(tmp_path).put(plan)
    content = path.read_bytes()

    def unseen(function):
        def call(name, *args, **options):
            if os.fspath(name) == str(path):
                raise FileNotFoundError(errno.ENOENT, "cached", str(name))
            return function(name, *args, **options)

        return call

    with monkeypatch.context() as blind:
        for name in ("open", "stat", "utime"):
            blind.setattr(os, name, unseen(getattr(os, name)))
        tiers = open_tiers(tmp_path)
        assert compile_cached(CompileRequest(Causal(), q_len=32), tiers)[1] is False
        assert tiers.local.get(plan.key) is None
        assert tiers.local.put(plan) == path
        tiers.put(plan)
        assert tiers.local.get(plan.key) is None
        assert tiers.get(plan.key, plan.canonical) is plan
    assert path.read_bytes() == content


@pytest.mark.parametrize("hours", [-1, 1])
def test_hosts_whose_clocks_differ_by_an_hour(tmp_path, monkeypatch, hours):
    store, plans = Store(tmp_path), many(4)
    paths = [store.put(plan) for plan in plans]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    for plan in plans:
        assert store.get(plan.key, plan.canonical) == plan
    assert all(abs(path.stat().st_mtime - real()) < 60 for path in paths)  # the file system's clock
    os.utime(paths[2], (0, 0))
    left = store.gc(sum(path.stat().st_blocks * 512 for path in paths) - 1)
    assert left.removed >= 1
    assert not store.has(plans[2].key)


def test_of_many_writers_of_a_bucket_one_creates():
    """And everybody else is content with that."""
    assert faults.run("remotes.one_creates", 3, 32) == {
        "rounds": 3, "writers": 32, "none": 0, "several": 0, "bad": 0,
    }  # fmt: skip


# --- what was planted ---------------------------------------------------------------------------


def plant(kind, path, victim):
    match kind:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(path.parent / "nothing")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            (path / "full").mkdir(parents=True)
        case "file":
            path.write_bytes(b"")
        case "swapped plan":
            path.write_bytes(encode(compile_mask(Causal(), q_len=32)))


KINDS = ["link", "dangling link", "fifo", "folder", "file", "swapped plan"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["entry", "folder"])
@pytest.mark.parametrize("first", ["get", "put"])
def test_whatever_was_planted_heals(tmp_path, kind, place, first):
    plan, store = tiny(), Store(tmp_path / "cache")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = store.path(plan.key)
    planted = path if place == "entry" else path.parent
    planted.parent.mkdir(parents=True)
    plant(kind, planted, victim)
    if first == "get":
        assert store.get(plan.key) is None
    store.put(plan)
    if first == "put" and place == "entry" and kind in {"file", "swapped plan"}:
        assert store.get(plan.key) is None  # a file that was not read is not known to be wrong
        store.put(plan)
    assert store.get(plan.key, plan.canonical) == plan
    assert victim.read_bytes() == b"precious"
    assert [entry.key for entry in store.list()] == [plan.key]


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_no_small_damage_is_silent(compress):
    length = 512 if compress else 128
    plan = compile_mask(Causal(), q_len=length, block_q=8, block_kv=8, splash=False)
    image = encode(plan, compress=compress)
    codecs = {row[3] for row in mutants.header_of(image)["sections"]}
    assert codecs == ({0, 3, 5} if compress else {0})
    counts = mutants.every_damage(image)
    assert counts["silent"] == 0
    assert counts["bit flips"] == 8 * len(image)
    assert counts["truncations"] == len(image)
    assert decode(image) == plan


def test_no_flip_in_a_large_file_is_silent():
    counts = mutants.random_flips(8, 100)
    assert (counts["silent"], counts["flips"]) == (0, 100)


def test_mutants_are_refused_or_plans():
    counts = mutants.fuzz(30_000)
    assert counts["other"] == 0  # the digest covers the content
    assert counts["refused"] + counts["same"] == 30_000
    assert counts["same"] > 0


def test_bombs_are_refused_in_little_memory():
    counts = faults.run("bombs", 16)
    assert counts["bombs"] > 10
    assert counts["grown_kib"] <= 4096
    assert counts["slowest_ms"] <= 500  # 50 alone on a machine; tests share theirs
