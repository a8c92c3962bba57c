"""Compile time against the floor and against splash, tokamax and FlexAttention, in one process.

    python benchmarks/compile.py                       # 8k to 4M tokens; peers at 8k and 32k
    python benchmarks/compile.py --blocks 128,1024 --peers 0

"ours" is everything from the expression to the plan (canonical form, block lists for forward and
dkv, splash tables of both), warm. "floor" is the time to allocate arrays of the plan's sizes, all
of them at once, and to fill them. "memory" is how far resident memory grows beyond the plan's own
arrays, at its peak (on Linux). Peers get the same mask: splash and tokamax their own lazy masks
where they have one, else a dense array, which FlexAttention's mask_mod looks up; they run without
the caches in front of them, and tokamax and FlexAttention only if they are installed.
"""

import importlib.util
import itertools
import operator
import platform
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as info
from masks import CASES, Case
from tabulate import tabulate

from maskc import Mask, MultiHead, Plan, compile_mask
from maskc.jit import compile_all

FLEX = 1 << 14  # tokens up to which FlexAttention is measured: it takes 10 bytes per element
RESET = Path("/proc/self/clear_refs")
ALLOWED = 4.0, 0.2
"""The target: so many times the floor, and so many milliseconds."""


@dataclass(frozen=True)
class Row:
    """What one mask takes at one length and block size, in milliseconds and MB."""

    mask: str
    length: int
    block: int
    ours: float
    floor: float
    memory: float | None
    peers: dict[str, float | None]

    @property
    def met(self) -> bool:
        """Whether the target is."""
        times, constant = ALLOWED
        return self.ours <= times * self.floor + constant


