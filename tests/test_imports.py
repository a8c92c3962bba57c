"""Imports run downwards only, and the faces show what their packages show."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import maskc
from maskc import cache, kernels, runtime

ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "numba", "yaml", "click", "hypothesis", "triton", "tabulate"}
FLOORS = [
    ("maskc_cache", HEAVY | {"maskc", "maskc_runtime", "maskc_kernels"}),
    (
        "maskc",
        {"jax", "numba", "hypothesis", "triton", "tabulate", "maskc_runtime", "maskc_kernels"},
    ),
    ("maskc_kernels", {"maskc", "maskc_runtime", "numba", "yaml", "click"}),
    ("maskc_runtime", {"maskc", "numba", "yaml", "click"}),
]


def modules_after(statement):
    program = (
        f"import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(("package", "forbidden"), FLOORS, ids=[name for name, _ in FLOORS])
def test_a_package_imports_only_what_is_below_it(package, forbidden):
    assert not modules_after(f"import {package}") & forbidden


def test_the_probe_sees_an_import():
    assert "numpy" in modules_after("import maskc_cache")


@pytest.mark.parametrize(
    ("face", "package"),
    [(cache, "maskc_cache"), (kernels, "maskc_kernels"), (runtime, "maskc_runtime")],
    ids=["cache", "kernels", "runtime"],
)
def test_a_face_shows_what_its_package_shows(face, package):
    below = importlib.import_module(package)
    assert sorted(face.__all__) == sorted(below.__all__)
    for name in below.__all__:
        assert getattr(face, name) is getattr(below, name)


@pytest.mark.parametrize("package", [maskc, cache, kernels, runtime], ids=lambda m: m.__name__)
def test_public_names_exist_and_are_documented(package):
    assert list(package.__all__) == sorted(package.__all__)
    for name in package.__all__:
        member = getattr(package, name)
        assert name == "__version__" or not callable(member) or member.__doc__, name


@pytest.mark.parametrize("name", ["maskc", "maskc_cache", "maskc_kernels", "maskc_runtime"])
def test_packages_are_typed(name):
    assert (Path(importlib.import_module(name).__file__).parent / "py.typed").exists()


def test_faces_work_at_the_repository_root():
    done = subprocess.run(
        [sys.executable, "-c", "from maskc import runtime, kernels, cache; import maskc.expr"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
