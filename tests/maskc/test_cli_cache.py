"""`maskc cache` and `maskc verify`, on caches that are good, damaged, full and read-only."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys

import pytest
from command import run_here

from maskc_cache import Store, read_plan

SPEC = (
    "maskc: 1\nq_len: 256\nblock_q: 32\nblock_kv: 64\nplans: {a: {mask: causal}, b: {mask: full}}\n"
)


MANY = """
import contextlib, io, json, sys
from maskc.cli import main
for line in sys.stdin:
    sys.argv, out, err, code = ["maskc", *json.loads(line)], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
MOUNTS = {
    "full": "mount -t tmpfs -o size=64k tmpfs $0 && head -c 64k /dev/zero > $0/full || true",
    "read-only": "mount --bind $0 $0 && mount -o remount,ro,bind $0",
}


@pytest.fixture
def mounted(tmp_path):
    """Starts a process that has the cache mounted in one of these ways and runs commands."""
    with contextlib.ExitStack() as stack:

        def start(mount):
            shell = ("unshare", "--mount", "sh", "-c", f'{MOUNTS[mount]}; shift 0; exec "$@"')
            process = subprocess.Popen(
                [*shell, tmp_path / "cache", sys.executable, "-c", MANY],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(sys.path), "MASKC_CACHE": str(tmp_path / "cache")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            return stack.enter_context(process)  # closes its pipes and waits

        yield start


@pytest.fixture
def maskc(tmp_path, monkeypatch, capsys):
    """The command; in this process, which is far faster, unless another one is given."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)

    def there(arguments, process):
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def run(*arguments, code=0, process=None, **environment):
        environment = {"MASKC_CACHE": str(tmp_path / "cache")} | environment
        if process:
            got, out, err = there(arguments, process)
        else:
            got, out, err = run_here(arguments, environment, monkeypatch, capsys)
        assert got == code, err
        assert "Traceback" not in err
        return json.loads(out) if "--json" in arguments else out + err

    return run


def test_path(maskc, tmp_path):
    assert maskc("cache", "path") == f"{tmp_path}/cache\n"
    record = maskc("cache", "path", "--json", MASKC_CACHE_MAX_BYTES="1000")
    assert record == {"path": f"{tmp_path}/cache", "exists": False, "max_bytes": 1000}


def test_a_cache_that_is_not_there_is_empty(maskc):
    assert maskc("cache", "ls", "--json") == []
    assert maskc("cache", "verify", "--json") == {"checked": 0, "damaged": []}
    assert maskc("cache", "gc", "--json")["removed"] == 0
    assert "0 plans" in maskc("cache", "ls")


def test_warm_ls_info_rm(maskc, tmp_path):
    records = maskc("cache", "warm", "spec.yaml", "--json")
    assert [(r["plan"], r["hit"]) for r in records] == [("a", False), ("b", False)]
    assert maskc("cache", "warm", "spec.yaml", "spec.yaml").count(" hit ") == 4
    keys = {record["key"] for record in records}
    assert {record["key"] for record in maskc("cache", "ls", "--json")} == keys
    key = records[0]["key"]
    info = maskc("cache", "info", key[:8], "--json")
    assert info["key"] == key
    assert sum(s["stored_bytes"] for s in info["sections"]) < info["file_bytes"]
    assert sum(s["decoded_bytes"] for s in info["sections"]) == info["table_bytes"]
    text = maskc("cache", "info", key)
    for word in ("fwd.full_idx", "int8[", "raw", "compiler", "256 x 256"):
        assert word in text
    assert "2 plans" in maskc("cache", "ls")
    assert maskc("cache", "rm", key[:9], "--json") == {"removed": [key]}
    assert [r["key"] for r in maskc("cache", "ls", "--json")] == [*(keys - {key})]
    assert Store(tmp_path / "cache").has(records[1]["key"])


def test_a_damaged_cache(maskc, tmp_path):
    keys = [record["key"] for record in maskc("cache", "warm", "spec.yaml", "--json")]
    path = Store(tmp_path / "cache").path(keys[0])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    record = maskc("cache", "verify", "--json", code=1)
    assert record["checked"] == 2
    (damaged,) = record["damaged"]
    assert damaged["key"] == keys[0]
    assert "the checksum does not hold" in damaged["problem"]
    assert maskc("cache", "verify", "--json")["checked"] == 1
    hits = {r["plan"]: r["hit"] for r in maskc("cache", "warm", "spec.yaml", "--json")}
    assert hits == {"a": False, "b": True}
    path.write_bytes(b"")
    assert "the plan is damaged" in maskc("cache", "info", keys[0], code=1)


def test_gc(maskc):
    maskc("cache", "warm", "spec.yaml")
    record = maskc("cache", "gc", "--max-bytes", "4096", "--json")
    assert record["kept_bytes"] <= 4096
    assert record["removed"] == 3 - record["kept"]  # two plans and what the spec means
    assert "removed 0 files" in maskc("cache", "gc")
    assert "expected a number of bytes" in maskc("cache", "gc", code=1, MASKC_CACHE_MAX_BYTES="x")


def test_warm_fills_a_shared_directory(maskc, tmp_path):
    maskc("cache", "warm", "spec.yaml")
    maskc("cache", "warm", "spec.yaml", MASKC_REMOTE=str(tmp_path / "shared"))
    assert len(list(Store(tmp_path / "shared").list())) == 2
    records = maskc(
        "cache", "warm", "spec.yaml", "--json", "--cache", "new",
        MASKC_REMOTE=str(tmp_path / "shared"),
    )  # fmt: skip
    assert all(record["hit"] for record in records)


def test_a_remote_that_fails_costs_one_line(maskc):
    out = maskc("cache", "warm", "spec.yaml", MASKC_REMOTE="http://127.0.0.1:1/ s3:///")
    assert out.count("maskc: warning: a remote is not used") == 1


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"],
        capture_output=True,
        check=False,
    ).returncode,
    reason="no mounts of our own here",
)
@pytest.mark.parametrize("mount", ["full", "read-only"])
def test_a_full_and_a_read_only_cache(maskc, mounted, tmp_path, mount):
    maskc("cache", "warm", "spec.yaml")
    there = functools.partial(maskc, process=mounted(mount))
    warmed = there("cache", "warm", "spec.yaml", "--json")
    assert all(record["hit"] for record in warmed) == (mount == "read-only")
    assert all(record["file"] for record in warmed) == (mount == "read-only")
    assert len(there("compile", "spec.yaml", "--json")) == 2
    for command in ("ls", "verify", "path"):
        there("cache", command)
    if mount == "read-only":
        key = warmed[0]["key"]
        assert "Read-only file system" in there("cache", "gc", code=1)
        assert "Read-only file system" in there("cache", "rm", key, code=1)
        assert "compiled" in there("compile", "spec.yaml", "--force")
        Store(tmp_path / "cache").path(key).write_bytes(b"")  # which nobody can heal there
        assert "Read-only file system" in there("compile", "spec.yaml")
        assert "the plan is damaged" in there("cache", "info", key, code=1)
        assert len(there("cache", "verify", "--json", code=1)["damaged"]) == 1
    else:
        assert "No space left" in there("compile", "spec.yaml")
        assert "a (not kept)" in there("cache", "warm", "spec.yaml")


def test_what_cannot_be_listed_is_not_called_empty(maskc, tmp_path):
    (tmp_path / "file").touch()
    for command in (["ls"], ["verify"], ["rm", "abc"]):
        error = maskc("cache", *command, code=1, MASKC_CACHE="file")
        assert "file: Not a directory" in error


def test_verify_names_the_bytes(maskc, tmp_path):
    maskc("compile", "spec.yaml", "-o", ".")
    assert maskc("verify", "a.plan") == "a.plan: good\n"
    assert maskc("verify", "a.plan", "--json") == {"file": "a.plan", "ok": True, "problems": []}
    path = tmp_path / "a.plan"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    text = maskc("verify", "a.plan", code=1)
    assert f"to {len(content) - 1}: the checksum does not hold" in text
    (problem,) = maskc("verify", "a.plan", "--json", code=1)["problems"]
    assert problem["last_byte"] == len(content) - 1
    assert problem["section"].startswith(("splash_", "head_mask", "fwd", "dkv"))
    assert read_plan(tmp_path / "b.plan").heads == 1


def test_mistakes_get_one_clear_line(maskc, tmp_path):
    (tmp_path / "bad.plan").write_bytes(b"not a plan")
    for arguments, message in [
        (["verify", "none.plan"], "none.plan: cannot read the plan: No such file or directory"),
        (["verify", "."], ".: cannot read the plan: Is a directory"),
        (["cache", "info", "abc"], "abc: no plan with this key in"),
        (["cache", "info", "xyz"], "xyz: no such file, and not a key"),
        (["cache", "info", "bad.plan"], "bad.plan: not a plan file"),
        (["cache", "rm", "abc"], "abc: no plan with this key in"),
        (["cache", "warm", "none.yaml"], "none.yaml: cannot read the spec"),
    ]:
        error = maskc(*arguments, code=1)
        assert error.startswith("maskc: error: ")
        assert message in error
        assert error.count("\n") == 1
    assert "bad.plan: file, bytes 0 to 9: not a plan file" in maskc("verify", "bad.plan", code=1)
    for arguments in (["cache"], ["cache", "nothing"], ["cache", "gc", "--max-bytes", "-1"]):
        assert "Usage: " in maskc(*arguments, code=2)
    for arguments in (["cache", "-h"], ["verify", "-h"], ["-h"]):
        assert "Usage: " in maskc(*arguments)
