"""The command: what it prints, its exit codes, and one clear line for every mistake."""

import json
import os
import subprocess
import sys

import pytest
from command import run_here

from maskc_cache import Store, read_plan

SPEC = """
maskc: 1
q_len: 256
heads: 2
block_q: 32
block_kv: 64
masks:
  window: {local: {left: 40, right: 0}}
plans:
  local: {mask: window}
  mixed: {head_masks: {0: causal, 1: causal & window}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def maskc(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def run(*arguments, code=0, **environment):
        environment = {"MASKC_CACHE": str(folder / "cache")} | environment
        got, out, err = run_here(arguments, environment, monkeypatch, capsys)
        assert got == code, err
        assert "Traceback" not in err
        return err if code else out

    return run


def test_compile_prints_what_was_compiled(maskc, folder):
    out = maskc("compile", "spec.yaml")
    for word in ("256 x 256", "2 (1)", "2 (2)", "32 x 64", "unique partial", "int8[1, 8, 2]", "%"):
        assert word in out
    assert "compiled" in out
    assert str(folder / "cache") in out
    assert "hit: loaded from the cache" in maskc("compile", "spec.yaml")
    assert "hit" not in maskc("compile", "spec.yaml", "--force")


def test_json_has_every_number(maskc, folder):
    first = json.loads(maskc("compile", "spec.yaml", "--json"))
    assert [record["plan"] for record in first] == ["local", "mixed"]
    assert not any(record["hit"] for record in first)
    again = json.loads(maskc("compile", "spec.yaml", "--json", "--plan", "mixed"))
    (record,) = again
    assert record["hit"]
    plan = Store(folder / "cache").get(record["key"])
    assert record["digest"] == plan.digest
    assert record["table_bytes"] == sum(array.nbytes for _, array in plan.arrays())
    part = record["directions"]["fwd/dq/dkv"]
    assert part["empty"] + part["partial"] + part["full"] == pytest.approx(1)
    assert part["blocks"] == 2 * 8 * 4
    assert json.loads(maskc("show", record["key"], "--json"))["key"] == record["key"]


def test_row_bounds_or_why_there_are_none(maskc, folder):
    (folder / "spec.yaml").write_text(
        SPEC.replace("heads: 2", "heads: 2\nrow_bounds: true").replace(
            "plans:\n", "  far: {keys: [0, 9, 90]}\nplans:\n  far: {mask: far}\n"
        )
    )
    records = {
        record["plan"]: record for record in json.loads(maskc("compile", "spec.yaml", "--json"))
    }
    assert records["far"]["row_intervals"] == [3, 1]
    assert records["local"]["tables"]["row_bounds.q"] == "int32[1, 2, 256]"
    shown = " ".join(maskc("show", records["far"]["key"]).split())
    assert "row_bounds.q none: a query has 3 intervals, more than 2" in shown
    assert "row_bounds.kv int32[1, 2, 256]" in shown


def test_output_directory(maskc, folder):
    maskc("compile", "spec.yaml", "-o", "plans/deep")
    for name in ("local", "mixed"):
        plan = read_plan(folder / "plans/deep" / f"{name}.plan")
        assert Store(folder / "cache").get(plan.key) == plan


def test_show_draws_the_blocks(maskc, folder):
    maskc("compile", "spec.yaml", "-o", ".")
    out = maskc("show", "mixed.plan")
    rows = out.splitlines()
    start = rows.index("blocks of head 0, queries downwards, keys to the right") + 1
    assert rows[start : start + 8] == [
        "▚···", "▚···", "█▚··", "█▚··", "██▚·", "██▚·", "███▚", "███▚",
    ]  # fmt: skip
    assert "of head 1" in maskc("show", "mixed.plan", "--head", "1")
    key = read_plan(folder / "mixed.plan").key
    assert key in maskc("show", key[:8])


def test_version_and_help(maskc):
    assert maskc("--version").startswith("maskc, version ")
    for arguments in (["-h"], ["compile", "--help"], ["show", "-h"]):
        assert "Usage: " in maskc(*arguments)


def test_mistakes_get_one_clear_line(maskc, folder):
    (folder / "bad.yaml").write_text(SPEC.replace("block_q", "blok_q"))
    (folder / "bad.plan").write_bytes(b"not a plan")
    (folder / "dir").mkdir()
    for arguments, message in [
        (["compile", "none.yaml"], "none.yaml: cannot read the spec: No such file or directory"),
        (["compile", "dir"], "dir: cannot read the spec: Is a directory"),
        (["compile", "bad.yaml"], "bad.yaml:5:1: blok_q: unknown key; expected one of"),
        (
            ["compile", "spec.yaml", "--plan", "x"],
            "spec.yaml: no plan 'x'; expected one of local, m",
        ),
        (["compile", "spec.yaml", "-o", "/proc/none"], "cannot write the plan"),
        (["show", "none.plan"], "none.plan: no such file, and not a key"),
        (["show", "bad.plan"], "bad.plan: not a plan file"),
        (["show", "abc"], "abc: no plan with this key in"),
    ]:
        error = maskc(*arguments, code=1)
        assert error.startswith("maskc: error: ")
        assert message in error
        assert error.count("\n") == 1
    maskc("compile", "spec.yaml", "-o", ".")
    assert "--head: expected 0 to 1, got 2" in maskc("show", "mixed.plan", "--head", "2", code=1)
    assert "No such option" in maskc("compile", "spec.yaml", "--ofrce", code=2)


def test_a_cache_that_cannot_be_written_costs_a_warning(maskc, folder):
    (folder / "file").write_text("")
    run = ["compile", "spec.yaml", "-o", "out", "--json"]
    assert not any(record["hit"] for record in json.loads(maskc(*run, MASKC_CACHE="file")))
    assert read_plan(folder / "out/local.plan").heads == 2


HEAVY = {"jax", "numba", "hypothesis", "torch", "yaml", "tabulate", "obstore", "json"}
OF_A_MISS = {"maskc.spec", "maskc.expr", "maskc.canonical", "maskc.lower", "maskc.compile"} | {
    f"maskc_cache.{name}" for name in ("evict", "publish", "diagnose")
}


@pytest.mark.parametrize("hit", [False, True])
def test_a_hit_imports_only_what_it_needs(maskc, folder, hit):
    if hit:
        maskc("compile", "spec.yaml")
    program = (
        "import sys; sys.argv = ['maskc', 'compile', 'spec.yaml'];"
        "from maskc.cli import cli; cli(standalone_mode=False);"
        f"print(sorted({HEAVY | OF_A_MISS} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ
        | {"MASKC_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("hit: loaded" in done.stdout) == hit
    imported = done.stdout.splitlines()[-1]
    assert imported == "[]" if hit else "maskc.lower" in imported
    assert "jax" not in imported


def test_a_spec_is_read_again_when_it_changes(maskc, folder):
    first = json.loads(maskc("compile", "spec.yaml", "--json"))
    (folder / "spec.yaml").write_text(SPEC.replace("left: 40", "left: 41"))
    second = json.loads(maskc("compile", "spec.yaml", "--json"))
    assert not any(record["hit"] for record in second)
    assert {r["key"] for r in first}.isdisjoint(r["key"] for r in second)
    (folder / "spec.yaml").write_text(SPEC)
    third = json.loads(maskc("compile", "spec.yaml", "--json"))
    assert [r["key"] for r in third] == [r["key"] for r in first]
    assert all(record["hit"] for record in third)


def test_a_known_spec_whose_plan_is_gone_is_compiled(maskc, folder):
    keys = [record["key"] for record in json.loads(maskc("compile", "spec.yaml", "--json"))]
    Store(folder / "cache").remove(keys[0])
    path = Store(folder / "cache").path(keys[1])
    path.write_bytes(path.read_bytes()[:-1])
    again = json.loads(maskc("compile", "spec.yaml", "--json"))
    assert [record["key"] for record in again] == keys
    assert [record["hit"] for record in again] == [False, False]


def test_compile_warns_where_splash_tables_cannot_fit_a_tpu(folder):
    (folder / "spec.yaml").write_text(
        "maskc: 1\nq_len: 10240\nblock_q: 16\nblock_kv: 16\nmask: causal"
    )
    run = [sys.executable, "-m", "maskc", "compile", "spec.yaml"]
    environment = os.environ | {"MASKC_CACHE": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        run, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert "maskc: warning: plan default: the fwd splash tables take 1,638,400 B" in done.stderr
    assert "q_seq_shards: 2" in done.stderr
