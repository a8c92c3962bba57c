"""Tile sizes, warps and stages, in one table, and how a plan's blocks cut them down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = [
    "ARCHITECTURES",
    "MIN_TILE",
    "NEWEST",
    "TABLE",
    "Tile",
    "choose",
    "largest_tile",
    "padded",
]

Direction = Literal["fwd", "dq", "dkv"]

ARCHITECTURES = OLDEST, NEWEST = 80, 90
"""Those that the table has."""

MIN_TILE = 16
"""Tensor cores multiply nothing smaller."""


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


TABLE: dict[tuple[int, int, int, Direction], Tile] = {}
"""(architecture, bytes per element, padded head_dim, direction) -> tile."""


def _rows(architecture: int, size: int, entries: dict[int, tuple[Tile, Tile, Tile]]) -> None:
    for width, tiles in entries.items():
        for direction, tile in zip(("fwd", "dq", "dkv"), tiles, strict=True):
            TABLE[architecture, size, width, direction] = tile  # type: ignore[index]


# Chosen offline, for few registers and no spills; no GPU has timed them.
#     python benchmarks/gpu_compile.py
_rows(90, 2, {
    64: (Tile(128, 128, 8, 3), Tile(128, 64, 8, 3), Tile(64, 128, 8, 2)),
    128: (Tile(128, 128, 8, 2), Tile(128, 64, 8, 3), Tile(64, 128, 8, 2)),
    256: (Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 2)),
})  # fmt: skip
_rows(80, 2, {
    64: (Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
    128: (Tile(128, 64, 8, 2), Tile(64, 64, 8, 3), Tile(64, 64, 8, 3)),
    256: (Tile(64, 64, 8, 2), Tile(32, 32, 8, 2), Tile(32, 32, 8, 2)),
})  # fmt: skip
# float32 is multiplied as such, without tensor cores: exact, and slow.
for _architecture in ARCHITECTURES:
    _rows(_architecture, 4, {
        64: (Tile(32, 32, 8, 2), Tile(32, 32, 4, 2), Tile(32, 32, 8, 2)),
        128: (Tile(32, 16, 8, 2), Tile(32, 16, 8, 2), Tile(32, 32, 8, 2)),
        256: (Tile(16, 16, 8, 2), Tile(16, 16, 8, 2), Tile(16, 16, 8, 2)),
    })  # fmt: skip


def padded(dim: int) -> int:
    """A head dimension as the kernels hold it: a power of two, at least 16."""
    return max(1 << (dim - 1).bit_length(), MIN_TILE)


def largest_tile(block: int) -> int:
    """The largest power of two that divides a block."""
    return block & -block


def choose(
    architecture: int, size: int, width: int, direction: Direction, block_q: int, block_kv: int
) -> Tile:
    """The tile for a kernel.

    Args:
        architecture: compute capability times 10; newer ones than the table has take its newest.
        size: bytes per element of q, k and v.
        width: the larger of both padded head dimensions.
        direction: which kernel.
        block_q: queries per block of the plan; the tile divides it.
        block_kv: keys per block of the plan; the tile divides it.
    """
    known = max(entry for entry in ARCHITECTURES if entry <= max(architecture, OLDEST))
    tile = TABLE[known, size, max(width, 64), direction]
    q, kv = min(tile.q, largest_tile(block_q)), min(tile.kv, largest_tile(block_kv))
    if (q, kv) == (tile.q, tile.kv):
        return tile
    return replace(tile, q=q, kv=kv, warps=min(tile.warps, 4))
