"""Speed of the GPU kernels next to FlexAttention, cuDNN and dense Triton flash, on the same GPU.

    python benchmarks/gpu.py --write docs/gpu-benchmarks.md     # on a machine with a GPU
    python benchmarks/gpu.py --dry-run                          # anywhere

TFLOP/s count the multiplications of scores that the mask allows and no others: 4 x head_dim per
score forward, 10 x head_dim backward. Every figure is the best of `--repeats` rounds; in a round
the peers take turns. Peers that are not installed, or that cannot say a mask, have no figure.

A dry run measures nothing. It makes every plan, checks at a short length that FlexAttention is
given the same mask, traces forward and backward, compiles the kernels for `--architecture`, and
prints the same table with the peers' share left out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import importlib.util
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from gpu_compile import peer
from gpu_masks import Case, cases
from tabulate import tabulate

from maskc.compile import compile_mask
from maskc_kernels import AttentionTables, BlockTable
from maskc_kernels.gpu import block_sparse_attention
from maskc_kernels.gpu.launch import Launch, launch, using
from maskc_kernels.gpu.offline import DEVICES, compile_offline, launches

if TYPE_CHECKING:
    from maskc_cache.plan import Plan

BLOCK = 128
SHORT = 2048  # tokens at which masks are compared
PASSES = {"fwd": 4, "bwd": 10}
"""Floating-point operations per allowed score and element of head_dim."""

Run = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """What all peers compute.

    Attributes:
        batch: batch entries.
        heads: of queries.
        kv_heads: of keys.
        length: q_len and kv_len.
        head_dim: of q, k and v.
    """

    batch: int
    heads: int
    kv_heads: int
    length: int
    head_dim: int

    def arrays(self) -> list[jax.ShapeDtypeStruct]:
        """q, k, v and dout."""
        sizes = (self.heads, self.kv_heads, self.kv_heads, self.heads)
        return [
            jax.ShapeDtypeStruct((self.batch, n, self.length, self.head_dim), jnp.bfloat16)
            for n in sizes
        ]


def plan_of(case: Case, *, row_bounds: bool = False) -> Plan:
    """With square blocks."""
    return compile_mask(
        case.mask, q_len=case.length, block_q=BLOCK, block_kv=BLOCK, row_bounds=row_bounds
    )


def allowed(plan: Plan) -> int:
    """Scores of one head that the mask allows."""
    full = len(plan.fwd.full_idx) * plan.fwd.block_q * plan.fwd.block_kv
    bits = plan.fwd.unpacked_blocks().sum((1, 2))
    return int(full + bits[plan.fwd.partial_id].sum())


def same_mask(case: Case) -> bool:
    """Whether FlexAttention's function says what the plan says, for every score."""
    at = np.arange(case.length)
    grid = case.flex(np.asarray)(0, 0, at[:, None], at[None, :])
    return bool((np.broadcast_to(grid, (case.length,) * 2) == plan_of(case).to_dense()).all())


def tables_of(plan: Plan, heads: int) -> AttentionTables:
    """For any number of heads with one mask."""
    lists = [BlockTable.from_lists(plan.lists(name)) for name in ("fwd", "dq", "dkv")]
    sides = (plan.row_bounds.q, plan.row_bounds.kv) if plan.row_bounds else ()
    return AttentionTables(np.zeros(heads, np.int32), *lists, *sides)


