"""Static cost of the TPU kernels beside JAX splash's and tokamax's; needs libtpu, and no TPU.

    python benchmarks/tpu.py measure v6e:2x2 > v6e.jsonl    # compiles; several minutes per chip
    python benchmarks/tpu.py table v5e.jsonl v6e.jsonl      # Markdown

Every kernel is compiled ahead of time by the real compiler, and its final schedule is read (see
`tpu_schedule`). A total is blocks x cycles of their path + steps x overhead + rows x cost of a row,
per head, with the counts of the compiled plan; transfers are counted apart, not timed. Splash and
tokamax are given their better way: masks computed from positions where that is possible (causal,
window), else stored blocks.
"""

import functools
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
from maskc.export import tokamax
from maskc_cache.plan import BlockLists, Plan
from maskc_kernels import BlockTable
from maskc_kernels.tpu.bits import word_rows
from maskc_kernels.tpu.config import ORDERS
from maskc_kernels.tpu.paths import Paths

SIZES = [(512, 512, 128), (512, 1024, 128), (1024, 1024, 128), (512, 512, 64), (512, 512, 256)]
OWN_SIZES = [
    (1024, 512, 128),
    (512, 1024, 64), (1024, 512, 64), (1024, 1024, 64),
    (512, 1024, 256), (1024, 512, 256), (1024, 1024, 256),
]  # fmt: skip
"""More blocks for our kernels, from which to choose (`blocks`)."""

