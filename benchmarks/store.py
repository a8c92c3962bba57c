"""Opening a stored plan, side by side with the ways in which arrays are stored elsewhere.

    python benchmarks/store.py                       # needs the extra `bench`

Times are from a file in the page cache to arrays that can be read, the least of many, in turns of
ten calls. "ours" is `Store.get`: every byte, index and the content's digest checked. None of the
others checks content, but JAX's cache (adler32, where zlib compresses) and npz (crc32 per member).
The raw plans hold partial blocks that do not compress; "causal" is a plan as it is stored.
"""

import dataclasses
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import diskcache
import jax
import msgpack
import numpy as np
import safetensors.numpy
from jax._src.lru_cache import LRUCache
from tabulate import tabulate

from maskc import Causal, Plan, compile_mask
from maskc_cache import Store

SPEC = "maskc: 1\nq_len: 131072\nblock_q: 512\nblock_kv: 512\nmask: causal\n"
BASE = "import msgpack, xxhash, numpy"


def raw_plan(nbytes: int) -> Plan:
    """A plan of about so many bytes, nearly all of them partial blocks of random bits."""
    plan = compile_mask(Causal(), q_len=4096, block_q=128, block_kv=128, splash=False)
    count = max(nbytes // (128 * 16), 1)
    blocks = np.random.default_rng(0).integers(1, 255, (count, 128, 16), np.uint8)
    lists = dataclasses.replace(plan.fwd, partial_blocks=blocks)
    dkv = dataclasses.replace(plan.dkv, partial_blocks=blocks)
    return dataclasses.replace(plan, fwd=lists, dq=lists, dkv=dkv)


def peers(arrays: dict[str, np.ndarray], folder: Path) -> dict[str, Callable[[], object]]:
    """The same arrays, stored by others; each gives a function that loads them all."""
    np.savez(folder / "raw.npz", **arrays)
    np.savez_compressed(folder / "small.npz", **arrays)
    safetensors.numpy.save_file(arrays, folder / "x.safetensors")
    packed = msgpack.packb(
        {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
    )
    (folder / "x.msgpack").write_bytes(packed)
    bounded = LRUCache(str(folder / "jax"), max_size=1 << 32)
    bounded.put("plan", packed)
    unbounded = LRUCache(str(folder / "jax-unbounded"), max_size=-1)
    unbounded.put("plan", packed)
    disk = diskcache.Cache(str(folder / "diskcache"))
    disk["plan"] = packed

    def unpack(content: bytes) -> dict[str, np.ndarray]:
        return {
            name: np.frombuffer(data, dtype).reshape(shape)
            for name, (dtype, shape, data) in msgpack.unpackb(content).items()
        }

    def load_npz(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / name) as file:
            return {key: file[key] for key in file.files}

    return {
        "np.load": lambda: load_npz("raw.npz"),
        "np.savez_compressed": lambda: load_npz("small.npz"),
        "safetensors": lambda: safetensors.numpy.load_file(folder / "x.safetensors"),
        "msgpack bins": lambda: unpack((folder / "x.msgpack").read_bytes()),
        "JAX LRU cache, bounded": lambda: unpack(bounded.get("plan")),
        "JAX LRU cache, unbounded": lambda: unpack(unbounded.get("plan")),
        "diskcache": lambda: unpack(disk["plan"]),
    }


def least(works: dict[str, Callable[[], object]], seconds: float, calls: int) -> dict[str, float]:
    """Milliseconds of the fastest call of each, in turns of so many calls."""
    best = dict.fromkeys(works, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, work in works.items():
            for _ in range(calls):
                started = time.perf_counter()
                work()
                best[name] = min(best[name], 1e3 * (time.perf_counter() - started))
    return best


def opening(name: str, plan: Plan, folder: Path, seconds: float) -> list[list[str]]:
    """Rows of the first table for one plan."""
    store = Store(folder / "ours", max_bytes=1 << 40)
    path = store.put(plan)
    arrays = {key: np.ascontiguousarray(array) for key, array in plan.arrays()}
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: store.get(plan.key, plan.canonical),
        "ours, mapped": lambda: store.get(plan.key, plan.canonical, mmap=True),
    }
    times = least(works | peers(arrays, folder), seconds, 10)
    size = f"{path.stat().st_size:,}"
    return [
        [name, size, way, f"{ms:.3f}", f"{ms / times['ours']:.2f}"] for way, ms in times.items()
    ]


def read_for(root: Path, key: str, seconds: float) -> tuple[int, float]:
    """How often one process reads a plan in the time given, and its CPU seconds."""
    store, count, end = Store(root), 0, time.perf_counter() + seconds
    started = time.process_time()
    while time.perf_counter() < end:
        assert store.get(key) is not None  # noqa: S101  # a miss would be fast
        count += 1
    return count, time.process_time() - started


def readers(folder: Path, seconds: float) -> list[list[str]]:
    """Rows of the second table: reads per second by processes that share a directory."""
    plan = raw_plan(1_000_000)
    Store(folder / "shared").put(plan)
    rows = []
    for processes in (1, 2, 8):
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            done = pool.starmap(read_for, [(folder / "shared", plan.key, seconds)] * processes)
        counts = [count for count, _ in done]
        each = sum(cpu for _, cpu in done) / sum(counts)
        rate, evenly = sum(counts) / seconds, min(counts) / max(counts)
        rows.append([str(processes), f"{rate:,.0f}", f"{1e3 * each:.3f}", f"{evenly:.2f}"])
    return rows


def command_line(folder: Path, repeats: int) -> list[list[str]]:
    """Rows of the third table: a hit from the command line against the imports that it needs."""
    (folder / "spec.yaml").write_text(SPEC)
    environment = os.environ | {"MASKC_CACHE": str(folder / "cli")}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")  # as an installation has it
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    python = sys.executable
    commands = {
        "python -c 'pass'": [python, "-c", "pass"],
        f"python -c '{BASE}'": [python, "-c", BASE],
        "maskc compile, a hit": [python, "-m", "maskc", "compile", str(folder / "spec.yaml")],
    }

    def run(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, env=environment, capture_output=True, check=True)

    works = {name: run(command) for name, command in commands.items()}
    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, ms in least(works, 0.001, 1).items():
            best[name] = min(best[name], ms)
    base = best[f"python -c '{BASE}'"]
    return [[name, f"{ms:.1f}", f"{ms / base:.2f}"] for name, ms in best.items()]


@click.command()
@click.option("--seconds", default=4.0, show_default=True, help="For each plan.")
@click.option("--repeats", default=20, show_default=True, help="Of each command.")
def main(seconds: float, repeats: int) -> None:
    """Print three tables."""
    click.echo(
        f"python {platform.python_version()}, numpy {np.__version__}, jax {jax.__version__}, "
        f"safetensors {safetensors.__version__}, {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        causal = compile_mask(Causal(), q_len=131072, block_q=512, block_kv=512)
        plans = {
            "10 kB raw": raw_plan(10_000),
            "1 MB raw": raw_plan(1_000_000),
            "50 MB raw": raw_plan(50_000_000),
            "causal 128k": causal,
        }
        rows = []
        for number, (title, plan) in enumerate(plans.items()):
            (folder / str(number)).mkdir()
            rows += opening(title, plan, folder / str(number), seconds)
        headers = ["plan", "file, B", "way", "open, ms", "/ ours"]
        click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
        headers = ["processes", "verified reads of 1 MB per second", "CPU, ms per read"]
        headers += ["slowest / fastest"]
        table = readers(folder, seconds)
        click.echo("\n" + tabulate(table, headers, tablefmt="github", disable_numparse=True))
        headers = ["command", "least of many, ms", "/ imports"]
        table = command_line(folder, repeats)
        click.echo("\n" + tabulate(table, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
