"""Time to write splash tables from block lists, next to the floor and to JAX.

python benchmarks/tables.py

The floor is the time to allocate and fill arrays of the same shapes and dtypes. JAX's
`process_mask` and `process_mask_dkv` classify the mask too, which here is lowering's work, so the
ratio says what the tables cost beside what they cost there, not how two emitters compare.
"""

import timeit
from collections.abc import Callable
from typing import Literal

import click
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as jax_mask
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as jax_info
from tabulate import tabulate

from maskc import Causal, CompileRequest, Documents, Local, Mask, compile_request
from maskc.blocking import BlockGrid
from maskc.emit import SplashLayout, splash_tables
from maskc_cache.plan import Plan, SplashTables

Direction = Literal["fwd", "dkv"]
DIRECTIONS: tuple[Direction, Direction] = ("fwd", "dkv")
WINDOW, MEAN_DOCUMENT = 4096, 2048
JAX_LENGTH = 8192


def masks(length: int) -> dict[str, Mask]:
    """The masks of the table, for one length."""
    cuts = np.random.default_rng(0).choice(length - 1, length // MEAN_DOCUMENT - 1, replace=False)
    documents = Documents([0, *sorted((cuts + 1).tolist()), length])
    return {
        "causal": Causal(),
        f"window {WINDOW}": Causal() & Local(WINDOW - 1, 0),
        "documents & causal": Causal() & documents,
    }


@click.command()
@click.option("--block", default=512, show_default=True, help="Block size, q and kv.")
@click.option("--repeats", default=10, show_default=True, help="Runs of each; the least counts.")
@click.option("--full/--shrunk", default=False, help="Tables of the whole grid, or shrunk ones.")
def main(block: int, repeats: int, *, full: bool) -> None:
    """Time forward and dkv tables together, in one process."""
    layout = SplashLayout(shrink_grid=not full)
    rows = []
    for length in (JAX_LENGTH, 32768, 131072, 1048576):
        for name, mask in masks(length).items():
            plan = compile_request(
                CompileRequest(mask, length, block_q=block, block_kv=block, splash=False)
            )
            tables = emitted(plan, layout)
            ours = least(repeats, lambda plan=plan: emitted(plan, layout))
            floor = least(repeats, lambda tables=tables: filled(tables))
            theirs = jax_time(mask, length, block) if length == JAX_LENGTH else None
            rows.append(
                [
                    name,
                    f"{length:,}",
                    " ".join("x".join(map(str, t.block_mask.shape[1:])) for t in tables),
                    f"{ours:.3f}",
                    f"{floor:.3f}",
                    f"{ours / floor:.1f}",
                    f"{theirs:,.0f} ({theirs / ours:,.0f}x)" if theirs else "-",
                ]
            )
    headers = ["mask", "length", "fwd and dkv tables", "ms", "floor, ms", "ratio", "JAX, ms"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def emitted(plan: Plan, layout: SplashLayout) -> list[SplashTables]:
    """The tables of both directions, from the lists of a plan."""
    grid = BlockGrid(plan.q_len, plan.kv_len, *plan.fwd.blocks)
    return [splash_tables(plan.lists(d), grid, plan.head_mask, layout, d) for d in DIRECTIONS]


def filled(tables: list[SplashTables]) -> None:
    """Allocate and fill arrays like the tables."""
    for table in tables:
        for like in (table.data_next, table.mask_next, table.block_mask):
            if like is not None:
                np.zeros(like.shape, like.dtype).fill(1)


def jax_time(mask: Mask, length: int, block: int) -> float:
    """Milliseconds of JAX's own functions, past their cache, on the same mask."""
    theirs = jax_mask.MultiHeadMask([jax_masks(mask, length)])
    both = (jax_info.process_mask, jax_info.process_mask_dkv)

    def run() -> None:
        for process in both:
            process.func.__wrapped__(theirs, (block, block), **process.keywords)

    return least(3, run)


def jax_masks(mask: Mask, length: int) -> jax_mask.Mask:
    """The mask in JAX's classes: lazy where JAX has one, dense for documents."""
    if mask == Causal():
        return jax_mask.CausalMask((length, length))
    if mask == masks(length)[f"window {WINDOW}"]:
        return jax_mask.LocalMask((length, length), (WINDOW - 1, 0), 0)
    plan = compile_request(CompileRequest(mask, length, splash=False))
    return jax_mask.NumpyMask(plan.to_dense())


def least(repeats: int, work: Callable[[], object]) -> float:
    """Milliseconds of the fastest run."""
    return min(timeit.repeat(work, number=1, repeat=repeats)) * 1e3


if __name__ == "__main__":
    main()
