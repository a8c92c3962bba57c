"""What it costs to close over a plan, to pass it as an argument, or to make it static.

    python benchmarks/plan_operands.py --length 32768 --random-length 8192 --block 512

For each plan and form: bytes of HLO text (StableHLO, as JAX hands it to XLA), seconds to trace and
lower, and seconds to compile, of the gradients of `attention` in q, k and v. Nothing is run.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from maskc.compile import compile_mask
from maskc.expr import Causal, Documents, Mask, Random
from maskc_runtime import PlanView, attention

FORMS = ("argument", "closure", "static")


def gradients(q: jax.Array, k: jax.Array, v: jax.Array, plan: PlanView) -> Any:
    """What is lowered: forward and backward."""
    return jax.grad(lambda *qkv: attention(*qkv, plan).sum(), (0, 1, 2))(q, k, v)


def measure(view: PlanView, form: str, heads: int, head_dim: int) -> tuple[int, float, float]:
    """Bytes of HLO text, seconds to lower, seconds to compile."""
    q = jax.ShapeDtypeStruct((1, heads, view.q_len, head_dim), jnp.float32)
    jax.clear_caches()  # or the second form would reuse what the first one traced
    started = time.perf_counter()
    if form == "closure":
        lowered = jax.jit(lambda *qkv: gradients(*qkv, view)).lower(q, q, q)
    else:
        static = (3,) if form == "static" else ()
        lowered = jax.jit(gradients, static_argnums=static).lower(q, q, q, view)
    seconds = time.perf_counter() - started
    size = len(lowered.as_text())
    started = time.perf_counter()
    lowered.compile()
    return size, seconds, time.perf_counter() - started


def packed_documents(length: int) -> Mask:
    """Documents of uneven lengths, from 1/64 to 1/8 of the whole, that fill it."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 64, length // 8, 64)
    ends = np.cumsum(lengths)
    return Documents(np.concatenate([[0], ends[ends < length], [length]])) & Causal()


@click.command()
@click.option("--length", default=32768, show_default=True, help="Of causal and documents.")
@click.option("--random-length", default=8192, show_default=True, help="Of the random mask.")
@click.option("--block", default=512, show_default=True, help="block_q and block_kv.")
@click.option("--heads", default=4, show_default=True)
@click.option("--head-dim", default=64, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="The fastest counts.")
def main(
    length: int, random_length: int, block: int, heads: int, head_dim: int, repeats: int
) -> None:
    """Measure and print one table."""
    print(f"$ python {shlex.join([sys.argv[0], *sys.argv[1:]])}")
    print(
        f"{platform.machine()} {jax.default_backend()}, {os.cpu_count()} CPU cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, jax {jax.__version__}\n"
    )
    cases = {
        f"causal {length:,}": (Causal(), length),
        f"packed documents {length:,}": (packed_documents(length), length),
        f"random 50% {random_length:,}": (Random(0.5, seed=0), random_length),
    }
    rows = []
    for name, (mask, size) in cases.items():
        view = PlanView.from_plan(
            compile_mask(mask, q_len=size, heads=heads, block_q=block, block_kv=block)
        )
        for form in FORMS:
            runs = [measure(view, form, heads, head_dim) for _ in range(repeats)]
            text, lower, compiled = (min(column) for column in zip(*runs, strict=True))
            rows.append((name, f"{view.nbytes:,}", form, f"{text:,}", lower, compiled))
    headers = ["plan", "table bytes", "form", "HLO text bytes", "lower s", "compile s"]
    aligned = ("left", "right", "left", "right", "right", "right")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".2f", colalign=aligned))


if __name__ == "__main__":
    main()
