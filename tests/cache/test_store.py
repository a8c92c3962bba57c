"""The store: publish once, read verified, heal what is damaged."""

import dataclasses
import errno
import os
import stat
import subprocess
import sys

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from maskc import Causal, CompileRequest, compile_cached, compile_mask
from maskc_cache import (
    Entry,
    PlanVersionError,
    Store,
    StoreError,
    default_root,
    encode,
    read_plan,
)
from maskc_cache import store as store_module


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def test_put_get_has_list_find_remove(store, plans):
    for plan in plans.values():
        assert store.get(plan.key) is None
        assert store.put(plan) == store.path(plan.key)
        assert store.put(plan).is_file()
        assert store.has(plan.key)
        assert store.get(plan.key, plan.canonical) == plan
    keys = sorted(plan.key for plan in plans.values())
    assert [entry.key for entry in store.list()] == keys
    entry = next(store.list())
    assert entry == Entry(
        keys[0], store.path(keys[0]), store.path(keys[0]).stat().st_size, entry.mtime
    )
    assert store.find(keys[0][:9]) == [keys[0]]
    assert store.remove(keys[0])
    assert not store.remove(keys[0])
    assert not store.has(keys[0])


def test_mapped_plans_outlive_their_entry(store, small_plan):
    store.put(small_plan)
    plan = store.get(small_plan.key, mmap=True)
    store.remove(small_plan.key)
    assert plan == small_plan


def test_another_canonical_form_is_a_miss(store, small_plan):
    store.put(small_plan)
    assert store.get(small_plan.key, b"something else") is None
    assert store.get(small_plan.key, small_plan.canonical) == small_plan


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda _: b"", lambda b: b[:70] + b"!" + b[71:]]
)
def test_a_damaged_entry_is_a_miss_and_heals(store, small_plan, damage):
    path = store.put(small_plan)
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(small_plan.key) is None
    assert not path.exists()
    store.put(small_plan)
    assert store.get(small_plan.key) == small_plan


def test_a_plan_under_another_key_is_not_believed(store, plans):
    wrong = store.path(plans["small"].key)
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(encode(plans["shared"]))
    assert store.get(plans["small"].key) is None
    assert not wrong.exists()


@given(st.text(max_size=40))
def test_keys_cannot_leave_the_root(tmp_path_factory, key):
    store = Store(tmp_path_factory.getbasetemp() / "keys")
    try:
        path = store.path(key)
    except ValueError:
        return
    assert path.parent.parent.parent == store.root


@pytest.mark.parametrize(
    "key", ["", "../" * 11, "/etc/passwd", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", None]
)
def test_hostile_keys_are_refused(store, key):
    with pytest.raises(ValueError, match="key: expected 32 lower-case hex digits"):
        store.get(key)


def test_the_umask_is_respected(store, small_plan):
    old = os.umask(0o027)
    try:
        path = store.put(small_plan)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_first_writer_wins(store, small_plan, monkeypatch):
    path = store.put(small_plan)
    first = path.read_bytes()
    monkeypatch.setattr(store, "has", lambda _: False)  # as if it came in between
    other = dataclasses.replace(small_plan, compiler="somebody else's")
    assert store.put(other) == path
    assert path.read_bytes() == first


def test_a_file_of_another_version_heals(store, small_plan):
    path = store.put(small_plan)
    image = bytearray(path.read_bytes())
    image[8] = 9
    image[56:64] = xxhash.xxh3_64(image[:56]).digest()[::-1]
    path.write_bytes(image)
    with pytest.raises(PlanVersionError, match=r"format 9\.0"):
        read_plan(path)
    assert store.get(small_plan.key) is None
    store.put(small_plan)
    assert store.get(small_plan.key) == small_plan


def test_running_out_of_descriptors_is_no_damage(store, small_plan, monkeypatch):
    path = store.put(small_plan)
    with monkeypatch.context() as context:
        context.setattr(store_module, "read_image", raises(OSError(errno.EMFILE, "Too many files")))
        with pytest.raises(StoreError, match="Too many files"):
            store.get(small_plan.key)
        context.setattr(store_module, "read_image", raises(OSError(errno.EACCES, "Not yours")))
        assert store.get(small_plan.key) is None
    assert path.is_file()


def raises(error):
    def function(*_args, **_options):
        raise error

    return function


def test_only_entries_in_their_place_are_listed(store, small_plan):
    path = store.put(small_plan)
    strange = store.path("ab" + "0" * 30).parent
    strange.mkdir(exist_ok=True)
    for name in (path.name, "x.plan", ".hidden.tmp"):
        (strange / name).write_bytes(b"")
    assert [entry.key for entry in store.list()] == [small_plan.key]


def test_a_plan_that_no_reader_would_take_is_not_stored(store, small_plan, monkeypatch):
    large = dataclasses.replace(small_plan, canonical=bytes(1 << 18))
    with pytest.raises(StoreError, match=r"needs a header of"):
        store.put(large)
    monkeypatch.setattr(store_module, "MAX_DECODED", 100)
    with pytest.raises(StoreError, match=r"bytes decoded, more than the 100 that readers take"):
        store.put(small_plan)
    assert not store.root.exists()


def test_a_store_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    request = CompileRequest(Causal(), q_len=32)
    with pytest.raises(StoreError, match="Not a directory"):
        store.put(compile_mask(Causal(), q_len=32))
    said = []
    plan, hit = compile_cached(request, store, warn=said.append)
    assert not hit
    assert plan == compile_mask(Causal(), q_len=32)
    assert len(said) == 1
    assert "the plan is not cached" in said[0]


def test_compile_cached_hits_the_second_time(store):
    request = CompileRequest(Causal(), q_len=32)
    first, hit = compile_cached(request, store)
    assert not hit
    second, hit = compile_cached(request, store)
    assert hit
    assert first == second
    assert compile_cached(request, store, force=True) == (first, False)


RACE = """
import sys
from maskc import Local, compile_mask
from maskc_cache import Store

store, seed, wrong = Store(sys.argv[1]), int(sys.argv[2]), 0
for turn in range(40):
    plan = compile_mask(Local((seed * 7 + turn) % 8, 0), q_len=64, block_q=16, block_kv=16)
    if turn % 2:
        store.put(plan)
    found = store.get(plan.key, plan.canonical)
    wrong += found is not None and found != plan
sys.exit(wrong)
"""


def test_processes_that_race_get_the_right_plan_or_a_miss(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, tmp_path, str(seed)], env=environment)
        for seed in range(4)
    ]
    assert [racer.wait(timeout=120) for racer in racers] == [0] * 4
    assert len(list(Store(tmp_path).list())) == 8


def test_what_cannot_be_set_aside_is_told_and_healed_later(tmp_path, small_plan):
    store = Store(tmp_path)
    path = store.put(small_plan)
    path.write_bytes(b"damaged")
    quarantine = tmp_path / "v1/quarantine"
    quarantine.touch()  # so that there can be no folder
    assert store.get(small_plan.key) is None
    with pytest.raises(StoreError, match="File exists"):
        store.put(small_plan)
    assert path.read_bytes() == b"damaged"
    quarantine.unlink()
    store.put(small_plan)
    assert store.get(small_plan.key) == small_plan
    path.write_bytes(b"damaged")
    quarantine.rename(tmp_path / "elsewhere")
    quarantine.touch()
    assert store.get(small_plan.key) is None
    path.unlink()  # others may be able to
    store.put(small_plan)
    assert store.get(small_plan.key) == small_plan


def test_the_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path))
    assert default_root() == Store().root == tmp_path
    monkeypatch.delenv("MASKC_CACHE")
    assert default_root().name == "maskc"
