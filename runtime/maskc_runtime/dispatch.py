"""Attention under a plan: checks, conventions, and which kernels run where."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import INPUT_DTYPES, accumulator
from maskc_kernels.tables import AttentionTables
from maskc_kernels.xla import block_sparse_attention
from maskc_runtime.errors import ArgumentShapeError, ArgumentTypeError
from maskc_runtime.plans import PlanRef, load_plan

if TYPE_CHECKING:
    from maskc_runtime.view import PlanView

__all__ = ["attention"]

Backend: TypeAlias = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array, AttentionTables], tuple[jax.Array, jax.Array]
]
"""(q, k, v, sm_scale, tables) -> (output, log-sum-exp), differentiable."""

_BACKENDS: dict[str, Backend] = {}
"""By platform, as `jax.lax.platform_dependent` names them: "cpu", "cuda", "rocm", "tpu"."""

_ANYWHERE: Backend = block_sparse_attention
"""What runs on every platform that has no entry above."""


def attention(
    q: jax.typing.ArrayLike,
    k: jax.typing.ArrayLike,
    v: jax.typing.ArrayLike,
    plan: PlanRef,
    *,
    sm_scale: float | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Softmax attention that computes only the blocks that a plan calls non-empty.

    Exact, in time that falls with the mask's density, and without an array of size q_len x kv_len.
    Works under `jit`, `grad` (reverse mode, in q, k, v and sm_scale), `vmap` and `checkpoint`.
    A query that may attend nothing gets output 0 and zero gradients. Lengths need not be multiples
    of the plan's blocks.

    Without a batch, every array has rank 3.

    Args:
        q: [batch, heads, q_len, head_dim], bfloat16, float16, float32 or float64.
        k: [batch, kv_heads, kv_len, head_dim]. kv_heads divides heads; query head h uses kv head
            `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        plan: a plan, or whatever `load_plan` takes; it decides heads, q_len and kv_len.
        sm_scale: factor on the scores q . k, a number or a scalar array (traced or not); None is
            head_dim**-0.5.

    Returns:
        [batch, heads, q_len, v_head_dim] in q's dtype. Sums are kept in float32, or float64 if an
        input is float64.

    Raises:
        ArgumentShapeError: the shapes disagree with each other or with the plan.
        ArgumentTypeError: an input is not of one of the dtypes above.
        MaskcError: `plan` cannot be loaded; see `load_plan`.
    """
    view = load_plan(plan)
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    _check_dtypes(q=q, k=k, v=v)
    _check_shapes(q, k, v)
    _check_plan(q, k, v, view)
    scale = _scale(sm_scale, q)
    operands = [x if x.ndim == 4 else x[None] for x in (q, k, v)]
    out: jax.Array
    out, _ = jax.lax.platform_dependent(
        *operands,
        scale.astype(accumulator(q, k, v)),
        view.tables,
        default=_ANYWHERE,
        **_BACKENDS,
    )
    return out if q.ndim == 4 else out[0]


def _scale(sm_scale: float | jax.typing.ArrayLike | None, q: jax.Array) -> jax.Array:
    scale = jnp.asarray(q.shape[-1] ** -0.5 if sm_scale is None else sm_scale)
    if scale.ndim:
        raise ArgumentShapeError(f"sm_scale: expected a scalar, got shape {scale.shape}")
    return scale


def _check_dtypes(**arrays: jax.Array) -> None:
    for name, array in arrays.items():
        if array.dtype.name not in INPUT_DTYPES:
            raise ArgumentTypeError(
                f"{name}: expected one of {', '.join(INPUT_DTYPES)}, got {array.dtype.name} of "
                f"shape {array.shape}"
            )


def _check_shapes(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    """Do q, k and v fit each other?"""
    if q.ndim not in {3, 4}:
        raise ArgumentShapeError(
            "q: expected [batch, heads, q_len, head_dim] or [heads, q_len, head_dim], "
            f"got shape {q.shape}"
        )
    for name, array in (("k", k), ("v", v)):
        if array.ndim != q.ndim or array.shape[:-3] != q.shape[:-3]:
            raise ArgumentShapeError(
                f"{name}: expected rank {q.ndim} and the batch of q {q.shape}, got shape "
                f"{array.shape}"
            )
    if v.shape[-3:-1] != k.shape[-3:-1]:
        raise ArgumentShapeError(
            f"v: expected the kv_heads and kv_len of k {k.shape}, got shape {v.shape}"
        )
    if k.shape[-1] != q.shape[-1]:
        raise ArgumentShapeError(f"k: expected the head_dim of q {q.shape}, got shape {k.shape}")
    if not k.shape[-3] or q.shape[-3] % k.shape[-3]:
        raise ArgumentShapeError(
            f"k: expected kv_heads to divide the {q.shape[-3]} heads of q {q.shape}, got shape "
            f"{k.shape}"
        )


def _check_plan(q: jax.Array, k: jax.Array, v: jax.Array, view: PlanView) -> None:
    """Do they fit the plan?"""
    covered = (
        f"plan {view.key[:12]} was compiled for {view.heads} heads of {view.q_len} queries x "
        f"{view.kv_len} keys"
    )
    if q.shape[-3:-1] != (view.heads, view.q_len):
        raise ArgumentShapeError(f"q: {covered}, got q of shape {q.shape}")
    if k.shape[-2] != view.kv_len:
        raise ArgumentShapeError(f"k: {covered}, got k of shape {k.shape} and v of {v.shape}")
