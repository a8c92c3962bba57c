"""Publication: whole or not at all, on every kind of file system."""

import errno
import os
import stat

import pytest

from maskc_cache import publish as publish_module
from maskc_cache.publish import publish, replace


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails(error):
    def function(*_args, **_options):
        raise error

    return function


@pytest.fixture(params=["O_TMPFILE", "named"])
def way(request, monkeypatch):
    """Both ways to publish; on the second the file has a name from the start."""
    if request.param == "named":
        monkeypatch.setattr(publish_module.os, "O_TMPFILE", os.O_DIRECTORY)  # gives EISDIR
    else:
        monkeypatch.setattr(publish_module, "_publish_named", None)
    return request.param


def test_the_first_one_makes_the_file(tmp_path, way):
    assert way in {"O_TMPFILE", "named"}
    assert publish(b"first", tmp_path / "x")
    assert not publish(b"second", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_a_link_in_the_way_is_not_followed(tmp_path, way):
    assert way
    (tmp_path / "x").symlink_to("victim")
    assert not publish(b"", tmp_path / "x")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("broken", [["O_TMPFILE", "link"], ["link"]])
def test_without_hard_links_the_file_is_renamed(tmp_path, monkeypatch, broken):
    if "O_TMPFILE" in broken:
        monkeypatch.setattr(publish_module.os, "O_TMPFILE", os.O_DIRECTORY)
    monkeypatch.setattr(publish_module.os, "link", fails(PermissionError(errno.EPERM, "no links")))
    assert publish(b"content", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("step", ["link", "fdatasync"])
def test_an_error_leaves_nothing_behind(tmp_path, way, monkeypatch, step):
    assert way
    monkeypatch.setattr(publish_module.os, step, fails(OSError(errno.EIO, "broken disk")))
    with pytest.raises(OSError, match="broken disk"):
        publish(b"content", tmp_path / "x")
    assert names(tmp_path) == []


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, way, monkeypatch):
    assert way
    steps = []
    for name in ("fdatasync", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(
            publish_module.os,
            name,
            lambda *a, name=name, real=real, **k: (steps.append(name), real(*a, **k))[1],
        )
    publish(b"content", tmp_path / "x")
    assert steps == ["fdatasync", "link"]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path, way, umask, mode):
    assert way
    before = os.umask(umask)
    try:
        publish(b"", tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder to any group")
def test_a_setgid_folder_hands_its_group_on(tmp_path, way):
    assert way
    os.chown(tmp_path, -1, 12345)
    tmp_path.chmod(0o2775)
    publish(b"", tmp_path / "x")
    assert (tmp_path / "x").stat().st_gid == 12345


def test_replace_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    replace(b"old", tmp_path / "x")
    replace(b"new", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"
    monkeypatch.setattr(publish_module.os, "fdatasync", fails(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        replace(b"newer", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"
    monkeypatch.undo()
    with pytest.raises(IsADirectoryError):
        replace(b"", tmp_path)
    assert names(tmp_path) == ["x"]