def least(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of `repeats` calls, fewer if one takes seconds."""
    first = timeit.timeit(work, number=1)
    repeats = max(1, min(repeats, int(5 / max(first, 1e-6))))
    return 1e3 * min(first, *timeit.repeat(work, number=1, repeat=repeats))


def fill(plan: Plan) -> list[np.ndarray[Any, Any]]:
    """The floor: memory of the plan's sizes, written once."""
    filled = []
    for _, array in plan.arrays():
        like = np.empty_like(array)
        like.fill(1)
        filled.append(like)
    return filled


def memory(mask: Mask, shape: dict[str, int]) -> float | None:
    """MB that compiling needs beyond the plan at its peak; None where the kernel does not say."""
    if not RESET.exists():
        return None
    RESET.write_text("5")  # the peak is what there is now
    before = resident("VmRSS")
    plan = compile_mask(mask, **shape)
    peak = resident("VmHWM")
    return peak - before - sum(array.nbytes for _, array in plan.arrays()) / 1e6


def resident(field: str) -> float:
    """MB of this process, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def splash_time(case: Case, plan: Plan, block: int) -> float:
    """JAX's `process_mask` and `process_mask_dkv`."""
    shape = (plan.q_len, plan.kv_len)
    if case.twin is not None:
        masks = [case.twin(shape)]
    else:
        unique = [splash.NumpyMask(plan.to_dense(head)) for head in first_heads(plan)]
        masks = [unique[number] for number in plan.head_mask]

    def run() -> None:
        for process in (info.process_mask, info.process_mask_dkv):
            process.func.__wrapped__(
                splash.MultiHeadMask(masks), (block, block), **process.keywords
            )

    return 1e3 * timeit.timeit(run, number=1)


def first_heads(plan: Plan) -> list[int]:
    """For each unique mask a head that has it."""
    return [int(np.argmax(plan.head_mask == mask)) for mask in range(plan.masks)]


def tokamax_time(case: Case, plan: Plan, block: int) -> float | None:
    """Tokamax's `process_mask` and `process_mask_dkv`; it has one mask for all heads."""
    if importlib.util.find_spec("tokamax") is None or plan.masks > 1:
        return None
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks
    from tokamax._src.ops.experimental.tpu.splash_attention import (
        splash_attention_mask_info as tables,
    )

    shape = (plan.q_len, plan.kv_len)
    twin = case.twin(shape) if case.twin is not None else None
    if twin is None:
        mask = masks.NumpyMask(plan.to_dense())
    elif isinstance(twin, splash.LocalMask):
        mask = masks.LocalMask(shape, twin.window_size, 0)
    elif isinstance(twin, splash.ChunkedCausalMask):
        mask = masks.ChunkedCausalMask(shape, twin.chunk_size)
    else:
        mask = masks.CausalMask(shape)

    def run() -> None:
        for process in (tables.process_mask, tables.process_mask_dkv):
            process.func.__wrapped__(mask, (block, block), **process.keywords)

    return 1e3 * timeit.timeit(run, number=1)


def flex_time(plan: Plan, block: int) -> float | None:
    """FlexAttention's `create_block_mask`, which makes both directions."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    dense = [torch.from_numpy(plan.to_dense(head)) for head in first_heads(plan)]
    heads = torch.from_numpy(plan.head_mask.copy())
    whole = torch.stack(dense)

    def allowed(_batch: Any, head: Any, q: Any, kv: Any) -> Any:
        return whole[heads[head], q, kv]

    def run() -> None:
        create_block_mask(
            allowed, None, plan.heads, plan.q_len, plan.kv_len, "cpu", BLOCK_SIZE=block
        )

    return 1e3 * timeit.timeit(run, number=1)


def measured(name: str, case: Case, length: int, block: int, repeats: int, peers: int) -> Row:
    """One mask at one length, in blocks of one size."""
    mask, shape = case.build(length), {"q_len": length, "block_q": block, "block_kv": block}
    plan = compile_mask(mask, **shape)
    ours = least(lambda: compile_mask(mask, **shape), repeats)
    floor = least(lambda: fill(plan), repeats)
    times: dict[str, float | None] = {}
    if length <= min(peers, case.peers):
        times["splash"] = splash_time(case, plan, block)
        times["tokamax"] = tokamax_time(case, plan, block)
        flex = length <= FLEX and not isinstance(mask, MultiHead)
        times["FlexAttention"] = flex_time(plan, block) if flex else None
    return Row(name, length, block, ours, floor, memory(mask, shape), times)


def rows(
    lengths: list[int], blocks: list[int], only: str, repeats: int, peers: int
) -> Iterator[Row]:
    """All rows that were asked for."""
    for length, block in itertools.product(lengths, blocks):
        for name, case in CASES.items():
            if only in name and length <= case.longest and length <= case.grid * block:
                row = measured(name, case, length, block, repeats, peers)
                click.echo(row, err=True)
                yield row


# --- tables -------------------------------------------------------------------------------------


def milliseconds(time: float | None) -> str:
    """Three digits."""
    if time is None:
        return "-"
    return f"{time:,.0f}" if time >= 100 else f"{float(f'{time:.3g}'):g}"


def tokens(length: int) -> str:
    """As in 128k or 1M."""
    return f"{length >> 20}M" if length >= 1 << 20 else f"{length >> 10}k"


def print_table(lines: list[dict[str, str]]) -> None:
    """As docs have it, numbers to the right."""
    click.echo(
        tabulate(
            lines,
            "keys",
            tablefmt="github",
            disable_numparse=True,
            colalign=["left", *["right"] * (len(lines[0]) - 1)],
        )
    )


def print_floors(table: list[Row], block: int) -> None:
    """Ours next to the floor, a column for each length; bold within the target."""
    lengths = sorted({row.length for row in table})
    lines = []
    for mask in dict.fromkeys(row.mask for row in table):
        line = {"mask": mask}
        known = {row.length: row for row in table if (row.mask, row.block) == (mask, block)}
        for length in lengths:
            row = known.get(length)
            ours, floor = (row.ours, row.floor) if row else (None, None)
            bold = "**" if row and row.met else ""
            line[f"{tokens(length)}, ms"] = f"{bold}{milliseconds(ours)}{bold}"
            line[f"floor at {tokens(length)}"] = milliseconds(floor)
        lines.append(line)
    click.echo(f"\nBlocks of {block}: ours, and the floor; bold within {ALLOWED[0]:g} x floor + "
               f"{ALLOWED[1]:g} ms\n")  # fmt: skip
    print_table(lines)


def print_peers(table: list[Row]) -> None:
    """The peers, for each length and block size that they were measured at."""
    for length, block in dict.fromkeys((row.length, row.block) for row in table if row.peers):
        some = [r for r in table if (r.length, r.block) == (length, block) and r.peers]
        there = [peer for peer in some[0].peers if any(r.peers[peer] is not None for r in some)]
        lines = []
        for row in some:
            line = {"mask": row.mask, "ours, ms": milliseconds(row.ours)}
            for peer in there:
                time = row.peers[peer]
                line[f"{peer}, ms"] = milliseconds(time)
                line[f"{peer} / ours"] = "-" if time is None else f"{time / row.ours:,.0f}"
            lines.append(line)
        click.echo(f"\n{tokens(length)} tokens in blocks of {block}, against the peers\n")
        print_table(lines)


def _numbers(_context: click.Context, _option: click.Parameter, text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


@click.command()
@click.option(
    "--lengths", default="8192,32768,131072,1048576,4194304", show_default=True, callback=_numbers
)
@click.option("--blocks", default="512", show_default=True, callback=_numbers)
@click.option("--only", default="", help="Only masks with this in their names.")
@click.option("--repeats", default=20, show_default=True, help="The fastest of so many counts.")
@click.option("--peers", default=32768, show_default=True, help="Longest length for the peers.")
def main(lengths: list[int], blocks: list[int], only: str, repeats: int, peers: int) -> None:
    """Print how long masks take to compile, next to the floor and to the peers."""
    compile_all()  # warm: the first call of a process would import numba
    click.echo(f"python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}")
    table = list(rows(lengths, blocks, only, repeats, peers))
    for block in blocks:
        print_floors(table, block)
    print_peers(table)
    known = [(row.memory, row) for row in table if row.memory is not None]
    for most, row in sorted(known, key=operator.itemgetter(0))[-1:]:
        click.echo(
            f"\nMemory beyond the plan's own arrays: at most {most:,.0f} MB "
            f"({row.mask}, {tokens(row.length)}, blocks of {row.block})"
        )


if __name__ == "__main__":
    main()
