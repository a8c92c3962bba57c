"""Reads libtpu's final schedule of a kernel: how many cycles each path through it takes.

The dump has one line per cycle ("bundle"), stalls included. Forward branches skip a stretch of
bundles and backward ones repeat it, so the stretches are what `pl.when` and loops became. Each is
told by what it holds: matrix products (a block is computed; the path with the fewest selects is
that of a full block), many stores (a row begins or ends), or neither (overhead of a step).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

DELAY_SLOTS = {"v5e": 4, "v5p": 4, "v6e": 4, "tpu7x": 6}
"""Bundles behind a branch that are carried out in any case."""

FLAGS = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*({}).*".format(
    "packed-bundles-post-ra|pre-delay|original"
)
"""What the compiler has to be asked for, apart from the directory."""

_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*:[> ]*\{")
_BRANCH = re.compile(r"= sbr\.rel.*?target bundleno = (\d+)")
_MANY_STORES = 8  # cycles of them


class Stretch(NamedTuple):
    """Bundles that a branch skips or repeats."""

    start: int
    stop: int
    loop: bool


@dataclass
class Costs:
    """Cycles, and what else the schedule shows.

    Attributes:
        full: of a block without mask.
        partial: of a block with one, computed whole.
        some: likewise of which only some is computed, ascending.
        choice: of finding out how much of a partial block is.
        step: of a step besides its block.
        row: of a row's beginning and end.
        matrix: least cycles of the matrix unit in a full block.
        spills: stores and loads of registers that did not suffice, in a full block.
        vmem: bytes allocated in VMEM.
    """

    full: int = 0
    partial: int = 0
    step: int = 0
    row: int = 0
    matrix: int = 0
    spills: int = 0
    vmem: int = 0
    choice: int = 0
    some: list[int] = field(default_factory=list)


def kernels(dump: Path) -> list[str]:
    """The kernels in a dump, ours and the peers'."""
    pattern = re.compile(r"\d+-(.*(?:maskc|splash).*)-\d+-packed-bundles-post-ra\.txt")
    return sorted({match[1] for path in dump.iterdir() if (match := pattern.match(path.name))})


def read(dump: Path, kernel: str, chip: str) -> Costs:
    """The costs of one kernel of a dump."""
    bundles = _bundles(_last(dump, kernel, "packed-bundles-post-ra"))
    names, units, rows = _slots(_last(dump, kernel, "pre-delay_hlo-static-per-bundle-utilization"))
    rows += [[0] * len(names)] * (len(bundles) - len(rows))
    stretches = [Stretch(0, len(bundles), loop=False), *_stretches(bundles, DELAY_SLOTS[chip])]
    stretches.sort(key=lambda stretch: stretch.start - stretch.stop)
    owner = [0] * len(bundles)
    for number, stretch in enumerate(stretches):
        owner[stretch.start : stretch.stop] = [number] * (stretch.stop - stretch.start)
    held: list[list[int]] = [[] for _ in stretches]
    for bundle, number in enumerate(owner):
        held[number].append(bundle)

    def least(part: list[int], unit: str) -> int:
        at = names.index(unit)
        return -(-sum(rows[bundle][at] for bundle in part) // units[at])

    def spilled(part: list[int]) -> int:
        columns = [names.index(name) for name in ("VSTORE:SPILL", "VLOAD:FILL")]
        return sum(rows[bundle][at] for bundle in part for at in columns)

    def masks(part: list[int]) -> int:
        return sum(bundles[bundle].count("vcmp") for bundle in part)

    blocks = [part for part in held if least(part, "MATMUL") and least(part, "EUP")]
    blocks.sort(key=masks)
    full, *some, partial = blocks if len(blocks) > 1 else blocks * 2
    costs = Costs(full=len(full), partial=len(partial), matrix=least(full, "MATMUL"))
    costs.some = [len(part) for part in some]
    costs.spills, costs.vmem = spilled(full), _vmem(_last(dump, kernel, "original"))
    loops = [s for s in stretches if s.loop and s.start <= full[0] and full[-1] < s.stop]
    step = loops[-1]
    for part, stretch in zip(held, stretches, strict=True):
        if not part or any(part is block for block in blocks):
            continue
        if stretch.start < step.start or stretch.stop > step.stop:
            continue  # once per lane
        if least(part, "VSTORE") >= _MANY_STORES:
            costs.row += len(part)
        elif _holds(stretch, partial) and not _holds(stretch, full):
            costs.choice += len(part)
        else:
            costs.step += len(part)
    return costs


def _holds(stretch: Stretch, part: list[int]) -> bool:
    return stretch.start <= part[0] and part[-1] < stretch.stop


def _last(dump: Path, kernel: str, label: str) -> Path:
    found = [
        path for path in dump.iterdir() if re.match(rf"\d+-{re.escape(kernel)}-\d+-", path.name)
    ]
    return max(path for path in found if path.name.endswith(f"-{label}.txt"))


def _bundles(path: Path) -> list[str]:
    """One text per cycle; some go over several lines."""
    bundles: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        if _BUNDLE.match(line):
            bundles.append(line)
        elif bundles:
            bundles[-1] += line
    return bundles


def _stretches(bundles: list[str], delay: int) -> list[Stretch]:
    found = []
    for number, text in enumerate(bundles):
        if match := _BRANCH.search(text):
            target, after = int(match[1]), number + 1 + delay
            loop = target <= number
            found.append(Stretch(target, min(after, len(bundles)), loop=True) if loop
                         else Stretch(after, target, loop=False))  # fmt: skip
    return [stretch for stretch in found if stretch.start < stretch.stop]


def _slots(path: Path) -> tuple[list[str], list[int], list[list[int]]]:
    """Names of the units, how many there are of each, and how many every bundle uses."""
    head, body = path.read_text().split("== UTILIZATION:")
    names, units = head.strip().splitlines()[1:3]
    rows = [[int(n) for n in line.split()] for line in body.splitlines() if line.strip()]
    return [name.strip() for name in names.split(",")], [int(n) for n in units.split()], rows


def _vmem(path: Path) -> int:
    sizes = re.findall(r"#allocation\d+ \[shape = '[^']*', space=vmem, size = (0x[0-9a-f]+)",
                       path.read_text())  # fmt: skip
    return sum(int(size, 16) for size in sizes)
