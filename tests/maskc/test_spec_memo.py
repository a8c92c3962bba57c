"""What a spec meant the last time: believed only if nothing at all has changed."""

import os
import shutil
from pathlib import Path

import pytest

import maskc
from maskc import spec_memo
from maskc.spec import read_spec
from maskc.spec_memo import SpecMemo
from maskc_cache import Store

SPEC = b"maskc: 1\nq_len: 64\nplans: {a: {mask: causal}, b: {mask: {local: {left: 3}}}}\n"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "cache")
    (tmp_path / "cache" / "v1").mkdir(parents=True)
    return store


def read(tmp_path, content=SPEC, plan=None):
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    return read_spec(path, plan)


def meaning(spec):
    return [(name, request.canonical) for name, request in spec.requests.items()]


def test_the_same_bytes_mean_the_same(store, tmp_path):
    spec = read(tmp_path)
    assert SpecMemo(store, SPEC, None).recall() is None
    SpecMemo(store, SPEC, None).remember(spec)
    assert SpecMemo(store, SPEC, None).recall() == meaning(spec)
    for content, plan in [(SPEC + b"\n", None), (SPEC[:-1], None), (SPEC, "a"), (b"", None)]:
        assert SpecMemo(store, content, plan).recall() is None
    SpecMemo(store, SPEC, "b").remember(read(tmp_path, plan="b"))
    assert SpecMemo(store, SPEC, "b").recall() == meaning(spec)[1:]


def test_other_code_may_mean_something_else(store, tmp_path, monkeypatch):
    SpecMemo(store, SPEC, None).remember(read(tmp_path))
    changed = tmp_path / "maskc"
    shutil.copytree(Path(maskc.__file__).parent, changed)
    with (changed / "canonical.py").open("a") as file:
        file.write("\n")
    monkeypatch.setattr(spec_memo, "__file__", str(changed / "spec_memo.py"))
    assert SpecMemo(store, SPEC, None).recall() is None
    monkeypatch.undo()
    assert SpecMemo(store, SPEC, None).recall() is not None


def test_code_that_changes_while_it_reads_is_not_trusted(store, tmp_path, monkeypatch):
    memo = SpecMemo(store, SPEC, None)
    monkeypatch.setattr(spec_memo, "_code", lambda: b"another")
    memo.remember(read(tmp_path))
    monkeypatch.undo()
    assert SpecMemo(store, SPEC, None).recall() is None


def test_without_source_nothing_is_remembered(store, tmp_path, monkeypatch):
    monkeypatch.setattr(spec_memo, "_sources", lambda: iter(()))
    SpecMemo(store, SPEC, None).remember(read(tmp_path))
    assert not list(store.root.rglob("*.spec"))


def test_the_code_is_all_that_specs_are_read_with():
    sources = [Path(source) for source in spec_memo._sources()]
    names = {path.name for path in sources}
    assert {"spec.py", "canonical.py", "request.py", "mask_spec.py", "located.py"} <= names
    assert {"plan.py", "header.py"} <= names
    packages = {path.parent.name for path in sources if path.name == "__init__.py"}
    assert packages >= {"maskc", "maskc_cache", "yaml", "msgspec"}


def test_a_spec_that_changed_while_it_was_read_is_not_remembered(store, tmp_path):
    SpecMemo(store, SPEC, None).remember(read(tmp_path, SPEC.replace(b"64", b"32")))
    assert SpecMemo(store, SPEC, None).recall() is None


def test_specs_that_name_files_are_read_each_time(store, tmp_path):
    import numpy as np

    np.save(tmp_path / "ids.npy", np.zeros(64, np.int32))
    content = b"maskc: 1\nq_len: 64\nmask: {segments: {q_ids: {file: ids.npy}}}\n"
    spec = read(tmp_path, content)
    assert spec.reads_files
    SpecMemo(store, content, None).remember(spec)
    assert SpecMemo(store, content, None).recall() is None


def test_a_damaged_record_is_not_believed(store, tmp_path):
    SpecMemo(store, SPEC, None).remember(read(tmp_path))
    (record,) = store.root.rglob("*.spec")
    content = record.read_bytes()
    for at in range(len(content)):
        record.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert SpecMemo(store, SPEC, None).recall() is None, at
        if at % 16 == 0:
            record.write_bytes(content[:at])
            assert SpecMemo(store, SPEC, None).recall() is None, at
    SpecMemo(store, SPEC, None).remember(read(tmp_path))
    assert SpecMemo(store, SPEC, None).recall() is not None  # it heals


def test_records_are_evicted_like_plans(store, tmp_path):
    SpecMemo(store, SPEC, None).remember(read(tmp_path))
    assert list(store.list()) == []
    assert store.gc(0).removed == 1
    assert not list(store.root.rglob("*.spec"))


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_planted_in_its_place_is_passed_over(store, tmp_path, kind):
    memo = SpecMemo(store, SPEC, None)
    memo._path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(memo._path)
    elif kind == "link":
        memo._path.symlink_to(tmp_path / "spec.yaml")
    else:
        memo._path.mkdir()
    assert memo.recall() is None
    memo.remember(read(tmp_path))
    assert (SpecMemo(store, SPEC, None).recall() is None) == (kind == "folder")
