"""The three kernels joined into one function that JAX can differentiate."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.config import MIN_TILE, Direction, choose, largest_tile, padded
from maskc_kernels.gpu.dkv import dkv_kernel
from maskc_kernels.gpu.dq import dq_kernel
from maskc_kernels.gpu.forward import forward_kernel
from maskc_kernels.gpu.launch import architecture, launch
from maskc_kernels.gpu.lists import RowLists, row_lists
from maskc_kernels.gpu.segments import BlockIds, cut_lists
from maskc_kernels.xla.backward import row_gradients

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables, BlockTable

__all__ = ["block_sparse_attention", "refusal"]

DTYPES = ("bfloat16", "float16", "float32")
LARGEST_HEAD_DIM = 256
SECTION_BYTES = 16 << 20
"""Keys and values that programs at work should share; less than half of an A100's L2 cache."""


class _Runtime(NamedTuple):
    """Operands besides q, k, v and the plan.

    Attributes:
        sm_scale: float32 [].
        sinks: float32 [heads] or None.
        q_segment_ids: int32 [batch, q_len], padding -1; or None.
        kv_segment_ids: int32 [batch, kv_len], padding -2; or None.
    """

    sm_scale: jax.Array
    sinks: jax.Array | None
    q_segment_ids: jax.Array | None
    kv_segment_ids: jax.Array | None