def forward_and_backward(
    attend: Callable[..., Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """From a function of q, k and v: itself, and one of q, k, v and dout with its gradients."""

    def backward(q: Any, k: Any, v: Any, dout: Any) -> Any:
        return jax.vjp(attend, q, k, v)[1](dout)

    return attend, backward


def ours(plan: Plan, shape: Shape) -> Callable[..., Any]:
    """Maskc."""
    tables = tables_of(plan, shape.heads)
    scale = shape.head_dim**-0.5

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return block_sparse_attention(q, k, v, jnp.float32(scale), tables)[0]

    return attend


def cudnn(case: Case) -> Callable[..., Any]:
    """CuDNN through JAX, which has heads behind the length."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        turned = (x.swapaxes(1, 2) for x in (q, k, v))
        out = jax.nn.dot_product_attention(*turned, implementation="cudnn", **(case.cudnn or {}))
        return out.swapaxes(1, 2)

    return attend


def dense_flash(what: Launch, *, stepped: bool) -> Callable[..., Any]:
    """Plain Triton flash attention without a mask, in the tile of our forward kernel."""
    plain = peer(what, stepped=stepped)
    q = what.operands[0]
    programs = (q.shape[2] // plain.constants["c"].tile_q) * q.shape[0] * q.shape[1]

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scale = jnp.float32(q.shape[-1] ** -0.5)
        what = dataclasses.replace(plain, operands=(q, k, v, scale), programs=programs)
        return launch(what)[0]

    return attend


def flex(case: Case, shape: Shape) -> tuple[Run, Run]:
    """PyTorch's FlexAttention, compiled; its mask is made once and not timed."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device = torch.device("cuda")
    q, k, v, dout = (
        torch.randn(x.shape, dtype=torch.bfloat16, device=device, requires_grad=i < 3)
        for i, x in enumerate(shape.arrays())
    )
    mod = case.flex(lambda array: torch.as_tensor(array, device=device))
    block_mask = torch.compile(create_block_mask)(
        mod, None, None, shape.length, shape.length, device=device
    )
    compiled = torch.compile(flex_attention)
    gqa = shape.heads != shape.kv_heads

    def forward() -> Any:
        with torch.no_grad():
            out = compiled(q, k, v, block_mask=block_mask, enable_gqa=gqa)
        torch.cuda.synchronize()
        return out

    out = compiled(q, k, v, block_mask=block_mask, enable_gqa=gqa)

    def backward() -> Any:
        gradients = torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
        torch.cuda.synchronize()
        return gradients

    return forward, backward


def jax_runs(attend: Callable[..., Any], shape: Shape, calls: int = 1) -> dict[str, Run]:
    """Compiled forward and backward of a JAX function on random inputs."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dout = (
        jax.random.normal(key, x.shape, x.dtype)
        for key, x in zip(keys, shape.arrays(), strict=True)
    )
    forward = jax.jit(attend)
    pullback = jax.jit(lambda q, k, v: jax.vjp(attend, q, k, v)[1])(q, k, v)
    backward = jax.jit(lambda pullback, dout: pullback(dout))

    def repeat(run: Run) -> Run:
        return lambda: jax.block_until_ready([run() for _ in range(calls)])

    return {
        "fwd": repeat(lambda: forward(q, k, v)),
        "bwd": repeat(lambda: backward(pullback, dout)),
    }


def fastest(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Seconds of each after a warm-up; they take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def measured(case: Case, shape: Shape, plan: Plan, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds by direction and peer."""
    attend = ours(plan, shape)
    runs = {"maskc": jax_runs(attend, shape)}
    if case.cudnn is not None:
        runs["cuDNN"] = jax_runs(cudnn(case), shape)
    found: dict[str, Launch] = {}
    architecture = round(10 * float(jax.devices("cuda")[0].compute_capability))
    if architecture in DEVICES:
        found = launches(architecture, attend, *shape.arrays()[:3])
        keys = jax.random.split(jax.random.key(0), 3)
        inputs = [
            jax.random.normal(key, x.shape, x.dtype)
            for key, x in zip(keys, shape.arrays()[:3], strict=True)
        ]
        for stepped in (False, True):
            dense = jax.jit(dense_flash(found["fwd"], stepped=stepped))
            runs[f"dense {stepped}"] = {
                "fwd": lambda dense=dense: jax.block_until_ready(dense(*inputs))
            }
    if importlib.util.find_spec("torch"):
        runs["Flex"] = dict(zip(("fwd", "bwd"), flex(case, shape), strict=True))
    found_seconds = {
        name: fastest({peer: run[name] for peer, run in runs.items() if name in run}, repeats)
        for name in PASSES
    }
    for times in found_seconds.values():
        dense_times = [times.pop(name) for name in list(times) if name.startswith("dense ")]
        if dense_times:
            times["dense Triton"] = min(dense_times)
    return found_seconds


_COMPILED: set[tuple[Any, ...]] = set()


def check_compiles(what: Launch, architecture: int) -> None:
    """Compile a kernel offline, once; masks share kernels."""
    types = tuple(x.dtype for x in what.operands)
    key = (what.kernel.fn.__name__, *what.constants.items(), *types, what.warps, what.stages)
    if key in _COMPILED:
        return
    report = compile_offline(what, architecture)
    if report.warnings or report.spills_in_loops:
        raise click.ClickException(f"{what.kernel.fn.__name__}: {report}")
    _COMPILED.add(key)


def rehearsed(
    _case: Case, shape: Shape, plan: Plan, architecture: int
) -> dict[str, dict[str, float]]:
    """Everything but the measurement: traces, lowers and compiles."""
    attend = ours(plan, shape)
    forward, backward = forward_and_backward(attend)
    found = launches(architecture, forward, *shape.arrays()[:3])
    found |= launches(architecture, backward, *shape.arrays())
    peers = [peer(found["fwd"], stepped=stepped) for stepped in (False, True)]
    for what in (*found.values(), *peers):
        check_compiles(what, architecture)
    with using(lambda what: tuple(jnp.zeros(x.shape, x.dtype) for x in what.out_type)):
        jax.eval_shape(dense_flash(found["fwd"], stepped=True), *shape.arrays()[:3])
    return {name: {"maskc": float("nan")} for name in PASSES}


def table_rows(
    name: str, shape: Shape, scores: int, seconds: dict[str, dict[str, float]]
) -> list[list[Any]]:
    """One line per direction: TFLOP/s of each peer, and ours over theirs."""
    rows: list[list[Any]] = []
    for direction, times in seconds.items():
        work = PASSES[direction] * shape.head_dim * scores * shape.heads * shape.batch
        dense = PASSES[direction] * shape.head_dim * shape.length**2 * shape.heads * shape.batch
        speeds = {
            peer: (dense if peer == "dense Triton" else work) / value / 1e12
            for peer, value in times.items()
        }
        mine = speeds["maskc"]
        theirs = [speeds.get(peer) for peer in ("Flex", "cuDNN", "dense Triton")]
        ratios = [mine / speed if speed else None for speed in theirs]
        rows.append([name, shape.head_dim, direction, mine, *theirs, *ratios])
    return rows


def versions() -> str:
    """Of what is measured."""
    names = ("jax", "jaxlib", "triton", "jax-triton", "torch")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"Python {platform.python_version()}, " + ", ".join(found)


def device_name() -> str:
    """The first device here."""
    return str(jax.devices()[0].device_kind)


HEADERS = [
    "mask", "head_dim", "pass", "maskc", "Flex", "cuDNN", "dense Triton", "/ Flex", "/ cuDNN",
    "/ dense Triton",
]  # fmt: skip


@click.command()
@click.option("--length", default=8192, show_default=True, help="Tokens.")
@click.option("--heads", default=64, show_default=True)
@click.option("--kv-heads", default=8, show_default=True)
@click.option("--head-dim", default=(64, 128), show_default=True, multiple=True)
@click.option("--only", multiple=True, help="Masks by name; default all.")
@click.option("--repeats", default=20, show_default=True)
@click.option("--row-bounds", is_flag=True, help="Mask partial blocks by bounds, where there are.")
@click.option("--dry-run", is_flag=True, help="No GPU: everything but the measurement.")
@click.option("--architecture", default=90, show_default=True, help="Of a dry run.")
@click.option("--write", type=click.Path(path_type=Path), help="Append the table to this file.")
def main(
    length: int,
    heads: int,
    kv_heads: int,
    head_dim: tuple[int, ...],
    only: tuple[str, ...],
    repeats: int,
    row_bounds: bool,
    dry_run: bool,
    architecture: int,
    write: Path | None,
) -> None:
    """Print one table of TFLOP/s."""
    chosen = {name: case for name, case in cases(length).items() if not only or name in only}
    for name, case in cases(SHORT).items():
        if not same_mask(case):
            raise click.ClickException(f"{name}: FlexAttention's function says another mask")
    print(f"{len(cases(SHORT))} masks: FlexAttention is given the same ones", file=sys.stderr)
    if not dry_run and jax.default_backend() != "gpu":
        raise click.ClickException("no GPU here; see --dry-run")
    measure = (
        functools.partial(rehearsed, architecture=architecture)
        if dry_run
        else functools.partial(measured, repeats=repeats)
    )
    rows = []
    for name, case in chosen.items():
        for dim in head_dim:
            shape = Shape(1, heads, kv_heads, case.length, dim)
            plan = plan_of(case, row_bounds=row_bounds)
            rows += table_rows(name, shape, allowed(plan), measure(case, shape, plan))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    where = f"dry run, nothing measured, sm_{architecture}" if dry_run else device_name()
    today = dt.datetime.now(dt.UTC).date().isoformat()
    text = (
        f"`python {shlex.join([sys.argv[0], *sys.argv[1:]])}`: {where}, {today}, {versions()}; "
        f"bfloat16, {heads}:{kv_heads} heads, TFLOP/s.\n\n"
        + tabulate(rows, HEADERS, tablefmt="github", floatfmt=".2f", missingval="")
        + "\n"
    )
    print(text)
    if write:
        with write.open("a") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
