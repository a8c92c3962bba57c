"""Twins of modules of loops: the same results, and one twin for each of several modules."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskc import jit, strip_loops

MODULES = {
    "low": """
from maskc.jit import loop

@loop
def step(x):
    return x + 1
""",
    "middle": """
import low
from maskc.jit import loop

@loop
def steps(x, n):
    for _ in range(n):
        x = low.step(x)
    return x
""",
    "high": """
from low import step as once
from maskc.jit import loop
from middle import steps

@loop
def far(x):
    return steps(once(x), 10)
""",
}


@pytest.fixture
def loops(tmp_path, monkeypatch):
    """A folder on the path with three modules of loops."""
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(jit, "_twins", {})
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)
        sys.modules.pop(f"{name}_compiled", None)


def test_loops_are_compiled_where_nothing_can_be_kept(loops, monkeypatch):
    """As for a user without a home, of an installation that is not theirs."""
    assert loops
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    low = importlib.import_module("low")
    assert jit.compiled(low).step(1) == 2


def test_twins_call_twins(loops):
    assert loops
    high, middle, low = (importlib.import_module(name) for name in ("high", "middle", "low"))
    twin = jit.compiled(high)
    assert twin is jit.compiled(high)
    assert all(jit.is_compiled(module) for module in (high, middle, low))
    assert twin.once is jit.compiled(low).step
    assert twin.steps is jit.compiled(middle).steps
    assert jit.compiled(middle).low is jit.compiled(low)
    assert twin.far(5) == high.far(5) == 16
    for function in (twin.far, twin.once, twin.steps):
        assert function.signatures  # numba compiled it, and for this call
    assert not hasattr(high.far, "signatures")


def test_a_change_below_is_seen_by_what_numba_kept_above(loops):
    """numba itself compares only the file of the function that it kept."""
    program = "import high; from maskc import jit; print(jit.compiled(high).far(5))"

    def run():
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join([str(loops), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert run() == 16
    assert list(Path(loops).rglob("high.far*.nbi"))
    (loops / "low.py").write_text(MODULES["low"].replace("+ 1", "+ 2"))
    assert run() == 27


def test_a_module_without_a_file_has_no_twin():
    with pytest.raises(ImportError, match="no source file"):
        jit.compiled(type(jit)("nowhere"))
    assert not jit.is_compiled(type(jit)("nowhere"))


def test_an_error_in_the_twins_file_leaves_no_twin(loops):
    low = importlib.import_module("low")
    (loops / "low.py").write_text(MODULES["low"] + "\nraise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match="broken"):
        jit.compiled(low)
    assert not jit.is_compiled(low)
    (loops / "low.py").write_text(MODULES["low"])
    assert jit.compiled(low).step(1) == 2


def test_plain_modules_stay_plain():
    assert not hasattr(strip_loops.normalise, "signatures")


def test_numba_is_imported_once_plain_loops_have_cost_as_much():
    program = (
        "import sys; from maskc import *; from maskc.canonical import canonical;"
        "run = lambda n: canonical(Causal() & Documents(range(0, n + 1, 8)), n, n);"
        "run(1024); canonical(Documents(range(0, 10**6 + 1, 10)), 10**6, 10**6);"
        "assert 'numba' not in sys.modules;"
        "[run(4096 + i) for i in range(100)]; assert 'numba' in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
