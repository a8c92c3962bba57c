"""Static cost of the TPU kernels beside JAX splash's and tokamax's; needs libtpu, and no TPU.

    python benchmarks/tpu.py measure v6e:2x2 > v6e.jsonl    # compiles; several minutes per chip
    python benchmarks/tpu.py table v5e.jsonl v6e.jsonl      # Markdown

Every kernel is compiled ahead of time by the real compiler, and its final schedule is read (see
`tpu_schedule`). A total is blocks x cycles of their path + steps x overhead + rows x cost of a row,
per head, with the counts of the compiled plan; transfers are counted apart, not timed. Splash and
tokamax are given their better way: masks computed from positions where that is possible (causal,
window), else stored blocks.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import tpu_schedule
from tabulate import tabulate

from maskc import Causal, Documents, Local, Mask, Prefix, compile_mask
from maskc_cache.plan import BlockLists

SIZES = [(512, 512, 128), (512, 1024, 128), (1024, 1024, 128), (512, 512, 64), (512, 512, 256)]
PEERS = ("JAX splash", "tokamax")


class Load(NamedTuple):
    """A mask to model; `stored` if no kernel can compute it from positions."""

    name: str
    length: int
    mask: Mask
    stored: bool


def loads() -> list[Load]:
    """The masks of the modelled totals."""
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, 1024), 31, replace=False)) * 128
    packed = Documents(np.concatenate([[0], cuts, [131072]]))
    return [
        Load("causal 32k", 32768, Causal(), stored=False),
        Load("window 4096 of 128k", 131072, Local(left=4095, right=0), stored=False),
        Load("32 documents, causal, 128k", 131072, packed & Causal(), stored=True),
        Load("prefix-LM 32k", 32768, Causal() | Prefix(8192), stored=True),
    ]


class Counts(NamedTuple):
    """What a pass does under a mask, per head.

    Attributes:
        full: blocks without mask.
        partial: blocks with one.
        rows: rows.
        grid: steps of a grid as wide as the fullest row (splash).
        fetched: blocks of the other side that are fetched, in the order of our list.
    """

    full: int
    partial: int
    rows: int
    grid: int
    fetched: int

    @classmethod
    def of(cls, lists: BlockLists) -> "Counts":
        """Of the lists of one pass."""
        full, partial = np.diff(lists.full_ptr), np.diff(lists.partial_ptr)
        rows = range(len(full))
        columns = np.concatenate(
            [
                part
                for row in rows
                for part in (
                    lists.full_idx[slice(*lists.full_ptr[row : row + 2])],
                    lists.partial_idx[slice(*lists.partial_ptr[row : row + 2])],
                )
            ]
        )
        fetched = 1 + int(np.count_nonzero(np.diff(columns)))
        grid = len(full) * int((full + partial).max())
        return cls(int(full.sum()), int(partial.sum()), len(full), grid, fetched)


@click.group()
def main() -> None:
    """Measure, then print."""


@main.command()
@click.argument("topology")
def measure(topology: str) -> None:
    """Compile all kernels for TOPOLOGY; one line of JSON each."""
    with tempfile.TemporaryDirectory(prefix="maskc_tpu_") as folder:
        os.environ |= {
            "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            # Small operands moved into VMEM by XLA would make kernels of different sizes differ.
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} {tpu_schedule.FLAGS}"
            " --xla_vf_vmem_memory_space_assignment=false"
            " --xla_gf_vmem_memory_space_assignment=false",
        }  # fmt: skip
        from jax.experimental import topologies
        from jax.sharding import (
            AbstractDevice,
            AbstractMesh,
            SingleDeviceSharding,
            use_abstract_mesh,
        )

        device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
        kind = AbstractDevice(device.device_kind, device.num_cores, device.platform)
        mesh = AbstractMesh((1,), ("_",), abstract_device=kind)
        chip, place = topology.split(":", maxsplit=1)[0], SingleDeviceSharding(device)
        for key, programs in cases():
            ready = programs()
            with use_abstract_mesh(mesh):
                costs = [
                    cost for program in ready
                    for cost in compiled(program, place, Path(folder), chip).items()
                ]  # fmt: skip
            print(json.dumps({"chip": chip, **key, "costs": dict(costs)}), flush=True)


def cases() -> Iterator[tuple[dict[str, Any], Any]]:
    """What to compile: who, which blocks, which way."""
    import functools

    import tpu_kernels as kernels

    makers: list[tuple[str, Any, list[dict[str, bool]]]] = [
        ("ours", kernels.ours,
         [{"backward": False}, {"backward": False, "bounded": True}, {"backward": True},
          {"backward": True, "bounded": True}]),
        ("JAX splash", kernels.jax_splash,
         [{"backward": False}, {"backward": False, "stored": True}, {"backward": True},
          {"backward": True, "fused": True}]),
        ("tokamax", kernels.tokamax_splash,
         [{"backward": False}, {"backward": False, "stored": True}, {"backward": True}]),
    ]  # fmt: skip
    for sizes in SIZES:
        for who, make, ways in makers:
            for way in ways:
                key = {"who": who, "sizes": sizes, **way}
                yield key, functools.partial(make, kernels.Blocks(*sizes), **way)


def compiled(program: Any, place: Any, dump: Path, chip: str) -> dict[str, dict[str, int]]:
    """Costs of every kernel of a program."""
    import jax

    for path in dump.iterdir():
        path.unlink()
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), program.arguments
    )
    jitted = jax.jit(program.function)
    try:
        jitted.trace(*arguments).lower(lowering_platforms=("tpu",)).compile()
    except Exception as error:  # a peer that does not compile is a result
        return {"error": {str(error).splitlines()[0][:200]: 0}}
    return {
        name: asdict(tpu_schedule.read(dump, name, chip)) for name in tpu_schedule.kernels(dump)
    }


@main.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
def table(files: tuple[Path, ...]) -> None:
    """Print what `measure` wrote to FILES as Markdown."""
    records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    names = ("jax", "libtpu", "tokamax")
    print(f"Versions: {', '.join(f'{name} {version(name)}' for name in names)}.\n")
    print("### Cycles of one block, bfloat16\n")
    print(tabulate(list(paths(records)), headers="keys", tablefmt="github", intfmt=","))
    print("\n### Modelled totals, thousands of cycles per head\n")
    print(tabulate(list(totals(records)), headers="keys", tablefmt="github", intfmt=","))


def passes(record: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The kernels of a record by pass; the forward pass of a backward record is left out."""
    found = {}
    for name, costs in record["costs"].items():
        # One kernel for all gradients walks the list of dkv, whoever's it is.
        gradients = "dkv" if "backward" in name else "forward"
        which = next((part for part in ("dkv", "dq") if part in name), gradients)
        if record["backward"] == (which != "forward"):
            found[which] = costs
    return found


