"""Refreshes the table of tiles on a machine with a GPU.

    python benchmarks/gpu_tune.py --write       # times candidates, writes tiles.csv
    python benchmarks/gpu_tune.py --dry-run     # no GPU: which candidates compile cleanly

For every dtype, head dimension and direction, all candidates are timed on a causal mask; the
fastest becomes the entry of this GPU's architecture, with device, date and versions as its source.
Entries of other architectures stay. A candidate that needs more shared memory than there is, or
spills in its loops, is left out before it is timed: it is compiled offline first.
"""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import math
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import click
import jax
import jax.numpy as jnp
from gpu import BLOCK, device_name, fastest, tables_of
from tabulate import tabulate

import maskc_kernels.gpu
from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels.gpu import Tile, Tiles, architecture, block_sparse_attention
from maskc_kernels.gpu.config import (
    ARCHITECTURES,
    DIRECTIONS,
    OPTIONS,
    Direction,
    Entry,
    TileKey,
    tile_table,
)
from maskc_kernels.gpu.offline import Report, compile_offline, launches

TABLE = Path(maskc_kernels.gpu.__file__).parent / "tiles.csv"
SHARED = {80: 166912, 90: 232448, 100: 232448}
DTYPES = {16: jnp.bfloat16, 32: jnp.float32}
HEADS, KV_HEADS = 16, 4
OUTPUTS: dict[Direction, tuple[int, ...]] = {"dq": (0,), "dkv": (1, 2)}
"""Which of the gradients of q, k and v each kernel makes."""


def candidates(key: TileKey) -> Iterator[Tile]:
    """Worth a try, by size."""
    sizes = (16, 32, 64) if key.bits == 32 else (32, 64, 128)
    warps = (4,) if key.bits == 16 and key.width == 64 else (8,)
    yield tile_table()[key].tile
    for q, kv, warp, stage in itertools.product(sizes, sizes, {*warps, 8}, (2, 3, 5)):
        yield Tile(q, kv, warp, stage)


class Trial:
    """One entry of the table, and what it is timed on.

    Attributes:
        key: which entry.
    """

    def __init__(self, key: TileKey, length: int) -> None:
        self.key = key
        plan = compile_mask(Causal(), q_len=length, block_q=BLOCK, block_kv=BLOCK)
        self._tables = tables_of(plan, HEADS)
        self._shapes = [
            jax.ShapeDtypeStruct((1, n, length, key.width), DTYPES[key.bits])
            for n in (HEADS, KV_HEADS, KV_HEADS)
        ]

    def _attend(self, tile: Tile, *arrays: jax.Array) -> jax.Array:
        config = Tiles(**{self.key.direction: tile})
        scale = jnp.float32(self.key.width**-0.5)
        return block_sparse_attention(*arrays, scale, self._tables, config=config)[0]

    def compiled(self, tile: Tile) -> Report:
        """Offline."""

        def run(*arrays: jax.Array) -> Any:
            out, pullback = jax.vjp(lambda *args: self._attend(tile, *args), *arrays)
            return pullback(out)

        known = max(entry for entry in ARCHITECTURES if entry <= self.key.architecture)
        return compile_offline(launches(known, run, *self._shapes)[self.key.direction], known)

    def fits(self, tile: Tile) -> str:
        """Why a tile is not timed; nothing if it is."""
        try:
            report = self.compiled(tile)
        except RuntimeError as error:  # of Triton's passes
            return type(error).__name__
        if report.shared > SHARED[self.key.architecture]:
            return f"{report.shared} B of shared memory"
        if report.spills_in_loops or report.warnings:
            return "; ".join([f"{report.spills_in_loops} spills in loops", *report.warnings])
        return ""

    def seconds(self, tile: Tile, repeats: int) -> float:
        """On this GPU."""
        keys = jax.random.split(jax.random.key(0), 3)
        arrays = [
            jax.random.normal(key, x.shape, x.dtype)
            for key, x in zip(keys, self._shapes, strict=True)
        ]

        def attend(*args: jax.Array) -> jax.Array:
            return self._attend(tile, *args)

        if self.key.direction == "fwd":
            forward = jax.jit(attend)
            return fastest({"": lambda: jax.block_until_ready(forward(*arrays))}, repeats)[""]
        which = OUTPUTS[self.key.direction]
        out, pullback = jax.jit(lambda *args: jax.vjp(attend, *args))(*arrays)
        # The other gradients are not asked for, so their kernels are dropped.
        backward = jax.jit(lambda back, dout: [back(dout)[i] for i in which])
        return fastest({"": lambda: jax.block_until_ready(backward(pullback, out))}, repeats)[""]


