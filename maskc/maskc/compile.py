"""The passes of the compiler, as one flat list: request -> canonical masks -> lists -> plan."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from maskc.emit import splash_tables
from maskc.expr import Mask
from maskc.lower import BlockGrid, Progress, lower, lower_transposed
from maskc.request import CompileRequest
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
    masks, head_mask = request.unique_masks
    grids = list(dict.fromkeys((request.fwd_grid, request.dq_grid, request.dkv_grid)))
    total = len(masks) * sum(grid.nq for grid in grids)
    lowered: dict[BlockGrid, BlockLists] = {}
    before = 0
    for grid in grids:
        lowered[grid] = lower(masks, grid, functools.partial(_advance, progress, before, total))
        before += len(masks) * grid.nq
    fwd, dkv_rows = lowered[request.fwd_grid], lowered[request.dkv_grid]
    dkv = lower_transposed(dkv_rows, request.dkv_grid)

    def tables(
        direction: Literal["fwd", "dkv"], lists: BlockLists, grid: BlockGrid
    ) -> SplashTables | None:
        if not request.splash:
            return None
        return splash_tables(lists, grid, head_mask, request.layout, direction)

    return Plan(
        q_len=request.q_len,
        kv_len=request.kv_len,
        head_mask=head_mask,
        head_shards=request.head_shards,
        q_seq_shards=request.q_seq_shards,
        fwd=fwd,
        dq=lowered[request.dq_grid],
        dkv=dkv,
        splash_fwd=tables("fwd", fwd, request.fwd_grid),
        splash_dkv=tables("dkv", dkv, request.dkv_grid),
        canonical=request.canonical,
        compiler=__version__,
    )


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
