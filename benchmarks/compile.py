"""Compile time against the floor and against JAX splash attention, side by side in one process.

    python benchmarks/compile.py --lengths 8192,32768,131072,1048576 --block 512

"ours" is everything from the expression to the plan (canonical form, block lists for fwd and dkv,
and the splash tables), warm. "floor" is the time to allocate and fill arrays of the same sizes.
"jax" is `process_mask` and `process_mask_dkv` without their cache, up to --jax-limit tokens.
"""

import platform
import timeit
from collections.abc import Callable

import click
import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as jax_mask
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as jax_info
from tabulate import tabulate

from maskc import (
    Causal,
    ChunkedCausal,
    Documents,
    Local,
    Mask,
    MultiHead,
    Plan,
    Prefix,
    Random,
    compile_mask,
    run_loops,
    strip_block_loops,
    strip_loops,
)
from maskc.jit import compiled

DENSE_LIMIT = 32768  # tokens up to which masks that are evaluated element by element are timed


def documents(length: int) -> Documents:
    """Packed documents of 2,000 tokens on average, log-normal."""
    random = np.random.default_rng(0)
    ends = np.cumsum(random.lognormal(7.3, 0.8, length // 500).astype(int) + 1)
    return Documents([0, *ends[ends < length].tolist(), length])


def masks(length: int) -> dict[str, Mask]:
    """The masks that are timed at one length."""
    packed = documents(length)
    four = [Causal(), Local(1023, 0), ChunkedCausal(4096), Causal() & packed]
    chosen: dict[str, Mask] = {
        "causal": Causal(),
        "window 4096": Local(4095, 0),
        "causal & window & documents": Causal() & Local(4095) & packed,
        "documents & (causal | prefix)": packed & (Causal() | Prefix(1024)),
        "sinks + window": Causal() & (Local(4095) | Prefix(4)),
        "chunked 8192": ChunkedCausal(8192),
        "32 heads of 4 masks": MultiHead([four[i % 4] for i in range(32)]),
    }
    if length <= DENSE_LIMIT:
        chosen["random 50%"] = Random(0.5)
    return chosen


def least(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of `repeats` calls."""
    return 1e3 * min(timeit.repeat(work, number=1, repeat=repeats))


def fill(plan: Plan) -> None:
    """The floor: memory of the plan's sizes, written once."""
    for _, array in plan.arrays():
        np.empty_like(array).fill(1)


def jax_twin(name: str, length: int) -> jax_mask.Mask | None:
    """JAX's own mask of the same meaning, where it has one."""
    shape = (length, length)
    match name:
        case "causal":
            return jax_mask.CausalMask(shape)
        case "window 4096":
            return jax_mask.LocalMask(shape, (4095, 0), 0)
        case "chunked 8192":
            return jax_mask.ChunkedCausalMask(shape, 8192)
    return None


def jax_tables(mask: jax_mask.Mask, block: int) -> None:
    """Both directions, without the cache in front of them."""
    for process in (jax_info.process_mask, jax_info.process_mask_dkv):
        process.func.cache_clear()
        process(jax_mask.MultiHeadMask([mask]), (block, block))


@click.command()
@click.option("--lengths", default="8192,32768,131072,1048576", show_default=True)
@click.option("--block", default=512, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="The fastest of so many counts.")
@click.option("--jax-limit", default=32768, show_default=True, help="Longest length for JAX.")
def main(lengths: str, block: int, repeats: int, jax_limit: int) -> None:
    """Print one row per mask and length."""
    for loops in (strip_loops, strip_block_loops, run_loops):
        compiled(loops)  # warm: the first call of a process would import numba
    click.echo(f"python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}")
    rows = []
    for length in map(int, lengths.split(",")):
        for name, mask in masks(length).items():
            shape = {"q_len": length, "block_q": block, "block_kv": block}
            plan = compile_mask(mask, **shape)
            ours = least(lambda m=mask, s=shape: compile_mask(m, **s), repeats)
            floor = least(lambda p=plan: fill(p), repeats)
            twin = jax_twin(name, length) if length <= jax_limit else None
            theirs = least(lambda t=twin: jax_tables(t, block), 1) if twin is not None else None
            rows.append(
                [name, f"{length:,}", f"{ours:.2f}", f"{floor:.3f}", f"{ours / floor:.1f}"]
                + ([f"{theirs:,.0f}", f"{theirs / ours:,.0f}"] if theirs else ["-", "-"])
            )
    headers = ["mask", "length", "ours, ms", "floor, ms", "ours / floor", "jax, ms", "jax / ours"]
    click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