def write(found: dict[TileKey, Entry]) -> None:
    """Replace entries of the table."""
    entries = tile_table() | found
    order = sorted(entries, key=lambda key: (*key[:3], DIRECTIONS.index(key.direction)))
    with TABLE.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        names = ("tile_q", "tile_kv", "warps", "stages", "halved", "source")
        out.writerow([*TileKey._fields, *names])
        for key in order:
            tile, halved, source = entries[key]
            names = " ".join(option for option in OPTIONS if option in halved)
            out.writerow([*key, tile.q, tile.kv, tile.warps, tile.stages, names, source])


@click.command()
@click.option("--bits", type=click.Choice(["16", "32"]), multiple=True, default=("16", "32"))
@click.option("--width", type=int, multiple=True, default=(64, 128, 256), show_default=True)
@click.option(
    "--direction", type=click.Choice(get_args(Direction)), multiple=True, default=DIRECTIONS
)
@click.option("--length", default=8192, show_default=True, help="Tokens.")
@click.option("--repeats", default=20, show_default=True)
@click.option("--limit", default=1000, show_default=True, help="Candidates of an entry.")
@click.option("--write", "save", is_flag=True, help="Write the table.")
@click.option("--dry-run", is_flag=True, help="No GPU: compile only, write nothing.")
@click.option("--architecture", "dry_architecture", default=90, help="Of a dry run.")
def main(
    bits: tuple[str, ...],
    width: tuple[int, ...],
    direction: tuple[Direction, ...],
    length: int,
    repeats: int,
    limit: int,
    save: bool,
    dry_run: bool,
    dry_architecture: int,
) -> None:
    """Time every candidate, print the winners."""
    here = dry_architecture if dry_run else architecture()
    if here is None:
        raise click.ClickException("no GPU here; see --dry-run")
    known = max(entry for entry in ARCHITECTURES if entry <= here)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    source = f"timed on {device_name()} {today}; triton {metadata.version('triton')}"
    found, rows = {}, []
    for entry in itertools.product((known,), map(int, bits), width, direction):
        key, best = TileKey(*entry), (math.inf, tile_table()[TileKey(*entry)].tile)
        trial = Trial(key, length)
        for tile in itertools.islice(dict.fromkeys(candidates(key)), limit):
            reason = trial.fits(tile)
            time = math.inf if reason or dry_run else trial.seconds(tile, repeats)
            best = min(best, (time, tile), key=lambda pair: pair[0])
            shown = reason or ("compiles" if dry_run else time * 1e6)
            rows.append([*key, tile.q, tile.kv, tile.warps, tile.stages, shown])
            print(".", end="", file=sys.stderr, flush=True)
        if best[0] < math.inf:
            known_entry = tile_table()[key]
            same = best[1] == known_entry.tile  # of another tile nobody knows what it has room for
            found[key] = Entry(best[1], known_entry.halved if same else frozenset(OPTIONS), source)
    print(file=sys.stderr)
    headers = [*TileKey._fields, "q", "kv", "warps", "stages", "microseconds, or why not"]
    print(tabulate(rows, headers, tablefmt="github"))
    if save and not dry_run:
        write(found)


if __name__ == "__main__":
    main()
