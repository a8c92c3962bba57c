"""What the GPU kernels compile to, next to plain flash attention in the same style; no GPU needed.

    python benchmarks/gpu_compile.py --architecture 90 --head-dim 128

Registers, spills, shared memory, and the machine instructions per inner iteration for full and
for partial blocks, whose masks are words or row bounds. The peer has no mask, no lists and one
loop; it is compiled with our tile, in two ways, of which the shorter loop counts. Instruction
counts are static, per warp: a proxy, not a time.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import shlex
import sys
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import click
import jax
import jax.numpy as jnp
import triton
import triton.language as tl
from tabulate import tabulate

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels import AttentionTables, BlockTable
from maskc_kernels.gpu import block_sparse_attention
from maskc_kernels.gpu.config import DIRECTIONS
from maskc_kernels.gpu.launch import Launch
from maskc_kernels.gpu.offline import Report, compile_offline, launches
from maskc_kernels.gpu.tiles import LOG2E, load_tile, store_tile


@triton.jit
def plain_flash(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    sm_scale: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    stepped: tl.constexpr,
    c: tl.constexpr,
) -> None:
    """Dense attention without a mask, for lengths that are multiples of the tile.

    With `stepped`, addresses are made as in our kernels; else from each row's number, which takes
    fewer instructions in some loops and more in others.
    """
    lane = tl.program_id(0) // (c.q_len // c.tile_q)
    start = tl.program_id(0) % (c.q_len // c.tile_q) * c.tile_q
    positions = start + tl.arange(0, c.tile_q)
    kv_lane = (lane // c.heads * c.kv_heads + lane % c.heads // c.group).to(tl.int64)
    k += kv_lane * (c.kv_len * c.head_dim)
    v += kv_lane * (c.kv_len * c.head_dim)
    q_lane = lane.to(tl.int64) * c.q_len
    q_tile = load_tile(
        q + q_lane * c.head_dim, start, c.tile_q, c.q_len, c.head_dim, c.width, False
    )
    factor = tl.load(sm_scale) * LOG2E
    acc = tl.zeros([c.tile_q, c.width], tl.float32)
    top = tl.full([c.tile_q], float("-inf"), tl.float32)
    total = tl.zeros([c.tile_q], tl.float32)
    for first in tl.range(0, c.kv_len, c.tile_kv):
        rows = (first + tl.arange(0, c.tile_kv))[:, None] * c.head_dim
        columns = tl.arange(0, c.width)[None, :]
        if stepped:
            k_tile = load_tile(k, first, c.tile_kv, c.kv_len, c.head_dim, c.width, False)
        else:
            k_tile = tl.load(k + rows + columns)
        scores = tl.dot(q_tile, tl.trans(k_tile))
        new_top = tl.maximum(top, tl.max(scores, 1) * factor)
        weights = tl.exp2(scores * factor - new_top[:, None])
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(weights, 1)
        if stepped:
            v_tile = load_tile(v, first, c.tile_kv, c.kv_len, c.head_dim, c.width, False)
        else:
            v_tile = tl.load(v + rows + columns)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * decay[:, None])
        top = new_top
    store_tile(
        out + q_lane * c.head_dim, acc / total[:, None], positions, c.q_len, c.head_dim, c.width
    )
    tl.store(lse + q_lane + positions, (top + tl.log2(total)) / LOG2E)


MASKS = {
    "words": Causal(),
    "1 interval": Causal(),
    "2 intervals": Causal() & ~(Causal(offset=-1000) & ~Causal(offset=-2000)),
}
"""How partial blocks are masked: by their bits, or by the intervals of each query and each key."""


def ours(
    architecture: int, dtype: str, head_dim: int, block: int, masks: str = "words"
) -> dict[str, Launch]:
    """Forward, dq and dkv, as attention would launch them."""
    length, heads, kv_heads = 8192, 8, 1
    plan = compile_mask(
        MASKS[masks], q_len=length, heads=heads, block_q=block, block_kv=block,
        row_bounds=masks != "words",
    )  # fmt: skip
    lists = [BlockTable.from_lists(plan.lists(name)) for name in DIRECTIONS]
    bounds = plan.row_bounds
    sides = (bounds.q, bounds.kv) if bounds else ()
    tables = AttentionTables(plan.head_mask, *lists, *sides)

    def run(*arrays: jax.Array) -> Any:
        results, pullback = jax.vjp(
            lambda *args: block_sparse_attention(*args, jnp.float32(1), tables), *arrays
        )
        return pullback(results)

    q, k = (
        jax.ShapeDtypeStruct((1, count, length, head_dim), dtype) for count in (heads, kv_heads)
    )
    return launches(architecture, run, q, k, k)


def peer(launch: Launch, *, stepped: bool) -> Launch:
    """Plain flash attention with the tile of our forward kernel, addressed in one of two ways."""
    return dataclasses.replace(
        launch,
        kernel=plain_flash,
        operands=launch.operands[:4],
        constants=launch.constants | {"stepped": stepped},
    )


def row(name: str, launch: Launch, report: Report, plain: int, words: int) -> tuple[Any, ...]:
    """One line of the table.

    Args:
        name: of the line.
        launch: what was compiled.
        report: what came of it.
        plain: instructions in the loop of plain flash; 0 if that is no peer.
        words: instructions in the partial loop whose masks are words; 0 for none.
    """
    constants = launch.constants["c"]
    tile = f"{constants.tile_q}x{constants.tile_kv}"
    loops = [*report.loops, None, None][:2]
    ratios = [None if size is None or not plain else size / plain for size in loops]
    return (
        name, tile, launch.warps, launch.stages, report.registers, report.spills,
        report.spills_in_loops, report.shared, *loops, *ratios,
        report.loops[1] / words if words else None, "; ".join(report.warnings),
    )  # fmt: skip


@click.command()
@click.option("--architecture", default=90, show_default=True, help="Compute capability x 10.")
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--head-dim", default=(64, 128), show_default=True, multiple=True)
@click.option("--block", default=128, show_default=True, help="block_q and block_kv.")
def main(architecture: int, dtype: str, head_dim: tuple[int, ...], block: int) -> None:
    """Compile and print one table."""
    print(f"$ python {shlex.join([sys.argv[0], *sys.argv[1:]])}")
    print(
        f"sm_{architecture}, {dtype}, Python {platform.python_version()}, jax {jax.__version__}, "
        f"triton {triton.__version__}\n"
    )
    rows = []
    for dim in head_dim:
        forward = ours(architecture, dtype, dim, block)["fwd"]
        plain = [peer(forward, stepped=stepped) for stepped in (False, True)]
        reports = [compile_offline(launch, architecture) for launch in plain]
        report = min(reports, key=lambda report: report.loops[0])
        rows.append(row(f"plain flash, {dim}", plain[0], report, report.loops[0], 0))
        words = 0
        for name, masks in itertools.product(DIRECTIONS, MASKS):
            launch = ours(architecture, dtype, dim, block, masks)[name]
            found = compile_offline(launch, architecture)
            words = found.loops[1] if masks == "words" else words
            base = report.loops[0] if name == "fwd" else 0
            rows.append(row(f"{name}, {dim}, {masks}", launch, found, base, words))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    headers = [
        "kernel, head_dim, masks", "tile", "warps", "stages", "registers", "spilled B",
        "spills in loops", "shared B", "full", "partial", "full / plain", "partial / plain",
        "partial / words", "warnings",
    ]  # fmt: skip
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
