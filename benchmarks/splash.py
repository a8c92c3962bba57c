"""Splash tables: `maskc.splash.process_mask` against JAX's, from the same masks.

    python benchmarks/splash.py
    python benchmarks/splash.py --lengths 8192,32768,131072

Milliseconds from a `MultiHeadMask` to its forward tables, without the cache in front of JAX's: ours
is the fastest of 5 calls in a warm process, JAX's is one call. Both tables are compared.
"""

import platform
import timeit
from collections.abc import Callable
from typing import Any

import click
import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as jax_masks
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as jax_info
from tabulate import tabulate

from maskc import splash
from maskc.jit import compile_all

Build = Callable[[Any, tuple[int, int]], Any]


def documents(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Packed documents, causal, as a dense array."""
    random = np.random.default_rng(0)
    ids = np.sort(random.integers(0, shape[0] // 2000, shape[0]))
    return np.equal.outer(ids, ids) & np.tri(*shape, dtype=np.bool_)


MASKS: dict[str, Build] = {
    "causal": lambda m, shape: m.CausalMask(shape),
    "window 1024": lambda m, shape: m.LocalMask(shape, (1023, 0), 0),
    "chunks of 8192": lambda m, shape: m.ChunkedCausalMask(shape, 8192),
    "causal & window": lambda m, shape: m.CausalMask(shape) & m.LocalMask(shape, (1023, None), 0),
    "documents, dense": lambda m, shape: m.NumpyMask(documents(shape)),
}


def heads(module: Any, build: Build, length: int, count: int) -> Any:
    """One mask for all heads."""
    return module.MultiHeadMask([build(module, (length, length))] * count)


def row(name: str, length: int, block: int, count: int) -> dict[str, object]:
    """One mask at one length."""
    ours, theirs = (heads(m, MASKS[name], length, count) for m in (splash, jax_masks))
    uncached = jax_info.process_mask.func.__wrapped__
    found: list[Any] = []
    jax_time = timeit.timeit(
        lambda: found.append(uncached(theirs, (block, block), is_dkv=False)), number=1
    )
    info, _ = splash.process_mask(ours, (block, block))
    for a, b in zip(info, found[0][0], strict=True):
        np.testing.assert_array_equal(a, b)
    time = min(timeit.repeat(lambda: splash.process_mask(ours, (block, block)), number=1, repeat=5))
    return {
        "mask": name,
        "length": f"{length:,}",
        "ours ms": f"{1e3 * time:.2f}",
        "JAX ms": f"{1e3 * jax_time:.0f}",
        "ratio": f"{jax_time / time:,.0f}",
    }


@click.command()
@click.option("--lengths", default="8192,32768")
@click.option("--block", default=512)
@click.option("--heads", "count", default=8)
def main(lengths: str, block: int, count: int) -> None:
    """Print one row for each mask and length."""
    print(f"{platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}")
    print(f"{count} heads of one mask, block {block}")
    compile_all()
    rows = [row(name, int(n), block, count) for n in lengths.split(",") for name in MASKS]
    print(
        tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True, stralign="right")
    )


if __name__ == "__main__":
    main()
