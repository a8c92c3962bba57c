"""Time of one compiled program against the number of documents in its batch.

    python benchmarks/segments.py --length 4096 --block 128 --heads 4 --head-dim 64

The plan is causal and stays the same; segment ids are an argument, new in every batch. Whole blocks
between documents are skipped on the device, so time falls with the number of documents. "dense" is
`jax.nn.dot_product_attention` with the same mask as a bool array. Every figure is the fastest of
`--repeats` runs after one warm-up.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_runtime import PlanView, attention

DOCUMENTS = (1, 2, 4, 8, 16, 32)


def ids_of(documents: int, batch: int, length: int) -> jax.Array:
    """Documents of random lengths, other ones in each batch row."""
    rng = np.random.default_rng(documents)
    rows = [
        np.searchsorted(np.sort(rng.integers(1, length, documents - 1)), np.arange(length), "right")
        for _ in range(batch)
    ]
    return jnp.asarray(np.stack(rows), jnp.int32)


def dense(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
    """The peer, in our layout."""
    mask = (ids[:, None, :, None] == ids[:, None, None]) & jnp.tril(
        jnp.ones((q.shape[2], k.shape[2]), bool)
    )
    turned = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    return jax.nn.dot_product_attention(*turned, mask=mask).transpose(0, 2, 1, 3)


def with_gradients(attend: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Forward and backward of the sum of the output."""
    return jax.jit(jax.grad(lambda q, k, v, *rest: attend(q, k, v, *rest).sum(), (0, 1, 2)))


def fastest(function: Callable[[], Any], repeats: int) -> float:
    """Seconds, the smallest of `repeats` runs after a warm-up."""
    jax.block_until_ready(function())
    seconds = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        seconds = min(seconds, time.perf_counter() - started)
    return seconds


@click.command()
@click.option("--length", default=4096, show_default=True, help="q_len and kv_len.")
@click.option("--block", default=128, show_default=True, help="block_q and block_kv.")
@click.option("--batch", default=2, show_default=True)
@click.option("--heads", default=4, show_default=True)
@click.option("--head-dim", default=64, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(length: int, block: int, batch: int, heads: int, head_dim: int, repeats: int) -> None:
    """Measure and print one table."""
    print(f"$ python {shlex.join([sys.argv[0], *sys.argv[1:]])}")
    print(
        f"{platform.machine()} {jax.default_backend()}, {os.cpu_count()} CPU cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, jax {jax.__version__}\n"
    )
    rng = np.random.default_rng(0)
    shape = (batch, heads, length, head_dim)
    q, k, v = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(3))
    plan = compile_mask(Causal(), q_len=length, heads=heads, block_q=block, block_kv=block)
    view = jax.device_put(PlanView.from_plan(plan))

    def ours(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array | None) -> jax.Array:
        return attention(q, k, v, view, segment_ids=ids)

    functions = [jax.jit(ours), with_gradients(ours), jax.jit(dense), with_gradients(dense)]
    rows: list[tuple[Any, ...]] = []
    for documents in (None, *DOCUMENTS):
        ids = None if documents is None else ids_of(documents, batch, length)
        timed = functions[: 2 if ids is None else 4]
        times = [
            1e3 * fastest(lambda run=run, ids=ids: run(q, k, v, ids), repeats) for run in timed
        ]
        rows.append(("no ids" if documents is None else documents, *times))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    headers = ["documents", "fwd ms", "fwd+bwd ms", "dense fwd ms", "dense fwd+bwd ms"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
