"""The passes of the compiler, as one flat list: request -> canonical masks -> lists -> plan."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from maskc.background import Background
from maskc.block_runs import MaskBlocks, lists_of, turned
from maskc.blocking import BlockGrid
from maskc.emit import splash_tables
from maskc.evaluated import Progress
from maskc.expr import Mask
from maskc.lower import lower
from maskc.request import CompileRequest
from maskc.row_bounds import row_bounds
from maskc.version import __version__
from maskc_cache.errors import StoreError
from maskc_cache.plan import BlockLists, Plan, SplashTables

if TYPE_CHECKING:
    from maskc_cache.tiers import Tier

__all__ = ["compile_cached", "compile_mask", "compile_request"]


_OTHER_CACHE = "; name another directory with MASKC_CACHE (or --cache)"


def compile_mask(mask: Mask, **parameters: Any) -> Plan:
    """Compile one mask to a plan.

    Args:
        mask: a mask of a single head, or a `MultiHead`.
        **parameters: every other field of `CompileRequest`: `q_len`, `kv_len`, `heads`, block
            sizes, shards.

    Raises:
        MaskArgumentError: an argument is out of range or does not fit another one.
    """
    return compile_request(CompileRequest(mask, **parameters))


def compile_request(
    request: CompileRequest, progress: Progress = lambda _done, _total: None
) -> Plan:
    """Compile a request to a plan.

    Args:
        request: what to compile.
        progress: called with (rows of blocks done, rows of blocks in all) as the work advances.
    """
    with Background() as background:
        plan = _plan(request, progress, background)
    if not request.row_bounds:
        return plan
    return dataclasses.replace(plan, row_bounds=row_bounds(request.unique_masks[0], plan))


def _plan(request: CompileRequest, progress: Progress, background: Background) -> Plan:
    """The plan but for its row bounds; partial blocks may still be drawn in the background."""
    masks, head_mask = request.unique_masks
    fwd_grid, dq_grid, dkv_grid = request.fwd_grid, request.dq_grid, request.dkv_grid
    grids = list(dict.fromkeys((fwd_grid, dq_grid, dkv_grid)))
    total = len(masks) * sum(grid.nq for grid in grids)
    found: dict[BlockGrid, MaskBlocks] = {}
    before = 0
    for grid in grids:
        advance = functools.partial(_advance, progress, before, total)
        found[grid] = lower(masks, grid, advance, background)
        before += len(masks) * grid.nq
    fwd = _lists(found[fwd_grid], fwd_grid)
    columns, layout = turned(found[dkv_grid], len(masks), dkv_grid.nk), request.layout

    def tables(direction: Literal["fwd", "dkv"], grid: BlockGrid) -> SplashTables | None:
        if not request.splash:
            return None
        return splash_tables(found[grid], columns, grid, head_mask, layout, direction)

    return Plan(
        q_len=request.q_len,
        kv_len=request.kv_len,
        head_mask=head_mask,
        head_shards=request.head_shards,
        q_seq_shards=request.q_seq_shards,
        fwd=fwd,
        dq=fwd if dq_grid == fwd_grid else _lists(found[dq_grid], dq_grid),
        dkv=lists_of(columns, dkv_grid.nq, dkv_grid.block_q, dkv_grid.block_kv),
        splash_fwd=tables("fwd", fwd_grid),
        splash_dkv=tables("dkv", dkv_grid),
        row_bounds=None,
        canonical=request.canonical,
        compiler=__version__,
    )


def _lists(blocks: MaskBlocks, grid: BlockGrid) -> BlockLists:
    """The block lists of a direction whose rows are q blocks."""
    return lists_of(blocks, grid.nk, grid.block_q, grid.block_kv)


def _advance(progress: Progress, before: int, total: int, done: int, _total: int) -> None:
    """Progress of one lowering as part of the whole."""
    progress(before + done, total)


def compile_cached(
    request: CompileRequest,
    store: Tier,
    *,
    progress: Progress = lambda _done, _total: None,
    warn: Callable[[str], None] = warnings.warn,
    force: bool = False,
) -> tuple[Plan, bool]:
    """The plan of a request, from the store if it is there, else compiled and published.

    A store that cannot be read or written costs a warning, never the plan.

    Args:
        request: what to compile.
        store: where to look and to publish: a `Store`, or `Tiers` of several.
        progress: as for `compile_request`.
        warn: told about a store that cannot be used; `warnings.warn` by default.
        force: compile even if the store has the plan.

    Returns:
        The plan, and whether it was a hit.
    """
    try:
        if not force and (plan := store.get(request.key, request.canonical)) is not None:
            return plan, True
    except StoreError as error:
        warn(f"the cache cannot be read: {error}{_OTHER_CACHE}")
    plan = compile_request(request, progress)
    try:
        store.put(plan)
    except StoreError as error:
        warn(f"the plan is not cached: {error}{_OTHER_CACHE}")
    return plan, False
