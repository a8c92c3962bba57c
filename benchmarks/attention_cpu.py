"""Time of block-sparse attention against the density of the mask, next to dense attention.

    python benchmarks/attention_cpu.py --length 4096 --block 256 --heads 4 --head-dim 64

One process, one device, fp32 unless told otherwise. Dense is `jax.nn.dot_product_attention` with
the same mask as a bool array. Every figure is the fastest of `--repeats` runs after one warm-up;
the peers take turns, so that a busy machine hurts both.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from maskc.compile import compile_mask
from maskc.expr import Blocks, Causal, Documents, Full, Local, Mask, Prefix, Random
from maskc_runtime import PlanView, attention

if TYPE_CHECKING:
    from maskc_cache.plan import Plan

Attend = Callable[..., jax.Array]
SHARES = (0.5, 0.25, 0.1)


def masks(length: int, block: int) -> dict[str, Mask]:
    """What is measured, from dense to sparse."""
    rng = np.random.default_rng(0)
    tiles = rng.random((-(-length // block), -(-length // block)))
    documents = Documents(np.arange(0, length + 1, length // 8))
    return {
        "full": Full(),
        "causal": Causal(),
        "random elements 50%": Random(0.5, seed=0),
        **{f"random blocks {share:.0%}": Blocks(tiles < share, block) for share in SHARES},
        "packed documents, causal (8)": documents & Causal(),
        f"window {length // 8}": Local(left=length // 8, right=0),
        "window + sinks": Local(left=length // 16, right=0) | (Prefix(4) & Causal()),
        f"window {length // 64}": Local(left=length // 64, right=0),
    }


def block_density(plan: Plan) -> float:
    """Share of blocks of the forward pass that are not empty."""
    rows, cols = plan.grid("fwd")
    return (len(plan.fwd.full_idx) + len(plan.fwd.partial_idx)) / (plan.masks * rows * cols)


def fastest(functions: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Seconds of each function, the smallest of `repeats` rounds after a warm-up."""
    for function in functions:
        jax.block_until_ready(function())
    seconds = [float("inf")] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            started = time.perf_counter()
            jax.block_until_ready(function())
            seconds[index] = min(seconds[index], time.perf_counter() - started)
    return seconds


def with_gradients(attend: Attend) -> Attend:
    """Forward and backward of the sum of the output."""

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, *rest: Any) -> jax.Array:
        return attend(q, k, v, *rest).astype(jnp.float32).sum()

    return jax.grad(loss, (0, 1, 2))


def dense(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """The peer, in our layout."""
    turned = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    return jax.nn.dot_product_attention(*turned, mask=mask).transpose(0, 2, 1, 3)


def print_facts() -> None:
    """The exact command and the machine."""
    shown = [sys.argv[0], *sys.argv[1:]]
    print(f"$ python {shlex.join(shown)}")
    print(
        f"{platform.machine()} {jax.default_backend()}, {os.cpu_count()} CPU cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, jax {jax.__version__}\n"
    )


@click.command()
@click.option("--length", default=4096, show_default=True, help="q_len and kv_len.")
@click.option("--block", default=256, show_default=True, help="block_q and block_kv.")
@click.option("--heads", default=4, show_default=True)
@click.option("--kv-heads", default=4, show_default=True)
@click.option("--head-dim", default=64, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(
    length: int, block: int, heads: int, kv_heads: int, head_dim: int, dtype: str, repeats: int
) -> None:
    """Measure and print one table."""
    print_facts()
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal((1, count, length, head_dim)), dtype)
        for count in (heads, kv_heads, kv_heads)
    )
    sparse_fwd, sparse_all = jax.jit(attention), jax.jit(with_gradients(attention))
    dense_fwd, dense_all = jax.jit(dense), jax.jit(with_gradients(dense))
    rows = []
    for name, mask in masks(length, block).items():
        plan = compile_mask(mask, q_len=length, heads=heads, block_q=block, block_kv=block)
        view, dense_mask = jax.device_put(PlanView.from_plan(plan)), jnp.asarray(plan.to_dense())
        dense_mask = dense_mask[None, None]
        ours, theirs, ours_all, theirs_all = fastest(
            [
                lambda view=view: sparse_fwd(q, k, v, view),
                lambda mask=dense_mask: dense_fwd(q, k, v, mask),
                lambda view=view: sparse_all(q, k, v, view),
                lambda mask=dense_mask: dense_all(q, k, v, mask),
            ],
            repeats,
        )
        share = float(dense_mask.mean())
        fwd, every = (ours * 1e3, theirs * 1e3), (ours_all * 1e3, theirs_all * 1e3)
        rows.append(
            (name, share, block_density(plan), *fwd, theirs / ours, *every, theirs_all / ours_all)
        )
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    headers = [
        "mask", "elements", "blocks", "fwd ms", "dense fwd ms", "ratio", "fwd+bwd ms",
        "dense fwd+bwd ms", "ratio",
    ]  # fmt: skip
    formats = ("", ".1%", ".1%", ".1f", ".1f", ".2f", ".1f", ".1f", ".2f")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=formats))


if __name__ == "__main__":
    main()
