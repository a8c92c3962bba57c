"""The `maskc` command."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from maskc.compile import compile_cached
from maskc.evaluated import Progress
from maskc.smem import splash_problem
from maskc.spec import load_spec
from maskc.summary import PlanSummary, render, summarize
from maskc.version import __version__
from maskc_cache.errors import MaskcError
from maskc_cache.format import read_plan, write_plan
from maskc_cache.plan import Plan
from maskc_cache.store import Store

__all__ = ["cli", "main"]

_HIT = "hit: loaded from the cache"
_BAR_AFTER = 0.5  # seconds of work before a progress bar is worth its line


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="maskc")
def cli() -> None:
    """Compile attention masks to block-sparse plans, exactly and once."""


@cli.command("compile")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write each plan to DIR/<plan name>.plan.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Cache directory [default: $MASKC_CACHE, or the user's cache directory].",
)
@click.option("--plan", metavar="NAME", help="Compile only the plan of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--force", is_flag=True, help="Compile even what the cache already has.")
def compile_command(
    spec: Path,
    output: Path | None,
    cache: Path | None,
    plan: str | None,
    *,
    as_json: bool,
    force: bool,
) -> None:
    """Compile the plans of a SPEC file and keep them in the cache.

    A plan that the cache already has is not compiled again.
    """
    store = Store(cache)
    columns: list[tuple[str, PlanSummary, dict[str, str]]] = []
    records: list[dict[str, Any]] = []
    for name, request in load_spec(spec, plan).items():
        started = time.perf_counter()
        with _progress(name) as progress:
            compiled, hit = compile_cached(
                request, store, progress=progress, warn=_warn, force=force
            )
        seconds = time.perf_counter() - started
        if problem := splash_problem(compiled):
            _warn(f"plan {name}: {problem}")
        path = store.path(compiled.key) if store.has(compiled.key) else None
        if output is not None:
            path = _write(compiled, output / f"{name}.plan")
        summary = summarize(compiled)
        extra = {
            "file": f"{path} ({path.stat().st_size:,} B)" if path else "not written",
            "time": f"{seconds * 1e3:.1f} ms ({_HIT if hit else 'compiled'})",
        }
        columns.append((name, summary, extra))
        records.append(
            {"plan": name, "hit": hit, "seconds": seconds, "file": str(path) if path else None}
            | {"file_bytes": path.stat().st_size if path else None}
            | summary.as_dict()
        )
    click.echo(json.dumps(records, indent=2) if as_json else render(columns))


def _warn(message: str) -> None:
    click.echo(f"maskc: warning: {message}", err=True)


def _write(plan: Plan, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_plan(plan, path)
    except OSError as error:
        raise MaskcError(f"{path}: cannot write the plan: {error.strerror}") from error
    return path


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A progress bar on a terminal's stderr, once the work has turned out to be long."""
    started, bar = time.perf_counter(), None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None and sys.stderr.isatty() and time.perf_counter() - started > _BAR_AFTER:
            bar = click.progressbar(length=total, label=f"compiling {name}", file=sys.stderr)
        if bar is not None:
            bar.update(done - bar.pos)

    yield advance
    if bar is not None:
        bar.render_finish()


@cli.command("show")
@click.argument("plan", metavar="PLAN|KEY")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Cache directory to look a KEY up in [default: $MASKC_CACHE, or the user's].",
)
@click.option("--head", default=0, show_default=True, help="The head whose blocks are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table and a map.")
def show_command(plan: str, cache: Path | None, head: int, *, as_json: bool) -> None:
    """Show what a plan holds, and a map of its blocks.

    PLAN is a plan file; KEY is a cache key, or the first digits of one.
    """
    loaded, path = _open(plan, Store(cache))
    summary = summarize(loaded)
    size = path.stat().st_size
    if as_json:
        click.echo(
            json.dumps({"file": str(path), "file_bytes": size} | summary.as_dict(), indent=2)
        )
        return
    if not 0 <= head < loaded.heads:
        raise MaskcError(f"--head: expected 0 to {loaded.heads - 1}, got {head}")
    from maskc.blockmap import LEGEND, render_block_map

    click.echo(render([(path.name, summary, {"file": f"{path} ({size:,} B)"})]))
    click.echo(f"\nblocks of head {head}, queries downwards, keys to the right")
    click.echo(f"{render_block_map(loaded, head)}\n{LEGEND}")


def _open(ref: str, store: Store) -> tuple[Plan, Path]:
    """A plan by file or by key, and the file that it came from."""
    path = Path(ref)
    if path.is_file():
        return read_plan(path), path
    if not re.fullmatch(r"[0-9a-f]{1,32}", ref):
        raise MaskcError(
            f"{ref}: no such file, and not a key; expected a plan file or a key of 32 hex digits "
            "(run 'maskc compile SPEC' to make one)"
        )
    keys = store.find(ref)
    if len(keys) > 1:
        raise MaskcError(f"{ref}: {len(keys)} plans in {store.root} have keys that begin like this")
    plan = store.get(keys[0]) if keys else None
    if plan is None:
        raise MaskcError(
            f"{ref}: no plan with this key in {store.root}; run 'maskc compile SPEC', "
            "or name the right directory with --cache"
        )
    return plan, store.path(plan.key)


def main() -> None:
    """Run the command; errors that a user can mend end in one line and exit code 1."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("maskc: interrupted", err=True)
        sys.exit(130)
    except MaskcError as error:
        click.echo(f"maskc: error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nobody is left to tell
        sys.exit(141)
