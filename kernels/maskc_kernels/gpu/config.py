"""Tile sizes, warps and stages: one table, and how a plan's blocks cut its entries down."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = [
    "ARCHITECTURES",
    "DIRECTIONS",
    "MIN_TILE",
    "NEWEST",
    "OPTIONS",
    "Direction",
    "Entry",
    "Option",
    "Tile",
    "TileKey",
    "Tiles",
    "choose",
    "largest_tile",
    "padded",
    "row_lanes",
    "tile_table",
]

Direction = Literal["fwd", "dq", "dkv"]
Option = Literal["cap", "bias", "segments", "padding", "ragged"]
"""What a loop may do beside what the table was made for."""

DIRECTIONS: tuple[Direction, ...] = ("fwd", "dq", "dkv")
OPTIONS: tuple[Option, ...] = get_args(Option)
ARCHITECTURES = OLDEST, _, NEWEST = 80, 90, 100
"""Those that the table has."""

MIN_TILE = 16
"""Tensor cores multiply nothing smaller."""

_ROW_LANES = {80: 4, 90: 4, 100: 1}


@dataclass(frozen=True, slots=True)
class Tile:
    """How one program works.

    Attributes:
        q: queries per step.
        kv: keys per step.
        warps: warps of 32 threads.
        stages: of the software pipeline. Loops that read the number of a block from a list
            pipeline half as deep as their stages say.
    """

    q: int
    kv: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles that replace those of the table; None keeps the table's.

    Attributes:
        fwd: of the forward kernel.
        dq: of the dq kernel.
        dkv: of the dkv and the dbias kernels.
    """

    fwd: Tile | None = None
    dq: Tile | None = None
    dkv: Tile | None = None

    def of(self, direction: Direction) -> Tile | None:
        """The tile for one kernel."""
        return cast("Tile | None", getattr(self, direction))


class TileKey(NamedTuple):
    """What an entry of the table is for.

    Attributes:
        architecture: compute capability times 10.
        bits: per element of q, k and v.
        width: the larger of both head dimensions, padded, at least 64.
        direction: which kernel.
    """

    architecture: int
    bits: int
    width: int
    direction: Direction


class Entry(NamedTuple):
    """A tile and where it is from.

    Attributes:
        tile: how a program works.
        halved: options with each of which a step takes half of the tile; with the whole, registers
            run out.
        source: how the tile was chosen, in words.
    """

    tile: Tile
    halved: frozenset[Option]
    source: str


@functools.cache
def tile_table() -> dict[TileKey, Entry]:
    """The table `tiles.csv` of this package; `benchmarks/gpu_tune.py` writes it."""
    text = resources.files("maskc_kernels.gpu").joinpath("tiles.csv").read_text("utf-8")
    table = {}
    for row in csv.DictReader(text.splitlines()):
        direction = cast("Direction", row["direction"])
        key = TileKey(int(row["architecture"]), int(row["bits"]), int(row["width"]), direction)
        tile = Tile(*(int(row[name]) for name in ("tile_q", "tile_kv", "warps", "stages")))
        names = row["halved"].split()
        halved: frozenset[Option] = frozenset(option for option in OPTIONS if option in names)
        table[key] = Entry(tile, halved, row["source"])
    return table


def row_lanes(architecture: int) -> int:
    """Threads that hold a row of scores between them; columns go to them in turn, two by two.

    So the results of `mma` and `wgmma` lie in registers (PTX ISA, matrix fragments); those of
    `tcgen05` come out of tensor memory a row per thread. Only speed depends on it.

    Args:
        architecture: compute capability times 10; newer ones than the table has take its newest.
    """
    return _ROW_LANES[_known(architecture)]


def _known(architecture: int) -> int:
    return max(entry for entry in ARCHITECTURES if entry <= max(architecture, OLDEST))


def padded(dim: int) -> int:
    """A head dimension as the kernels hold it: a power of two, at least 16."""
    return max(1 << (dim - 1).bit_length(), MIN_TILE)


def largest_tile(block: int) -> int:
    """The largest power of two that divides a block."""
    return block & -block


def choose(
    architecture: int,
    size: int,
    width: int,
    direction: Direction,
    block_q: int,
    block_kv: int,
    *,
    options: AbstractSet[Option] = frozenset(),
) -> Tile:
    """The tile for a kernel.

    Args:
        architecture: compute capability times 10; newer ones than the table has take its newest.
        size: bytes per element of q, k and v.
        width: the larger of both padded head dimensions.
        direction: which kernel.
        block_q: queries per block of the plan; the tile divides it.
        block_kv: keys per block of the plan; the tile divides it.
        options: what the loops do beside their work. Of one the table says whether a step takes
            half; of several nobody knows, and it does.
    """
    entry = tile_table()[TileKey(_known(architecture), 8 * size, max(width, 64), direction)]
    tile, side = entry.tile, "q" if direction == "dkv" else "kv"
    if len(options) > 1 or options & entry.halved:
        tile = replace(tile, **{side: max(getattr(tile, side) // 2, MIN_TILE)})
    q, kv = min(tile.q, largest_tile(block_q)), min(tile.kv, largest_tile(block_kv))
    if (q, kv) == (tile.q, tile.kv):
        return tile
    return replace(tile, q=q, kv=kv, warps=min(tile.warps, 4))
