"""The release gate of the store: every fault in full, with its counts. Needs root for all of it.

    python tests/gate.py                 about half an hour on two cores
    python tests/gate.py --scale 0.01    the same in a minute, to see that it runs
    python tests/gate.py kill fuzz       only these
    GATE_PYTHONS=/one/bin/python:/another/bin/python python tests/gate.py same-bytes

Exit code 1 if any count is not what it must be. `docs/store.md` says what each promise is.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/cache/golden/v1.0"
sys.path[:0] = [
    str(ROOT / part) for part in ("maskc", "runtime", "kernels", "cache", "tests/support")
]

import click  # noqa: E402
import faults  # noqa: E402
from faults import Counts, mutants  # noqa: E402
from faults.machine import MOUNTS, lacks_fuse, lacks_loops, lacks_mounts  # noqa: E402
from faults.plans import many, tiny  # noqa: E402

from maskc_cache import encode  # noqa: E402

PRIVILEGED = {"full", "inodes", "read-only", "not-ours", "unreadable", "group"}
NETWORKS: dict[str, Counts] = {
    "cached": {"seen": 0, "refused": 0, "missing": 0},
    "nolink": {"seen": 0, "refused": 0, "missing": 0},
    "short": {"seen": 0, "refused": 0, "missing": 0},
    "eio": {},
    "estale": {},
}
Check = tuple[str, Callable[[int], Counts], int, dict[str, int]]


def damage(times: int) -> Counts:
    """Every small change of files of each codec."""
    plans = [tiny(splash=True), tiny(splash=False), *many(max(times, 1))]
    total: Counts = {}
    for plan in plans:
        for compress in (True, False):
            for kind, count in mutants.every_damage(encode(plan, compress=compress)).items():
                total[kind] = total.get(kind, 0) + count
    return total


def fuzz(count: int) -> Counts:
    """In chunks with seeds of their own, so that a failure is quick to see again."""
    total: Counts = {}
    for seed, start in enumerate(range(0, count, 50_000)):
        for name, n in mutants.fuzz(min(50_000, count - start), seed).items():
            total[name] = total.get(name, 0) + n
    del total["per_second"]
    return total


def same_bytes(seeds: int) -> Counts:
    """Raw images from fresh processes of several hash seeds, and of every Python that is named."""
    program = (
        "import hashlib, pathlib; from faults.plans import tiny, many;"
        "from maskc_cache import encode, read_plan;"
        f"golden = map(read_plan, sorted(pathlib.Path({str(GOLDEN)!r}).glob('*.plan')));"
        "print([hashlib.sha256(encode(p, compress=False)).hexdigest()"
        " for p in (tiny(splash=True), *many(3), *golden)])"
    )
    ours = [path for path in sys.path if str(ROOT) in path]
    pythons = [sys.executable, *filter(None, os.environ.get("GATE_PYTHONS", "").split(os.pathsep))]
    images = {
        subprocess.run(
            [python, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(ours)},
            capture_output=True,
            check=True,
        ).stdout
        for python in pythons
        for seed in range(seeds)
    }
    return {"pythons": len(pythons), "processes": len(pythons) * seeds, "images": len(images)}


def isolated(driver: str, *more: object, prefix: tuple[str, ...] = ()) -> Callable[[int], Counts]:
    """A driver whose first argument is its size."""
    return lambda size: faults.run(driver, size, *more, prefix=prefix)


def fixed(driver: str, *arguments: object, prefix: tuple[str, ...] = ()) -> Callable[[int], Counts]:
    """A driver of one size only."""
    return lambda _: faults.run(driver, *arguments, prefix=prefix)


def checks() -> dict[str, Check]:
    """Name: (promise, driver, full size, counts that must come out)."""
    clean = {"bad": 0, "litter": 0}
    read_only = {"hits": 1, "misses": 2, "refused": 4, "touched": 0, "changed": 0}
    return {
        "kill": (
            "kill -9 while publishing: a whole plan or none, no litter",
            isolated("kill", "O_TMPFILE"), 10_000, clean | {"healed": 1, "unswept": 0},
        ),
        "kill-named": (
            "the same where files cannot be unnamed: litter is swept",
            isolated("kill", "named"), 2_000, {"bad": 0, "healed": 1, "unswept": 0},
        ),
        "race": (
            "32 processes x 256 keys: the right plan or a miss",
            lambda turns: faults.run("race", 32, 256, turns), 2_000, clean | {"failed": 0},
        ),
        "siege": (
            "readers while plans are evicted and damaged, seconds",
            isolated("siege"), 600, {"failed": 0, "wrong": 0},
        ),
        "damage": ("every small change of small files", damage, 20, {"silent": 0}),
        "flips": (
            "random flips in a file of 100 MB",
            lambda flips: mutants.random_flips(100, flips), 2_000, {"silent": 0},
        ),
        "fuzz": ("mutants, with checksums made right", fuzz, 1_000_000, {"other": 0}),
        "bombs": ("bombs, with 16 MiB to spare", fixed("bombs", 16), 1, {}),
        "full": (
            "a full disk", fixed("full_disk", 300, "ENOSPC", prefix=MOUNTS), 1,
            clean | {"put": 300, "refused": 0},
        ),
        "inodes": (
            "a disk without inodes", fixed("full_disk", 300, "inodes", prefix=MOUNTS), 1,
            clean | {"put": 300, "refused": 0},
        ),
        "file-limit": ("a limit on file sizes", fixed("full_disk", 300, "EFBIG"), 1, clean),
        "read-only": (
            "a read-only mount", fixed("read_only", "EROFS", prefix=MOUNTS), 1, read_only
        ),
        "not-ours": ("a directory of somebody else", fixed("read_only", "EACCES"), 1, read_only),
        "unreadable": ("an entry of mode 000", fixed("unreadable"), 1, {"failed": 0, "kept": 1}),
        "group": (
            "two users of a group", fixed("group"), 1,
            {"failed": 0, "modes_right": 1, "groups_right": 1},
        ),
        "descriptors": (
            "descriptors run out", fixed("descriptors", 64, 3000), 1,
            {"held": 3000, "leaked": 0, "refused": 2, "hit_after": 1},
        ),
        "signals": ("a signal every half millisecond", isolated("interrupted"), 300, {}),
        "fork": ("a store used across a fork", isolated("forked"), 64, {"failed": 0}),
        "shortened": ("files cut or overwritten after reading", isolated("shortened"), 200, {}),
        "power-cut": (
            "a power cut on ext4: whole plans, and all acknowledged ones but the last",
            isolated("power.power_cut", "synced", prefix=MOUNTS), 200,
            {"bad": 0, "wrong": 0, "lost": 0},
        ),
        **{
            f"network-{kind}": (
                f"two hosts on a network file system ({kind})",
                isolated("network.network", kind, prefix=MOUNTS), 300,
                {"bad": 0, "wrong": 0, "leaked": 0} | more,
            )
            for kind, more in NETWORKS.items()
        },
        "one-creates": (
            "32 writers of each key of a bucket: one creates",
            isolated("remotes.one_creates", 32), 1_000, {"several": 0, "bad": 0},
        ),
        "same-bytes": (
            "raw images of fresh processes, by hash seed", same_bytes, 100, {"images": 1}
        ),
    }  # fmt: skip


def lacking(name: str) -> str:
    """What this machine lacks for a check, or nothing."""
    if name == "power-cut":
        return lacks_loops()
    if name.startswith("network"):
        return lacks_fuse()
    return lacks_mounts() if name in PRIVILEGED else ""


def problem(counts: Counts, expected: Counts) -> str:
    """What is not as it must be, or nothing."""
    wrong = [f"{name}={counts[name]}, not {n}" for name, n in expected.items() if counts[name] != n]
    for part, whole in (("right", "turns"), ("same", "turns")):
        if part in counts and whole in counts and counts[part] != counts[whole]:
            wrong.append(f"{part}={counts[part]} of {counts[whole]}")
    if counts.get("grown_kib", 0) > 4096:
        wrong.append("more than 4 MiB")
    return "; ".join(wrong)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--scale", default=1.0, show_default=True, help="Of the full sizes.")
def main(names: tuple[str, ...], scale: float) -> None:
    """Run the gate and print its counts."""
    failed = skipped = 0
    chosen = {name: check for name, check in checks().items() if not names or name in names}
    for name, (promise, driver, size, expected) in chosen.items():
        if reason := lacking(name):
            click.echo(f"SKIP {name:14} {promise}: {reason}")
            skipped += 1
            continue
        started = time.perf_counter()
        try:
            counts = driver(max(1, round(size * scale)))
            wrong = problem(counts, expected)
        except AssertionError as error:
            counts, wrong = {}, str(error)
        failed += bool(wrong)
        numbers = " ".join(f"{key.replace(' ', '_')}={n:,}" for key, n in counts.items())
        seconds = time.perf_counter() - started
        click.echo(
            f"{'FAIL' if wrong else 'ok':4} {name:14} {promise} [{seconds:.0f} s]: {numbers}"
        )
        if wrong:
            click.echo(f"     {wrong}")
    click.echo(f"{len(chosen) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
