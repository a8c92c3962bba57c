"""The `maskc` command. What a cache hit does not need is imported where it is used."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskc.version import __version__
from maskc_cache.errors import MaskcError, StoreError
from maskc_cache.plan import Plan, key_of
from maskc_cache.tiers import Tiers, open_tiers

if TYPE_CHECKING:
    from maskc.evaluated import Progress
    from maskc.spec_memo import SpecMemo

__all__ = ["cache_option", "cli", "compile_plans", "json_option", "main", "warn"]

_HIT = "hit: loaded from the cache"
_BAR_AFTER = 0.5  # seconds of work before a progress bar is worth its line
_LATE = ("cache", "verify")  # commands of cli_cache

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Cache directory [default: $MASKC_CACHE, or the user's cache directory].",
)


class _Commands(click.Group):
    """The commands, of which those about the cache are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LATE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _LATE:
            from maskc import cli_cache

            return cli_cache.cache if cmd_name == "cache" else cli_cache.verify_command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
@cache_option
@click.option("--plan", metavar="NAME", help="Compile only the plan of this name.")
@json_option
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
    from maskc.smem import splash_problem
    from maskc.summary import PlanSummary, render, summarize

    tiers = open_tiers(cache, upload=True, warn=warn)
    columns: list[tuple[str, PlanSummary, dict[str, str]]] = []
    records: list[dict[str, Any]] = []
    for name, compiled, hit, seconds in compile_plans(spec, plan, tiers, force=force):
        if problem := splash_problem(compiled):
            warn(f"plan {name}: {problem}")
        path = tiers.local.path(compiled.key)
        if output is not None:
            path = _write(compiled, output / f"{name}.plan")
        size = _size(path)
        summary = summarize(compiled)
        extra = {
            "file": f"{path} ({size:,} B)" if size is not None else "not written",
            "time": f"{seconds * 1e3:.1f} ms ({_HIT if hit else 'compiled'})",
        }
        columns.append((name, summary, extra))
        records.append(
            {"plan": name, "hit": hit, "seconds": seconds}
            | {"file": str(path) if size is not None else None, "file_bytes": size}
            | summary.as_dict()
        )
    if as_json:
        import json

        click.echo(json.dumps(records, indent=2))
    else:
        click.echo(render(columns))


def compile_plans(
    spec: Path, plan: str | None, tiers: Tiers, *, force: bool = False
) -> Iterator[tuple[str, Plan, bool, float]]:
    """Name, plan, whether it was a hit, and seconds taken, for each plan of a spec file."""
    from maskc.spec_file import read_bytes
    from maskc.spec_memo import SpecMemo

    memo = SpecMemo(tiers.local, read_bytes(spec), plan)
    if not force and (known := _known(memo, tiers)) is not None:
        yield from known
        return
    from maskc.compile import compile_cached
    from maskc.spec import read_spec

    read = read_spec(spec, plan)
    for name, request in read.requests.items():
        started = time.perf_counter()
        with _progress(name) as progress:
            compiled, hit = compile_cached(
                request, tiers, progress=progress, warn=warn, force=force
            )
        yield name, compiled, hit, time.perf_counter() - started
    memo.remember(read)


def _known(memo: SpecMemo, tiers: Tiers) -> list[tuple[str, Plan, bool, float]] | None:
    """The plans of a spec whose meaning is known, if the cache has all of them."""
    found = []
    for name, canonical in memo.recall() or ():
        started = time.perf_counter()
        try:
            plan = tiers.get(key_of(canonical), canonical)
        except StoreError:
            return None  # compiling says what is wrong
        if plan is None:
            return None
        found.append((name, plan, True, time.perf_counter() - started))
    return found or None


def warn(message: str) -> None:
    """Tell the user something that does not stop the command."""
    click.echo(f"maskc: warning: {message}", err=True)


def _size(path: Path) -> int | None:
    """A file's size; None if there is none, which others may have removed by now."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _write(plan: Plan, path: Path) -> Path:
    from maskc_cache.format import write_plan

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
@cache_option
@click.option("--head", default=0, show_default=True, help="The head whose blocks are drawn.")
@json_option
def show_command(plan: str, cache: Path | None, head: int, *, as_json: bool) -> None:
    """Show what a plan holds, and a map of its blocks.

    PLAN is a plan file; KEY is a cache key, or the first digits of one.
    """
    from maskc.cli_cache import find_plan
    from maskc.summary import render, summarize

    loaded, path = find_plan(plan, open_tiers(cache).local)
    summary, size = summarize(loaded), _size(path) or 0
    if as_json:
        import json

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
