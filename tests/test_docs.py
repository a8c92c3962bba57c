"""The pages of the documentation that hold commands and code: all of it runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]


def run_shell(example):
    """One bash block, in the page's folder; `maskc` is this checkout's."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", str(example.parsed)], check=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a `maskc` command of its own."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "maskc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m maskc "$@"\n')
    (commands / "maskc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("docs/getting-started.md", 8),
        ("docs/concepts.md", 1),
        ("docs/masks.md", 1),
        ("docs/plans-under-jit.md", 1),
        ("docs/splash.md", 3),
        ("docs/attention.md", 5),
        ("docs/mask-info.md", 4),
        ("docs/tpu.md", 1),
        ("README.md", 1),
    ],
)
def test_a_page_runs_from_top_to_bottom(page, least):
    parsers = [SkipParser(), PythonCodeBlockParser()]
    if page != "README.md":  # its commands are CI's own steps
        parsers.append(CodeBlockParser(language="bash", evaluator=run_shell))
    document = Sybil(parsers=parsers).parse(ROOT / page)
    examples = list(document.examples())
    assert len(examples) >= least
    for example in examples:
        example.evaluate()


def test_the_spec_page_s_example_is_a_spec(folder):
    from maskc import load_spec

    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/spec.md").read_text(), re.DOTALL)[1]
    (folder / "spec.yaml").write_text(text)
    assert list(load_spec("spec.yaml")) == ["local", "global", "mixed"]


def test_pages_name_every_leaf_and_every_parameter():
    from maskc.mask_spec import LEAVES
    from maskc.request import CompileRequest

    masks, spec = ((ROOT / "docs" / page).read_text() for page in ("masks.md", "spec.md"))
    for name, kind in LEAVES.items():
        assert f"`{kind.__name__}(" in masks
        assert re.search(rf"\b{name}\b", masks)
    for name in CompileRequest.__dataclass_fields__:
        assert f"`{name}`" in spec


def test_the_splash_page_names_everything_with_its_test():
    import maskc
    from maskc import smem, splash
    from maskc.kernels import reference

    homes = {"splash": splash, "reference": reference, "Plan": maskc.Plan, "smem": smem}
    text = (ROOT / "docs/splash.md").read_text()
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (.+?) \| (.+?) \|", text, re.MULTILINE)
    for home, name, status, tests in rows:
        assert hasattr(homes[home], name), name
        assert status in {"same", "same, in numpy", "new", "corrected"}
        for test in re.findall(r"`(\w+\.py)`", tests):
            assert any(name in path.read_text() for path in (ROOT / "tests").rglob(test)), name
    named = {(home, name) for home, name, *_ in rows}
    for home, module in (("splash", splash), ("reference", reference)):
        missing = {(home, name) for name in module.__all__} - named
        assert missing <= {("reference", "dense_attention")}


def test_the_commands_of_the_readme_are_what_ci_runs():
    script, readme = (ROOT / ".ci/run").read_text(), (ROOT / "README.md").read_text()
    for name in ("demo", "test"):
        assert f"readme_command {name}" in script
        assert readme.count(f"<!-- command: {name} -->\n```bash\n") == 1
    assert shutil.which("bash")
