"""The `maskc` command, run in this process: a test of it takes milliseconds instead of a second."""

import sys

import pytest

from maskc.cli import main
from maskc_cache import tiers

__all__ = ["run_here"]


def run_here(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str, str]:
    """Exit code, output and error output of the command."""
    code = 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["maskc", *arguments])
        patch.setattr(tiers, "_has_warned", False)  # as in every new process
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
    return code, *capsys.readouterr()
