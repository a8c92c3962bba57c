"""`maskc cache ...` and `maskc verify`: the cache and its files, for people and for scripts."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from maskc.cli import cache_option, compile_plans, json_option, warn
from maskc.summary import count_bytes, definitions, render, summarize
from maskc_cache.diagnose import diagnose, stored_sections
from maskc_cache.entry import Entry
from maskc_cache.errors import MaskcError, PlanError
from maskc_cache.format import read_plan
from maskc_cache.plan import Plan
from maskc_cache.store import Store
from maskc_cache.tiers import open_tiers

__all__ = ["cache", "find_plan", "verify_command"]


@click.group()
def cache() -> None:
    """Look after the cache of compiled plans."""


def _print(as_json: bool, record: Any, text: str) -> None:
    click.echo(json.dumps(record, indent=2) if as_json else text)


@cache.command("path")
@cache_option
@json_option
def path_command(cache: Path | None, *, as_json: bool) -> None:
    """Print the cache directory, whether it is there yet or not."""
    store = Store(cache)
    record = {"path": str(store.root), "exists": store.root.is_dir(), "max_bytes": store.max_bytes}
    _print(as_json, record, str(store.root))


@cache.command("ls")
@cache_option
@json_option
def ls_command(cache: Path | None, *, as_json: bool) -> None:
    """List the plans, the one used last first."""
    store = Store(cache)
    entries = sorted(store.list(), key=lambda entry: -entry.mtime)
    total = sum(entry.nbytes for entry in entries)
    lines = [f"{entry.key}  {entry.nbytes:>13,} B  {_when(entry)}" for entry in entries]
    lines.append(f"{len(entries)} plans, {count_bytes(total)}, in {store.root}")
    _print(as_json, [_record(entry) for entry in entries], "\n".join(lines))


def _when(entry: Entry) -> str:
    try:
        return datetime.fromtimestamp(entry.mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "at no time that there is"  # clocks may be set to anything


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "file": str(entry.path),
        "file_bytes": entry.nbytes,
        "mtime": entry.mtime,
    }


@cache.command("info")
@click.argument("key")
@cache_option
@json_option
def info_command(key: str, cache: Path | None, *, as_json: bool) -> None:
    """Show what the plan of a KEY, or of its first digits, holds and how it is stored."""
    store = Store(cache)
    plan, path = find_plan(key, store)
    size, sections = path.stat().st_size, stored_sections(path)
    lines = {
        name: f"{array}, {codec}, {stored:,} B of {decoded:,}"
        for name, array, codec, stored, decoded in sections
    }
    names = ("name", "array", "codec", "stored_bytes", "decoded_bytes")
    record = {"file": str(path), "file_bytes": size, "compiler": plan.compiler}
    extra = {"file": f"{path} ({size:,} B)", "compiler": plan.compiler}
    _print(
        as_json,
        record
        | summarize(plan).as_dict()
        | {"sections": [dict(zip(names, row, strict=True)) for row in sections]},
        render([(plan.key[:12], summarize(plan), extra)]) + "\n" + definitions(lines),
    )


@cache.command("verify")
@cache_option
@json_option
def verify_cache_command(cache: Path | None, *, as_json: bool) -> None:
    """Check every byte and every invariant of every plan; exit code 1 if one is damaged.

    Damaged plans are set aside, so that they are compiled again when they are next needed.
    """
    store = Store(cache)
    checked = list(store.verify())
    bad = [(entry, problem) for entry, problem in checked if problem is not None]
    lines = [f"damaged: {problem}" for _, problem in bad]
    lines.append(f"{len(checked)} plans checked, {len(bad)} damaged, in {store.root}")
    record = {
        "checked": len(checked),
        "damaged": [_record(entry) | {"problem": problem} for entry, problem in bad],
    }
    _print(as_json, record, "\n".join(lines))
    if bad:
        sys.exit(1)


@cache.command("gc")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Another bound, for this once.")
@cache_option
@json_option
def gc_command(max_bytes: int | None, cache: Path | None, *, as_json: bool) -> None:
    """Remove the plans used least recently while there are too many, and old leavings."""
    store = Store(cache)
    done = store.gc(max_bytes)
    names = ("removed", "freed", "kept", "kept_bytes", "swept")
    record = {name: getattr(done, name) for name in names}
    record["max_bytes"] = store.max_bytes if max_bytes is None else max_bytes
    text = (
        f"removed {done.removed} files ({count_bytes(done.freed)}) and {done.swept} leavings; kept "
        f"{done.kept} ({count_bytes(done.kept_bytes)} of {count_bytes(record['max_bytes'])}) "
        f"in {store.root}"
    )
    _print(as_json, record, text)


@cache.command("rm")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@cache_option
@json_option
def rm_command(keys: tuple[str, ...], cache: Path | None, *, as_json: bool) -> None:
    """Forget the plans of KEYs, or of the first digits of keys."""
    store = Store(cache)
    found = [_key(ref, store) for ref in keys]
    removed = [key for key in found if store.remove(key)]
    _print(as_json, {"removed": removed}, "\n".join(f"removed {key}" for key in removed))


@cache.command("warm")
@click.argument(
    "specs", nargs=-1, required=True, metavar="SPEC...", type=click.Path(path_type=Path)
)
@cache_option
@json_option
def warm_command(specs: tuple[Path, ...], cache: Path | None, *, as_json: bool) -> None:
    """Make sure that the cache, and the remotes, have every plan of the SPEC files.

    A plan that the cache cannot keep is told as such; its "file" is null.
    """
    tiers = open_tiers(cache, upload=True, warn=warn)
    records = []
    for spec in specs:
        for name, plan, hit, seconds in compile_plans(spec, None, tiers):
            if hit:
                tiers.upload(plan)
            path = tiers.local.path(plan.key) if tiers.local.has(plan.key) else None
            records.append(
                {"spec": str(spec), "plan": name, "key": plan.key, "hit": hit, "seconds": seconds}
                | {"file": path and str(path)}
            )
    lines = [
        f"{record['key']}  {'hit' if record['hit'] else 'compiled':8}  {record['spec']}: "
        f"{record['plan']}{'' if record['file'] else ' (not kept)'}"
        for record in records
    ]
    _print(as_json, records, "\n".join(lines))


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def verify_command(file: Path, *, as_json: bool) -> None:
    """Check every byte and every invariant of a plan FILE; exit code 1 if something is wrong.

    Tells which bytes of which section are wrong, as far as the rest can still be read.
    """
    try:
        findings = diagnose(file)
    except OSError as error:
        raise MaskcError(f"{file}: cannot read the plan: {error.strerror}") from error
    record = {
        "file": str(file),
        "ok": not findings,
        "problems": [
            {
                "section": finding.section,
                "first_byte": finding.first,
                "last_byte": finding.last,
                "problem": finding.problem,
            }
            for finding in findings
        ],
    }
    lines = [f"{file}: {finding}" for finding in findings] or [f"{file}: good"]
    _print(as_json, record, "\n".join(lines))
    if findings:
        sys.exit(1)


# --- plans by reference -------------------------------------------------------------------------


def find_plan(ref: str, store: Store) -> tuple[Plan, Path]:
    """A plan by file or by key, and the file that it came from.

    Raises:
        MaskcError: there is none, or more than one.
    """
    path = Path(ref)
    try:
        if path.is_file():
            return read_plan(path), path
    except OSError as error:
        raise MaskcError(f"{ref}: cannot read the plan: {error.strerror}") from error
    key = _key(ref, store)
    if (plan := store.get(key)) is None:
        raise PlanError(f"{store.path(key)}: the plan is damaged; compile again")
    return plan, store.path(key)


def _key(ref: str, store: Store) -> str:
    """A key by its first digits."""
    if not re.fullmatch(r"[0-9a-f]{1,32}", ref):
        raise MaskcError(
            f"{ref}: no such file, and not a key; expected a plan file or a key of 32 hex digits "
            "(run 'maskc compile SPEC' to make one)"
        )
    keys = store.find(ref)
    if len(keys) > 1:
        raise MaskcError(f"{ref}: {len(keys)} plans in {store.root} have keys that begin like this")
    if not keys:
        raise MaskcError(
            f"{ref}: no plan with this key in {store.root}; run 'maskc compile SPEC', "
            "or name the right directory with --cache"
        )
    return keys[0]