PEERS = ("JAX splash", "tokamax")
WHO = ("ours", *PEERS)
LISTS = {"forward": "fwd", "dq": "dq", "dkv": "dkv"}
GENERATIONS = {"v5e": 5, "v5p": 5, "v6e": 6, "tpu7x": 7}


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
        paths: of the partial blocks, how many take each path of our kernel.
    """

    full: int
    partial: int
    rows: int
    grid: int
    paths: tuple[int, ...]

    @classmethod
    def of(cls, lists: BlockLists, chip: str | None = None) -> "Counts":
        """Of the lists of one pass; with a chip, of the pass that leaves out parts of blocks."""
        full, partial = np.diff(lists.full_ptr), np.diff(lists.partial_ptr)
        grid = len(full) * int((full + partial).max())
        paths = None
        if chip is not None:
            parts = ORDERS[GENERATIONS[chip]].parts
            paths = Paths.of(parts, lists.block_q, lists.block_kv)
        taken = (int(partial.sum()),)
        if paths is not None:
            numbers = np.asarray(paths.numbers(BlockTable.from_lists(lists)))
            entries = paths.table()[numbers & (1 << paths.tiles) - 1]
            taken = tuple(np.bincount(paths.path(entries), minlength=len(paths.counts)).tolist())
        return cls(int(full.sum()), int(partial.sum()), len(full), grid, taken)


def fetched(plan: Plan, head_dim: int, *, stored: bool) -> dict[str, int]:
    """Bytes of K, V and mask blocks that the forward pass fetches per head, by kernel.

    Pallas fetches a block where its index is another than in the step before, and so do we. A
    stored block of splash has 4 bytes per element (its bool becomes int32), of tokamax 1, of ours
    1 bit.
    """
    lists, splash, listed = (
        plan.fwd,
        plan.splash_fwd,
        tokamax.mask_info(plan, downcast_smem_data=False),
    )
    if splash is None or listed.active_cols is None:
        raise ValueError("fetched: the plan has no splash tables")
    spans = [
        [slice(*ptr[row : row + 2]) for ptr in (lists.full_ptr, lists.partial_ptr)]
        for row in range(len(lists.full_ptr) - 1)
    ]
    columns = np.concatenate(
        [
            part
            for full, partial in spans
            for part in (lists.full_idx[full], lists.partial_idx[partial])
        ]
    )
    keys = 2 * 2 * lists.block_kv * head_dim
    element = lists.block_q * lists.block_kv
    bits = 4 * word_rows(lists.block_q) * lists.block_kv

    def changes(*tables: Any) -> list[int]:
        return [0 if t is None else 1 + int(np.count_nonzero(np.diff(t.ravel()))) for t in tables]

    ours, mask = changes(columns, lists.partial_id)
    grid, grid_mask = changes(splash.data_next, splash.mask_next if stored else None)
    flat, flat_mask = changes(listed.active_cols, listed.mask_next if stored else None)
    return {
        "ours": ours * keys + mask * bits,
        "JAX splash": grid * keys + grid_mask * element * 4,
        "tokamax": flat * keys + flat_mask * element,
    }


@click.group()
def main() -> None:
    """Measure, then print."""


@main.command()
@click.argument("topology")
@click.option("--who", multiple=True, help="Whose kernels; all by default.")
@click.option("--blocks", multiple=True, help="Which blocks, like 512x1024x128; all by default.")
@click.option("--forward/--backward", default=None, help="Which pass; both by default.")
def measure(
    topology: str, who: tuple[str, ...], blocks: tuple[str, ...], forward: bool | None
) -> None:
    """Compile kernels for TOPOLOGY; one line of JSON each."""
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
            if key["who"] not in (who or WHO) or "x".join(map(str, key["sizes"])) not in (
                blocks or ["x".join(map(str, sizes)) for sizes in SIZES + OWN_SIZES]
            ):
                continue
            if forward is key["backward"]:
                continue
            ready = programs()
            with use_abstract_mesh(mesh):
                costs = [
                    cost for program in ready
                    for cost in compiled(program, place, Path(folder), chip).items()
                ]  # fmt: skip
            print(json.dumps({"chip": chip, **key, "costs": dict(costs)}), flush=True)


def cases() -> Iterator[tuple[dict[str, Any], Any]]:
    """What to compile: who, which blocks, which way."""
    import tpu_kernels as kernels

    makers: list[tuple[str, Any, list[dict[str, bool]]]] = [
        ("ours", kernels.ours,
         [{"backward": False}, {"backward": False, "bounded": True}, {"backward": True},
          {"backward": True, "bounded": True}, {"backward": True, "fused": True},
          {"backward": True, "fused": True, "bounded": True}]),
        ("JAX splash", kernels.jax_splash,
         [{"backward": False}, {"backward": False, "stored": True}, {"backward": True},
          {"backward": True, "fused": True}]),
        ("tokamax", kernels.tokamax_splash,
         [{"backward": False}, {"backward": False, "stored": True}, {"backward": True}]),
    ]  # fmt: skip
    for sizes in SIZES + OWN_SIZES:
        for who, make, ways in makers:
            for way in ways:
                if sizes in OWN_SIZES and (who != "ours" or way.get("bounded")):
                    continue
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


@main.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
def blocks(files: tuple[Path, ...]) -> None:
    """Print what our kernels in FILES take by blocking, all masks together; * is the least."""
    records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    cycles: dict[tuple[str, int, str], dict[tuple[int, int], int]] = {}
    for record in records:
        if record["who"] != "ours" or record.get("bounded"):
            continue
        q, kv, head_dim = record["sizes"]
        for which, cost in passes(record).items():
            chip = record["chip"] if which == "forward" else None
            counts = [Counts.of(getattr(plan, LISTS[which]), chip) for plan in plans(q, kv)]
            key = record["chip"], head_dim, "fused" if record.get("fused") else which
            cycles.setdefault(key, {})[q, kv] = sum(total("ours", cost, count) for count in counts)
    rows = [
        {"chip": chip, "head_dim": head_dim, "pass": which}
        | {
            f"{q} x {kv}": f"{found[q, kv] / 1e3:,.0f}{'*' * (found[q, kv] == min(found.values()))}"
            for q, kv in sorted(found)
        }
        for (chip, head_dim, which), found in sorted(cycles.items())
    ]
    print(tabulate(rows, headers="keys", tablefmt="github"))


@functools.cache
def plans(block_q: int, block_kv: int) -> list[Plan]:
    """The masks of the modelled totals in these blocks."""
    return [
        compile_mask(load.mask, q_len=load.length, block_q=block_q, block_kv=block_kv, splash=True)
        for load in loads()
    ]


def passes(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
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
        way = (
            " bounds" * record.get("bounded", False)
            + " stored" * record.get("stored", False)
            + " fused" * record.get("fused", False)
        )
        row = {"chip": record["chip"], "q x kv": f"{q} x {kv}", "head_dim": head_dim}
        for which, cost in passes(record).items():
            yield row | {
                "pass": which, "kernel": record["who"] + way, "full": cost["full"],
                "partial": cost["partial"],
                "parts": ", ".join(f"{part:,}" for part in cost.get("some", [])),
                "choice": cost.get("choice", 0), "step": cost["step"], "row": cost["row"],
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
    for number, load in enumerate(loads()):
        for q, kv, head_dim in SIZES:
            if head_dim != 128:
                continue
            plan = plans(q, kv)[number]
            transfers = fetched(plan, head_dim, stored=load.stored)
            counts = {"dq": Counts.of(plan.dq), "dkv": Counts.of(plan.dkv)}
            measured = {r["chip"] for r in records if r["sizes"] == [q, kv, head_dim]}
            for chip in sorted(measured):
                counts["forward"] = Counts.of(plan.fwd, chip)
                yield {
                    "chip": chip, "mask": load.name, "q x kv": f"{q} x {kv}",
                    **compared(records, (chip, [q, kv, head_dim]), counts, stored=load.stored),
                    "forward fetches, MB": round(transfers["ours"] / 1e6),
                    **{f"{who} MB": round(transfers[who] / 1e6) for who in PEERS},
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
            if record.get("bounded"):  # bits, which serve every mask
                continue
            # Gradients were compiled with computed masks only, which flatters the peers.
            if not backward and record["who"] in PEERS and record.get("stored", False) != stored:
                continue
            cycles = sum(total(record["who"], cost, counts[key]) for key, cost in ready.items())
            least[record["who"]] = min(cycles, least.get(record["who"], cycles))
        if "ours" not in least:
            continue
        row[short] = round(least["ours"] / 1e3)
        for peer in PEERS:
            if peer in least:
                row[f"{peer} {short}"] = f"{least[peer] / least['ours']:.2f}x"
    return row


def total(who: str, cost: dict[str, Any], counts: Counts) -> int:
    """Cycles of a pass; splash's grid has empty steps, our forward pass leaves out parts."""
    steps = counts.grid if who == "JAX splash" else counts.full + counts.partial
    partial = counts.partial * cost["partial"]
    if some := cost.get("some"):
        ways = zip(counts.paths, [*some, cost["partial"]], strict=True)
        partial = counts.partial * cost["choice"] + sum(blocks * cycles for blocks, cycles in ways)
    return counts.full * cost["full"] + partial + steps * cost["step"] + counts.rows * cost["row"]


if __name__ == "__main__":
    main()