def paths(records: list[dict[str, Any]]) -> Iterator[dict[str, object]]:
    """A row per kernel."""
    for record in sorted(records, key=lambda r: (r["chip"], r["sizes"], r["backward"])):
        q, kv, head_dim = record["sizes"]
        way = " stored" * record.get("stored", False) + " fused" * record.get("fused", False)
        row = {"chip": record["chip"], "q x kv": f"{q} x {kv}", "head_dim": head_dim}
        for which, cost in passes(record).items():
            yield row | {
                "pass": which, "kernel": record["who"] + way, "full": cost["full"],
                "partial": cost["partial"], "step": cost["step"], "row": cost["row"],
                "matrix unit": cost["matrix"], "of it": round(cost["matrix"] / cost["full"], 2),
                "spills": cost["spills"], "VMEM kB": cost["vmem"] // 1024,
            }  # fmt: skip
        if "error" in record["costs"]:
            yield row | {
                "kernel": record["who"] + way,
                "pass": next(iter(record["costs"]["error"])),
            }


def totals(records: list[dict[str, Any]]) -> Iterator[dict[str, object]]:
    """A row per mask, blocking and chip."""
    for load in loads():
        for q, kv, head_dim in SIZES:
            if head_dim != 128:
                continue
            plan = compile_mask(load.mask, q_len=load.length, block_q=q, block_kv=kv)
            counts = {"forward": Counts.of(plan.fwd), "dq": Counts.of(plan.dq)}
            counts["dkv"] = Counts.of(plan.dkv)
            measured = {r["chip"] for r in records if r["sizes"] == [q, kv, head_dim]}
            for chip in sorted(measured):
                yield {
                    "chip": chip, "mask": load.name, "q x kv": f"{q} x {kv}",
                    **compared(records, (chip, [q, kv, head_dim]), counts, stored=load.stored),
                    "K/V fetched, MB": counts["forward"].fetched * kv * head_dim * 4 // 10**6,
                }  # fmt: skip


def compared(
    records: list[dict[str, Any]],
    where: tuple[str, list[int]],
    counts: dict[str, Counts],
    *,
    stored: bool,
) -> dict[str, object]:
    """Totals of all three and how many times ours the peers' are."""
    row: dict[str, object] = {}
    for backward in (False, True):
        short = "backward" if backward else "forward"
        least: dict[str, float] = {}
        for record in records:
            same = (record["chip"], record["sizes"], record["backward"]) == (*where, backward)
            ready = passes(record)
            if not same or not ready:
                continue
            # Gradients were compiled with computed masks only, which flatters the peers.
            if not backward and record["who"] in PEERS and record.get("stored", False) != stored:
                continue
            cycles = sum(total(record["who"], cost, counts[key]) for key, cost in ready.items())
            least[record["who"]] = min(cycles, least.get(record["who"], cycles))
        row[short] = round(least["ours"] / 1e3)
        for peer in PEERS:
            if peer in least:
                row[f"{peer} {short}"] = f"{least[peer] / least['ours']:.2f}x"
    return row


def total(who: str, cost: dict[str, int], counts: Counts) -> int:
    """Cycles of a pass; splash's grid has empty steps."""
    steps = counts.grid if who == "JAX splash" else counts.full + counts.partial
    return (
        counts.full * cost["full"] + counts.partial * cost["partial"]
        + steps * cost["step"] + counts.rows * cost["row"]
    )  # fmt: skip


if __name__ == "__main__":
    main()
