"""What a plan holds, as numbers for `--json` and as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec
import numpy as np

from maskc_cache.plan import MAX_INTERVALS, BlockLists, Direction, Plan

__all__ = [
    "DirectionSummary",
    "PlanSummary",
    "count_bytes",
    "definitions",
    "render",
    "summarize",
]

_UNLIMITED = 1 << 20  # columns; lines are not to be folded


class DirectionSummary(msgspec.Struct, frozen=True):
    """The directions of a plan that share a blocking, over all heads.

    Attributes:
        block_q: queries per block.
        block_kv: keys per block.
        blocks: blocks of the whole grid, all heads.
        empty: share of blocks that are empty, 0 to 1.
        partial: share that is partial.
        full: share that is full.
        unique_partial: partial blocks that are stored.
        list_bytes: bytes of the block lists of these directions.
        partial_bytes: bytes of the stored partial blocks, as bits.
    """

    block_q: int
    block_kv: int
    blocks: int
    empty: float
    partial: float
    full: float
    unique_partial: int
    list_bytes: int
    partial_bytes: int


class PlanSummary(msgspec.Struct, frozen=True):
    """A plan in numbers.

    Attributes:
        key: the cache key.
        digest: the content digest.
        q_len: queries.
        kv_len: keys.
        heads: query heads.
        masks: unique masks among them.
        head_shards: shards of the heads in the splash tables.
        q_seq_shards: shards of the queries in them.
        directions: one entry per blocking, named by the directions that share it, such as
            "fwd/dq/dkv" or "fwd/dq" and "dkv".
        row_intervals: most intervals of one query and of one key; None without row bounds.
        tables: each stored array as `"dtype[shape]"`.
        table_bytes: bytes of all arrays in memory.
    """

    key: str
    digest: str
    q_len: int
    kv_len: int
    heads: int
    masks: int
    head_shards: int
    q_seq_shards: int
    directions: dict[str, DirectionSummary]
    row_intervals: tuple[int, int] | None
    tables: dict[str, str]
    table_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def summarize(plan: Plan) -> PlanSummary:
    """Count what a plan holds."""
    arrays = dict(plan.arrays())
    names: tuple[Direction, ...] = ("fwd", "dq", "dkv")
    by_blocks: dict[tuple[int, int], list[Direction]] = {}
    for name in names:
        by_blocks.setdefault(plan.lists(name).blocks, []).append(name)
    return PlanSummary(
        key=plan.key,
        digest=plan.digest,
        q_len=plan.q_len,
        kv_len=plan.kv_len,
        heads=plan.heads,
        masks=plan.masks,
        head_shards=plan.head_shards,
        q_seq_shards=plan.q_seq_shards,
        directions={"/".join(same): _direction(plan, same) for same in by_blocks.values()},
        row_intervals=plan.row_intervals,
        tables={name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()},
        table_bytes=sum(array.nbytes for array in arrays.values()),
    )


def _direction(plan: Plan, directions: list[Direction]) -> DirectionSummary:
    """Directions with the same blocks: the counts are those of each, the list bytes of all."""
    lists = plan.lists(directions[0])
    rows, columns = plan.grid(directions[0])
    blocks = rows * columns * plan.heads
    heads_of_mask = np.bincount(plan.head_mask, minlength=plan.masks)

    def total(ptr: np.ndarray[tuple[int], np.dtype[np.signedinteger]]) -> int:
        return int(heads_of_mask @ np.diff(ptr[::rows]))

    full, partial = total(lists.full_ptr), total(lists.partial_ptr)
    return DirectionSummary(
        block_q=lists.block_q,
        block_kv=lists.block_kv,
        blocks=blocks,
        empty=1 - (full + partial) / blocks,
        partial=partial / blocks,
        full=full / blocks,
        unique_partial=len(lists.partial_blocks),
        list_bytes=sum(_list_bytes(x) for x in dict.fromkeys(map(plan.lists, directions))),
        partial_bytes=lists.partial_blocks.nbytes,
    )


def _list_bytes(lists: BlockLists) -> int:
    names = ("full_ptr", "full_idx", "partial_ptr", "partial_idx", "partial_id")
    return sum(getattr(lists, name).nbytes for name in names)


def render(plans: Sequence[tuple[str, PlanSummary, dict[str, str]]]) -> str:
    """Plans for people: a list of what each holds, one after the other.

    Args:
        plans: for each its name, its summary, and further lines such as the time taken.
    """
    return "\n".join(
        definitions(_lines(name, summary) | extra | {"key": summary.key})
        for name, summary, extra in plans
    )


def definitions(lines: dict[str, str]) -> str:
    """Names and what they stand for, in two columns."""
    formatter = click.HelpFormatter(width=_UNLIMITED)
    formatter.write_dl(list(lines.items()))
    return formatter.getvalue()


def _lines(name: str, summary: PlanSummary) -> dict[str, str]:
    shards = f"{summary.head_shards} x {summary.q_seq_shards}"
    lines = {
        "plan": name,
        "lengths (q x kv)": f"{summary.q_len:,} x {summary.kv_len:,}",
        "heads (masks)": f"{summary.heads} ({summary.masks})",
    }
    if shards != "1 x 1":
        lines["shards (head x q_seq)"] = shards
    for direction, part in summary.directions.items():
        lines |= {
            f"{direction} blocks (q x kv)": f"{part.block_q} x {part.block_kv}",
            f"{direction} empty": f"{part.empty:.2%}",
            f"{direction} partial": f"{part.partial:.2%}",
            f"{direction} full": f"{part.full:.2%}",
            f"{direction} stored": f"{part.unique_partial:,} unique partial, "
            f"{count_bytes(part.partial_bytes)}",
            f"{direction} lists": count_bytes(part.list_bytes),
        }
    for table, text in summary.tables.items():
        if table.startswith("splash_"):
            lines[table] = text
    for side, row, most in zip(
        ("q", "kv"), ("query", "key"), summary.row_intervals or (), strict=False
    ):
        reason = f"none: a {row} has {most:,} intervals, more than {MAX_INTERVALS}"
        lines[f"row_bounds.{side}"] = summary.tables.get(f"row_bounds.{side}", reason)
    return lines | {"all tables": count_bytes(summary.table_bytes)}


def count_bytes(count: int) -> str:
    """A byte count for people, in powers of 1,000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
