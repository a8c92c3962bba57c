"""Plans brought to one shape: stacked for a scan over layers, cut for the devices of a mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from maskc_kernels.tables import AttentionTables, BlockTable
from maskc_runtime.errors import ArgumentTypeError, ArgumentValueError
from maskc_runtime.plans import PlanRef, load_plan
from maskc_runtime.traced import TracedPlan

if TYPE_CHECKING:
    from maskc_runtime.view import PlanView

__all__ = ["shard_plan", "stack_plans"]

Array: TypeAlias = npt.NDArray[Any]

_PASSES = ("fwd", "dq", "dkv")
_KINDS = {"full": ("full_idx",), "partial": ("partial_idx", "partial_id")}
_ARRAYS = tuple(entry.name for entry in dataclasses.fields(BlockTable)[2:])


def stack_plans(plans: Sequence[PlanRef]) -> TracedPlan:
    """Several plans as one pytree with a leading axis, for `jax.lax.scan` over layers.

    Lists are padded to the longest, so the tables take as much room as if every plan were the
    largest; the padding is never visited. Host work: call it outside of `jax.jit`.

    Args:
        plans: of the same lengths, heads and blocks.

    Returns:
        A `TracedPlan` whose leaves are numpy arrays [plans, ...], one where all plans have one.

    Raises:
        ArgumentValueError: no plan, or plans that differ in more than their masks.
    """
    views = [load_plan(plan) for plan in plans]
    if not views:
        raise ArgumentValueError("plans: expected one plan or more, got none")
    first = views[0]
    for number, view in enumerate(views):
        for name in ("q_len", "kv_len", "heads"):
            if getattr(view, name) != getattr(first, name):
                raise ArgumentValueError(
                    f"plans: expected plans that differ in their masks only, got "
                    f"{name}={getattr(view, name)} in plan {number}, {getattr(first, name)} in "
                    "plan 0"
                )
        if view.facts.blocks != first.facts.blocks:
            raise ArgumentValueError(
                f"plans: expected equal blocks, got (block_q, block_kv) of the fwd, dq and dkv "
                f"passes {view.facts.blocks} in plan {number}, {first.facts.blocks} in plan 0"
            )
    tables = _stacked([_on_host(view) for view in views])
    return TracedPlan.of(f"{len(views)} plans", first.q_len, first.kv_len, first.heads, tables)


def shard_plan(plan: PlanRef, head_shards: int = 1, q_seq_shards: int = 1) -> TracedPlan:
    """The part of a plan that each device needs, for heads and queries that are split.

    Shard `[h, s]` covers heads `h * heads // head_shards` and on, and queries
    `s * q_len // q_seq_shards` and on, against all keys. Host work: call it outside of `jax.jit`
    or at trace time.

    Args:
        plan: what is split.
        head_shards: over how many devices the heads are split.
        q_seq_shards: over how many devices the queries are split.

    Returns:
        A `TracedPlan` whose leaves are numpy arrays [head_shards, q_seq_shards, ...]. Its heads and
        q_len are those of one shard.

    Raises:
        ArgumentValueError: the shards would cut a block, or differ in size.
        ArgumentTypeError: the plan is traced.
    """
    view = load_plan(plan)
    if head_shards < 1 or view.heads % head_shards:
        raise ArgumentValueError(
            f"head_shards: expected a divisor of the plan's {view.heads} heads, got {head_shards}"
        )
    if q_seq_shards < 1:
        raise ArgumentValueError(f"q_seq_shards: expected a positive number, got {q_seq_shards}")
    for name, (block_q, _) in zip(_PASSES, view.facts.blocks, strict=True):
        if q_seq_shards > 1 and view.q_len % (q_seq_shards * block_q):
            raise ArgumentValueError(
                f"q_seq_shards: expected whole blocks in every shard, got q_len={view.q_len} in "
                f"{q_seq_shards} shards of block_q={block_q} in the {name} pass"
            )
    host = _on_host(view)
    places = [(h, s) for h in range(head_shards) for s in range(q_seq_shards)]
    heads, q_len = view.heads // head_shards, view.q_len // q_seq_shards
    parts = [
        _shard(host, view, slice(h * heads, (h + 1) * heads), s * q_len, q_len) for h, s in places
    ]
    name = f"{view.key[:12]} in shards"
    row = TracedPlan.of(name, q_len, view.kv_len, heads, _stacked(parts))
    lead = (head_shards, q_seq_shards)
    shards: TracedPlan = jax.tree.map(lambda array: array.reshape(*lead, *array.shape[1:]), row)
    return shards


def _on_host(view: PlanView) -> AttentionTables:
    if any(isinstance(leaf, Tracer) for leaf in view.arrays):
        raise ArgumentTypeError(
            f"plan: {view!r} is traced, and only a plan that is known can be stacked or cut; do it "
            "outside of jax.jit, and pass the result"
        )
    host: PlanView = jax.tree.map(np.asarray, view)
    return host.tables


def _stacked(parts: Sequence[AttentionTables]) -> AttentionTables:
    """Tables of equal lengths and blocks with a leading axis, padded to the largest.

    Passes that share an array in every part share the stacked one.
    """
    stacked: dict[tuple[int, ...], Array] = {}

    def array(arrays: Sequence[Array]) -> Array:
        key = tuple(map(id, arrays))
        if key not in stacked:
            stacked[key] = _padded(arrays)
        return stacked[key]

    def table(name: str) -> BlockTable:
        tables = [getattr(part, name) for part in parts]
        arrays: dict[str, Any] = {
            field: array([getattr(one, field) for one in tables]) for field in _ARRAYS
        }
        first: BlockTable = tables[0]
        return dataclasses.replace(first, **arrays)

    head_mask = np.stack([part.head_mask for part in parts])
    return AttentionTables(head_mask, table("fwd"), table("dq"), table("dkv"))


def _padded(arrays: Sequence[Array]) -> Array:
    """Arrays that differ in their first axis, as one.

    Offsets that never fall are repeated at their end: rows of masks that no head uses. What lists
    hold beyond their end is never read.
    """
    length = max(len(array) for array in arrays)
    out = np.zeros((len(arrays), length, *arrays[0].shape[1:]), np.result_type(*arrays))
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
        if len(array) < length and len(array):
            row[len(array) :] = array[-1]
    return out


def _shard(
    tables: AttentionTables, view: PlanView, heads: slice, q_start: int, q_len: int
) -> AttentionTables:
    """The tables of some heads and queries."""
    masks, head_mask = np.unique(np.asarray(tables.head_mask)[heads], return_inverse=True)

    def rows(table: BlockTable) -> BlockTable:
        blocks, first = -(-view.q_len // table.block_q), q_start // table.block_q
        own = np.arange(first, first + -(-q_len // table.block_q))
        return _part(table, (masks[:, None] * blocks + own).reshape(-1), 0, None)

    dkv = tables.dkv
    blocks, first = -(-view.kv_len // dkv.block_kv), q_start // dkv.block_q
    numbers = (masks[:, None] * blocks + np.arange(blocks)).reshape(-1)
    turned = _part(dkv, numbers, first, first + -(-q_len // dkv.block_q))
    fwd = rows(tables.fwd)
    shared = all(getattr(tables.dq, name) is getattr(tables.fwd, name) for name in _ARRAYS)
    dq = fwd if shared else rows(tables.dq)
    fwd, dq, turned = _trimmed((fwd, dq, turned))
    return AttentionTables(head_mask.astype(np.int32), fwd, dq, turned)


def _trimmed(passes: Sequence[BlockTable]) -> list[BlockTable]:
    """Lists with only the stored blocks that they name; passes that share them go on doing so."""
    changed: dict[int, BlockTable] = {}
    for table in passes:
        sharing = [one for one in passes if one.partial_blocks is table.partial_blocks]
        if id(table) in changed:
            continue
        used = np.unique(np.concatenate([np.asarray(one.partial_id) for one in sharing]))
        blocks = np.asarray(table.partial_blocks)[used]
        for one in sharing:
            ids = np.searchsorted(used, one.partial_id).astype(np.asarray(one.partial_id).dtype)
            changed[id(one)] = dataclasses.replace(one, partial_id=ids, partial_blocks=blocks)
    return [changed[id(table)] for table in passes]


def _part(table: BlockTable, rows: Array, first: int, stop: int | None) -> BlockTable:
    """Some rows of the lists, and of those the blocks from `first` to `stop`, counted from it."""
    changed: dict[str, Any] = {}
    for kind, names in _KINDS.items():
        ptr = np.asarray(getattr(table, f"{kind}_ptr"))
        counts = ptr[rows + 1] - ptr[rows]
        ends = np.cumsum(counts)
        entries = np.repeat(ptr[rows] - ends + counts, counts) + np.arange(counts.sum())
        columns = {name: np.asarray(getattr(table, name))[entries] for name in names}
        idx = columns[f"{kind}_idx"]
        keep = (idx >= first) & (idx < (np.iinfo(np.int32).max if stop is None else stop))
        own = np.repeat(np.arange(len(rows)), counts)[keep]
        lengths = np.bincount(own, minlength=len(rows))
        changed[f"{kind}_ptr"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        changed |= {name: column[keep] for name, column in columns.items()}
        changed[f"{kind}_idx"] = (idx[keep] - first).astype(idx.dtype)
    return dataclasses.replace(table, **changed)
