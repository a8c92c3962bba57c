"""Lowering of masks without a strip form, warm: `python benchmarks/evaluated.py [part of a name]`.

Prints the least wall and CPU time of `evaluate_blocks` for the canonical mask (whose making is not
counted), what was found, and how far memory rose above the result.
"""

import time
import tracemalloc
from collections.abc import Callable

import click
import numpy as np
from tabulate import tabulate

from maskc import (
    Blocks,
    Causal,
    Dense,
    Mask,
    Neighborhood,
    Random,
    Remap,
    Segments,
    strip_loops,
    zoo,
)
from maskc.blocking import BlockGrid
from maskc.canonical import canonical
from maskc.evaluated import evaluate_blocks
from maskc.jit import compiled

S = 32_768


def noise(n: int, share: float) -> np.ndarray:
    """A random bool matrix."""
    return np.random.default_rng(0).random((n, n), np.float32) < share


CASES: dict[str, tuple[Callable[[], Mask], int, int]] = {
    "strided 128": (lambda: zoo.sparse_transformer_strided(128), S, 128),
    "strided 128 ": (lambda: zoo.sparse_transformer_strided(128), S, 512),
    "strided 100": (lambda: zoo.sparse_transformer_strided(100), S, 512),
    "fixed 128": (lambda: zoo.sparse_transformer_fixed(128, 32), S, 512),
    "fixed 100": (lambda: zoo.sparse_transformer_fixed(100, 10), S, 128),
    "dilated 4": (lambda: zoo.dilated_window(4096, 4), S, 512),
    "bigbird 64": (lambda: zoo.bigbird(noise(S // 64, 3 * 64 / S), 64), S, 512),
    "bigbird 64 ": (lambda: zoo.bigbird(noise(S // 64, 3 * 64 / S), 64), S, 128),
    "tiles of 64, half": (lambda: Blocks(noise(S // 64, 0.5), 64), S, 512),
    "NATTEN 128 x 256": (lambda: Neighborhood((128, 256), 13), S, 512),
    "NATTEN 181 x 181": (lambda: Neighborhood((181, 181), 13), 181 * 181, 512),
    "NATTEN dilated": (lambda: Neighborhood((128, 256), 33, 3), S, 512),
    "NATTEN 32 x 32 x 32": (lambda: Neighborhood((32, 32, 32), 7), S, 512),
    "NATTEN, tile order": (
        lambda: Remap(Neighborhood((128, 256), 13), zoo.tile_order((128, 256), 16)), S, 512,
    ),
    "vertical slash": (
        lambda: zoo.vertical_slash(np.arange(0, S, 331), np.arange(0, S, 257)), S, 512,
    ),
    "Sparse VideoGen": (lambda: zoo.svg_temporal(226, 1350, 90), S, 512),
    "block diffusion": (lambda: zoo.block_diffusion(S // 2, 4), S, 512),
    "interleaved segments": (lambda: Segments(np.arange(S) % 7), S, 512),
    "random 50%": (lambda: Random(0.5), S, 512),
    "random 50% ": (lambda: Random(0.5), S, 128),
    "random 90%": (lambda: Random(0.9), S, 512),
    "causal & random 50%": (lambda: Causal() & Random(0.5), S, 512),
    "dense causal": (lambda: Dense(np.tri(S, dtype=np.bool_)), S, 512),
    "dense noise": (lambda: Dense(noise(S, 0.5)), S, 512),
    "shuffled causal": (
        lambda: Remap(Causal(), np.random.default_rng(0).permutation(S)), S, 512,
    ),
    "strided 128, 1M": (lambda: zoo.sparse_transformer_strided(128), 1 << 20, 512),
    "NATTEN 1024 x 1024": (lambda: Neighborhood((1024, 1024), 13), 1 << 20, 512),
}  # fmt: skip


def measured(mask: Mask, grid: BlockGrid, repeats: int) -> tuple[float, float, float]:
    """Least wall and CPU time in ms, and MB of memory above the result."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, cpu_began = time.perf_counter(), time.process_time()
        evaluate_blocks(mask, grid)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    tracemalloc.start()
    found = evaluate_blocks(mask, grid)
    above = tracemalloc.get_traced_memory()[1] - found.bits.nbytes - found.runs.nbytes
    tracemalloc.stop()
    return 1e3 * min(wall), 1e3 * min(cpu), above / 1e6


@click.command()
@click.argument("name", default="")
@click.option("--repeats", default=5, show_default=True)
def main(name: str, repeats: int) -> None:
    """Print a table of all cases that have NAME in theirs."""
    compiled(strip_loops)  # warm
    rows = []
    for case, (make, length, block) in CASES.items():
        if name in case:
            mask, grid = canonical(make(), length, length), BlockGrid(length, length, block, block)
            found = evaluate_blocks(mask, grid)
            sizes = len(found.runs), len(found.bits), found.bits.nbytes / 1e6
            rows.append((case, length, block, *measured(mask, grid, repeats), *sizes))
    heads = ["mask", "tokens", "block", "ms", "CPU ms", "MB above", "runs", "unique", "MB of bits"]
    click.echo(tabulate(rows, heads, floatfmt=".1f"))


if __name__ == "__main__":
    main()
