"""Compile time, file size and hit time of every shipped example, as the table of docs/examples.md.

python benchmarks/examples.py
"""

import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import click
from tabulate import tabulate

from maskc import CompileRequest, compile_cached, compile_request, load_spec
from maskc_cache import Store

EXAMPLES = Path(__file__).parents[1] / "examples"


@click.command()
@click.option(
    "--repeats", default=5, show_default=True, help="Runs of each timing; the least counts."
)
def main(repeats: int) -> None:
    """Time every shipped example, compiled in one process, and as a whole command that hits."""
    rows = [
        row(path, name, request, repeats)
        for path in sorted(EXAMPLES.glob("*.yaml"))
        for name, request in load_spec(path).items()
    ]
    headers = [
        "example",
        "plan",
        "lengths",
        "file, B",
        "compile, ms",
        "hit, ms",
        "command on a hit, ms",
    ]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def row(path: Path, name: str, request: CompileRequest, repeats: int) -> list[str]:
    """One line of the table: milliseconds to compile, to hit in process, and of a whole command."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        command = [sys.executable, "-m", "maskc", "compile", str(path), "--plan", name]

        def run() -> None:
            subprocess.run([*command, "--cache", folder], check=True, capture_output=True)

        times = [
            least(repeats, work)
            for work in (
                lambda: compile_request(request),
                lambda: compile_cached(request, store),
                run,
            )
        ]
        size = store.path(request.key).stat().st_size
    shape = f"{request.q_len:,} x {request.kv_len:,}, {request.heads} heads"
    return [path.stem, name, shape, f"{size:,}", *(f"{seconds * 1e3:.1f}" for seconds in times)]


def least(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of `repeats` calls."""
    return min(timeit.repeat(work, number=1, repeat=repeats))


if __name__ == "__main__":
    main()
