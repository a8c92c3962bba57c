"""Whether a plan's small tables fit a TPU core's scalar memory (SMEM), and what to change if not.

A splash kernel prefetches its tables to SMEM whole; one that does not fit fails to compile with
RESOURCE_EXHAUSTED. Forward (and dq) and dkv are separate kernels, so each must fit alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from maskc import checks
from maskc.errors import SmemError
from maskc_cache.errors import PlanError
from maskc_cache.plan import Plan, SplashTables

if TYPE_CHECKING:
    from maskc.export.tokamax import MaskInfo

__all__ = [
    "SMEM_BYTES",
    "Generation",
    "require_splash",
    "splash_problem",
    "splash_smem",
    "tokamax_smem",
    "usable_smem",
]

Generation = Literal["v4", "v5e", "v6e", "tpu7x"]
Direction = Literal["fwd", "dkv"]

SMEM_BYTES: dict[Generation, int] = {
    "v4": 1 << 20,
    "v5e": 1 << 20,
    "v6e": 1 << 20,
    "tpu7x": 1 << 20,
}
"""SMEM of a core by TPU generation. Source: the limit that the TPU compiler (libtpu) names when it
refuses a kernel, read by compiling splash kernels ahead of time for each of them."""

RESERVED_BYTES = 4096
"""What the compiler keeps for itself: the largest int32 table that compiles has 261,120 entries."""

_LANES = 128  # SMEM pads the last dimension of a 3-D table to this many entries
_BOUNDS_BYTES = 8  # tokamax computes two int32 per listed block under jit: bounds_start, bounds_end


def usable_smem(device: Generation = "v5e") -> int:
    """Bytes that tables may take on a TPU generation.

    Raises:
        MaskArgumentError: `device` is not a known generation.
    """
    checks.choice("device", device, tuple(SMEM_BYTES))
    return SMEM_BYTES[device] - RESERVED_BYTES


def splash_smem(
    plan: Plan, direction: Direction = "fwd", *, computable: bool = False
) -> dict[str, int]:
    """Bytes that each splash table takes in SMEM, on one of the plan's devices.

    Args:
        plan: a plan with splash tables.
        direction: "fwd" (also for dq) or "dkv".
        computable: without `mask_next`, as for a kernel that recomputes the mask.

    Returns:
        Bytes by table: "data_next", "block_mask" and, where the kernel has it, "mask_next".

    Raises:
        PlanError: the plan was compiled without splash tables.
    """
    tables = _tables(plan, direction)
    shape = _device_shape(plan, tables)
    kept = {"data_next": tables.data_next, "block_mask": tables.block_mask}
    if tables.mask_next is not None and not computable:
        kept["mask_next"] = tables.mask_next
    return {name: _padded(shape) * table.itemsize for name, table in kept.items()}


def tokamax_smem(info: MaskInfo) -> dict[str, int]:
    """Bytes that each list of tokamax takes in SMEM, on one device.

    13 per listed block where rows and columns are int16 and the mask is recomputed.

    Args:
        info: the tables of one direction.
    """
    shards = 1 if info.num_active_blocks is None else len(info.num_active_blocks)
    names = ("active_rows", "active_cols", "block_mask", "mask_next")
    lists = {name: getattr(info, name) for name in names if getattr(info, name) is not None}
    taken = {name: table.nbytes // shards for name, table in lists.items()}
    if info.active_rows is not None:
        taken["bounds"] = len(info.active_rows) // shards * _BOUNDS_BYTES
    return taken


def splash_problem(
    plan: Plan, device: Generation = "v5e", *, computable: bool = False
) -> str | None:
    """Why a plan's splash tables do not fit a TPU's SMEM, and which settings would, or None.

    Args:
        plan: any plan; one without splash tables has no problem.
        device: the TPU generation.
        computable: judge the tables without `mask_next`.

    Raises:
        MaskArgumentError: `device` is not a known generation.
    """
    limit = usable_smem(device)
    both: tuple[Direction, Direction] = ("fwd", "dkv")
    for direction in both:
        if (plan.splash_fwd if direction == "fwd" else plan.splash_dkv) is None:
            continue
        taken = splash_smem(plan, direction, computable=computable)
        if (total := sum(taken.values())) <= limit:
            continue
        parts = ", ".join(f"{name} {size:,}" for name, size in taken.items())
        remedies = list(_remedies(plan, direction, limit, computable=computable))
        return (
            f"the {direction} splash tables take {total:,} B of a TPU's scalar memory ({parts}), "
            f"and {device} has {limit:,} B for them; "
            + (f"these would fit: {'; '.join(remedies)}" if remedies else "use larger blocks")
        )
    return None


def require_splash(plan: Plan, device: Generation = "v5e", *, computable: bool = False) -> None:
    """Refuse a plan whose splash tables do not fit; arguments as for `splash_problem`.

    Raises:
        SmemError: with the sizes, the limit and the settings that would fit.
        MaskArgumentError: `device` is not a known generation.
    """
    if problem := splash_problem(plan, device, computable=computable):
        raise SmemError(problem)


def _tables(plan: Plan, direction: Direction) -> SplashTables:
    tables = plan.splash_fwd if direction == "fwd" else plan.splash_dkv
    if tables is None:
        raise PlanError("this plan has no splash tables; compile it with splash=True")
    return tables


_Shape = tuple[int, int, int]


def _device_shape(plan: Plan, tables: SplashTables) -> _Shape:
    """The part of the tables that one device holds."""
    rows, height, width = tables.block_mask.shape
    return rows // plan.head_shards, height // plan.q_seq_shards, width


def _padded(shape: _Shape) -> int:
    """Entries of a table in SMEM."""
    rows, height, width = shape
    return rows * height * (-(-width // _LANES) * _LANES)


def _remedies(plan: Plan, direction: Direction, limit: int, *, computable: bool) -> Iterator[str]:
    """The settings that would fit, each alone, the mildest value of each."""
    taken = splash_smem(plan, direction, computable=computable)
    tables, lists = _tables(plan, direction), plan.lists(direction)
    shape = _device_shape(plan, tables)
    per_cell = sum(taken.values()) // _padded(shape)

    def fits(height: int, width: int, rows: int = shape[0]) -> bool:
        return _padded((rows, height, width)) * per_cell <= limit

    if "mask_next" in taken and sum(taken.values()) - taken["mask_next"] <= limit:
        yield "a kernel that recomputes the mask and needs no mask_next"
    _, height, width = shape
    longest = int((np.diff(lists.full_ptr) + np.diff(lists.partial_ptr)).max())
    if plan.masks == 1:
        shrunk = (height, longest) if direction == "fwd" else (min(height, longest), width)
        if shrunk != (height, width) and fits(*shrunk):
            yield "shrink_grid: true"
    for factor in (2, 4, 8, 16, 32):
        if fits(-(-height // factor), -(-width // factor)):
            suffix = "" if direction == "fwd" else "_dkv"
            names = (f"block_q{suffix}", f"block_kv{suffix}")
            sizes = (lists.block_q * factor, lists.block_kv * factor)
            yield ", ".join(f"{n}: {size}" for n, size in zip(names, sizes, strict=True))
            break
    nq = plan.grid(direction)[0 if direction == "fwd" else 1]
    for shards in range(plan.q_seq_shards + 1, nq + 1):
        if nq % shards == 0 and fits(-(-height * plan.q_seq_shards // shards), width):
            yield f"q_seq_shards: {shards}"
            break
    if shape[0] > 1:
        for shards in range(plan.head_shards + 1, plan.heads + 1):
            if plan.heads % shards == 0 and fits(height, width, plan.heads // shards):
                yield f"head_shards: {shards}"
                break