def block_sparse_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sm_scale: jax.Array,
    tables: AttentionTables,
    *,
    q_segment_ids: jax.Array | None = None,
    kv_segment_ids: jax.Array | None = None,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention over the non-empty blocks of a mask, on an NVIDIA GPU.

    Nothing of size q_len x kv_len is made, and the kernels are the same for every mask. Reverse
    mode only, in q, k, v, sm_scale and sinks, through both outputs. Every sum is made in one
    order, so results repeat bit for bit.

    Args:
        q: [batch, heads, q_len, head_dim], bfloat16, float16 or float32.
        k: [batch, kv_heads, kv_len, head_dim]; kv_heads divides heads, and query head h uses kv
            head `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores q . k.
        tables: compiled for these heads and lengths; the caller has checked that.
        q_segment_ids: int32 [batch, q_len]; a query attends only keys of its own segment, and a
            negative id is padding that attends nothing. None: no segments.
        kv_segment_ids: int32 [batch, kv_len]; both or neither.
        logits_soft_cap: if given, scaled scores become `cap * tanh(score / cap)`.
        sinks: [heads], a logit per head that takes its share of the softmax and has no value.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp
        [batch, heads, q_len] in float32, sinks included. A query that attends nothing has output
        0, zero gradients, and log-sum-exp -inf (its sink, if there are sinks).

    Raises:
        ValueError: what is asked is not supported; `refusal` says beforehand.
    """
    if reason := refusal(q, k, v, tables):
        raise ValueError(reason)
    if (q_segment_ids is None) != (kv_segment_ids is None):
        raise ValueError("segment ids: give q_segment_ids and kv_segment_ids, or neither")
    if logits_soft_cap is not None and not 0 < logits_soft_cap < math.inf:
        raise ValueError(f"logits_soft_cap: expected a number above 0, got {logits_soft_cap}")
    if q_segment_ids is not None and kv_segment_ids is not None:
        # Padding of either side equals nothing of the other, so kernels only compare.
        q_segment_ids = jnp.maximum(q_segment_ids.astype(jnp.int32), -1)
        kv_ids = kv_segment_ids.astype(jnp.int32)
        kv_segment_ids = jnp.where(kv_ids < 0, -2, kv_ids)
    runtime = _Runtime(
        sm_scale.astype(jnp.float32),
        None if sinks is None else sinks.astype(jnp.float32),
        q_segment_ids,
        kv_segment_ids,
    )
    return _attend(logits_soft_cap, q, k, v, runtime, tables)


def refusal(q: jax.Array, k: jax.Array, v: jax.Array, tables: AttentionTables) -> str | None:
    """Why these kernels cannot run this, in a sentence; None if they can."""
    dtypes = {x.dtype.name for x in (q, k, v)}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        return (
            f"q, k, v: the GPU kernels take one dtype of {', '.join(DTYPES)}, got "
            f"{', '.join(sorted(dtypes))}"
        )
    for name, array in (("q", q), ("v", v)):
        if not 0 < array.shape[-1] <= LARGEST_HEAD_DIM:
            return (
                f"{name}: the GPU kernels take head dimensions 1 to {LARGEST_HEAD_DIM}, got "
                f"shape {array.shape}"
            )
    if not all(x.size for x in (q, k, v)):
        return f"q, k, v: nothing to compute for shapes {q.shape}, {k.shape}, {v.shape}"
    for name in ("fwd", "dq", "dkv"):
        table: BlockTable = getattr(tables, name)
        for side, block in (("block_q", table.block_q), ("block_kv", table.block_kv)):
            if largest_tile(block) < MIN_TILE:
                return (
                    f"plan: the GPU kernels need blocks that are multiples of {MIN_TILE}, got "
                    f"{side} {block} in the {name} pass; compile the plan with other blocks"
                )
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    soft_cap: float | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    runtime: _Runtime,
    tables: AttentionTables,
) -> tuple[jax.Array, jax.Array]:
    return _fwd(soft_cap, q, k, v, runtime, tables)[0]


def _fwd(
    soft_cap: float | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    runtime: _Runtime,
    tables: AttentionTables,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    call = _Pass.of(q, k, v, runtime, tables.fwd, "fwd", soft_cap)
    out, lse = launch(
        forward_kernel,
        (q, k, v, runtime.sm_scale, runtime.sinks, *call.operands(runtime, tables)),
        (
            jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype),
            jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32),
        ),
        constants=call.constants | {"has_sinks": runtime.sinks is not None},
        **call.size,
    )
    return (out, lse), (q, k, v, runtime, tables, out, lse)


def _bwd(
    soft_cap: float | None,
    residuals: tuple[Any, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[Any, ...]:
    q, k, v, runtime, tables, out, lse = residuals
    rows = row_gradients(out, lse, *gradients)
    queries = (rows.dout, rows.lse[..., 0], rows.delta[..., 0])
    call = _Pass.of(q, k, v, runtime, tables.dq, "dq", soft_cap)
    dq, dscale = launch(
        dq_kernel,
        (q, k, v, runtime.sm_scale, *queries, *call.operands(runtime, tables)),
        (
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32),
        ),
        constants=call.constants,
        **call.size,
    )
    call = _Pass.of(q, k, v, runtime, tables.dkv, "dkv", soft_cap)
    dk, dv = launch(
        dkv_kernel,
        (q, k, v, runtime.sm_scale, *queries, *call.operands(runtime, tables)),
        (jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)),
        constants=call.constants | {"block_rows": call.lists.words.shape[-2]},
        **call.size,
    )
    dsinks = None
    if runtime.sinks is not None:
        share = jnp.exp(runtime.sinks[:, None] - rows.lse[..., 0])
        dsinks = -(share * rows.delta[..., 0]).sum((0, 2))
    return dq, dk, dv, _Runtime(dscale.sum(), dsinks, None, None), None


_attend.defvjp(_fwd, _bwd)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One kernel launch, as far as the passes are alike.

    Attributes:
        lists: what it reads of the plan.
        constants: sizes and options that the kernel is compiled for.
        size: how many programs of how many warps.
    """

    lists: RowLists
    constants: dict[str, Any]
    size: dict[str, int]

    @classmethod
    def of(
        cls,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        runtime: _Runtime,
        table: BlockTable,
        direction: Direction,
        soft_cap: float | None,
    ) -> _Pass:
        """Decide a pass: tiles, lists, order."""
        (batch, heads, q_len, head_dim), (_, kv_heads, kv_len, v_head_dim) = q.shape, v.shape
        block_q, block_kv = table.block_q, table.block_kv
        width, v_width = padded(head_dim), padded(v_head_dim)
        tile = choose(
            architecture(), q.dtype.itemsize, max(width, v_width), direction, block_q, block_kv
        )
        by_kv = direction == "dkv"
        lanes, length, block = (
            (kv_heads, kv_len, block_kv) if by_kv else (heads, q_len, block_q)
        )
        rows = -(-length // block)
        lists = row_lists(table, rows, transposed=by_kv)
        if runtime.q_segment_ids is not None and runtime.kv_segment_ids is not None:
            q_ids = BlockIds.of(runtime.q_segment_ids, block_q)
            kv_ids = BlockIds.of(runtime.kv_segment_ids, block_kv)
            lists = cut_lists(lists, *((kv_ids, q_ids) if by_kv else (q_ids, kv_ids)))
        has_segments = runtime.q_segment_ids is not None
        has_full, has_partial = table.full_idx.shape[0] > 0, table.partial_idx.shape[0] > 0
        constants = {
            "heads": heads,
            "kv_heads": kv_heads,
            "q_len": q_len,
            "kv_len": kv_len,
            "head_dim": head_dim,
            "v_head_dim": v_head_dim,
            "width": width,
            "v_width": v_width,
            "block_q": block_q,
            "block_kv": block_kv,
            "tile_q": tile.q,
            "tile_kv": tile.kv,
            "row_words": lists.words.shape[-1],
            "masks": table.masks(rows),
            "rows": rows,
            "together": _together(lanes, kv_heads, kv_len * (head_dim + v_head_dim), q.dtype),
            "soft_cap": soft_cap,
            "has_segments": has_segments,
            "has_full": has_full,
            "has_partial": has_partial or (has_segments and has_full),
            "precision": "ieee" if q.dtype == jnp.float32 else "tf32",
        }
        per_row = block // (tile.kv if by_kv else tile.q)
        size = {
            "programs": batch * lanes * rows * per_row,
            "warps": tile.warps,
            "stages": tile.stages,
        }
        return cls(lists, constants, size)

    def operands(
        self, runtime: _Runtime, tables: AttentionTables
    ) -> tuple[jax.Array | None, ...]:
        """What every kernel takes behind its own operands."""
        return (
            runtime.q_segment_ids,
            runtime.kv_segment_ids,
            jnp.asarray(tables.head_mask),
            *self.lists,
        )


def _together(lanes: int, kv_heads: int, elements: int, dtype: jnp.dtype[Any]) -> int:
    """How many lanes start side by side: whole groups whose keys and values fit the L2 cache."""
    fitting = max(SECTION_BYTES // (elements * dtype.itemsize), 1)
    groups = next(n for n in range(min(fitting, kv_heads), 0, -1) if kv_heads % n == 0)
    return groups * (lanes // kv_heads)
