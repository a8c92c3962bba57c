"""The arguments of attention: checked at trace time, and brought to the form that kernels take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from maskc_kernels.dtypes import INPUT_DTYPES
from maskc_runtime.errors import ArgumentShapeError, ArgumentTypeError, ArgumentValueError

if TYPE_CHECKING:
    from maskc_runtime.traced import TracedPlan
    from maskc_runtime.view import PlanView

__all__ = [
    "SegmentIdsArgument",
    "check_dtypes",
    "check_plan",
    "check_shapes",
    "option_arrays",
    "scalar",
    "soft_cap",
]

SegmentIdsArgument: TypeAlias = tuple[Any, Any] | jax.typing.ArrayLike | None
"""A pair of ids for queries and keys, or one array for both."""


def check_dtypes(**arrays: jax.Array) -> None:
    """Are these of a dtype that attention computes with?"""
    for name, array in arrays.items():
        if array.dtype.name not in INPUT_DTYPES:
            raise ArgumentTypeError(
                f"{name}: expected one of {', '.join(INPUT_DTYPES)}, got {array.dtype.name} of "
                f"shape {array.shape}"
            )


def check_shapes(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
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


def check_plan(q: jax.Array, k: jax.Array, v: jax.Array, plan: PlanView | TracedPlan) -> None:
    """Do they fit the plan?"""
    if stacked := getattr(plan, "stacked", ()):
        raise ArgumentShapeError(
            f"plan: {plan.name} is a stack of shape {list(stacked)}; give attention one of its "
            "plans, as jax.lax.scan and plan[index] do"
        )
    covered = (
        f"plan {plan.name} was compiled for {plan.heads} heads of {plan.q_len} queries x "
        f"{plan.kv_len} keys"
    )
    if q.shape[-3:-1] != (plan.heads, plan.q_len):
        raise ArgumentShapeError(f"q: {covered}, got q of shape {q.shape}")
    if k.shape[-2] != plan.kv_len:
        raise ArgumentShapeError(f"k: {covered}, got k of shape {k.shape} and v of {v.shape}")


def scalar(sm_scale: float | jax.typing.ArrayLike | None, q: jax.Array) -> jax.Array:
    """The scale as an array, by default head_dim**-0.5."""
    scale = jnp.asarray(q.shape[-1] ** -0.5 if sm_scale is None else sm_scale)
    if scale.ndim:
        raise ArgumentShapeError(f"sm_scale: expected a scalar, got shape {scale.shape}")
    return scale


def soft_cap(cap: object) -> float | None:
    """The soft cap as a Python number: it is part of the program."""
    if cap is None:
        return None
    if isinstance(cap, Tracer):
        raise ArgumentTypeError(
            "logits_soft_cap: expected a number that is known when the function is traced, got a "
            "traced value; make it a static argument"
        )
    if isinstance(cap, jax.Array) and cap.ndim == 0:
        cap = cap.item()
    if isinstance(cap, bool) or not isinstance(cap, int | float | np.number):
        raise ArgumentTypeError(f"logits_soft_cap: expected a number, got {cap!r}")
    if not (0 < cap < math.inf):
        raise ArgumentValueError(f"logits_soft_cap: expected a positive number, got {cap!r}")
    return float(cap)


def option_arrays(
    q: jax.Array,
    k: jax.Array,
    segment_ids: SegmentIdsArgument,
    sinks: jax.typing.ArrayLike | None,
    bias: jax.typing.ArrayLike | None,
) -> dict[str, jax.Array]:
    """The options that are arrays, for a q and k with a batch; those not given are left out.

    Args:
        q: as the caller gave it, of rank 3 or 4.
        k: likewise.
        segment_ids: see `attention`; likewise the others.
        sinks: see `attention`.
        bias: see `attention`.
    """
    arrays: dict[str, jax.Array] = {}
    if segment_ids is not None:
        pair = isinstance(segment_ids, tuple)
        sides: tuple[Any, ...] = (segment_ids, segment_ids)
        sides = segment_ids if isinstance(segment_ids, tuple) else sides
        if len(sides) != 2:
            raise ArgumentTypeError(
                f"segment_ids: expected SegmentIds(q, kv) or one array, got {len(sides)} entries"
            )
        for side, array, ids in zip(("q", "kv"), (q, k), sides, strict=True):
            name = f"segment_ids.{side}" if pair else "segment_ids"
            arrays[f"{side}_segment_ids"] = _ids(name, ids, side, array)
    if sinks is not None:
        arrays["sinks"] = _sinks(sinks, q)
    if bias is not None:
        arrays["bias"] = _bias(bias, q, k)
    return arrays


def _ids(name: str, values: Any, side: str, array: jax.Array) -> jax.Array:
    batch, length = array.shape[:-3], array.shape[-2]
    if not isinstance(values, jax.Array):
        values = _fitting_int32(name, np.asarray(values))
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ArgumentTypeError(
            f"{name}: expected integers, got {values.dtype.name} of shape {values.shape}"
        )
    if values.shape not in {(length,), (*batch, length)}:
        both = " (one array is the ids of queries and keys alike)" if "." not in name else ""
        raise ArgumentShapeError(
            f"{name}: expected [batch, {side}_len] = {[*batch, length]}, or [{length}] for all "
            f"batch rows, got shape {values.shape}{both}"
        )
    ids = jnp.asarray(values).astype(jnp.int32)
    return jnp.broadcast_to(ids, (*(batch or (1,)), length))


def _fitting_int32(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    bounds = np.iinfo(np.int32)
    if values.size and values.dtype.kind in "iu":
        if values.max() > bounds.max or values.min() < bounds.min:
            raise ArgumentValueError(f"{name}: expected ids that fit int32, got {values.max()}")
        return values.astype(np.int32)
    return values


def _sinks(values: jax.typing.ArrayLike, q: jax.Array) -> jax.Array:
    sinks = jnp.asarray(values)
    heads = q.shape[-3]
    if not jnp.issubdtype(sinks.dtype, jnp.floating):
        sinks = sinks.astype(jnp.float32)
    if sinks.shape not in {(), (heads,)}:
        raise ArgumentShapeError(
            f"sinks: expected a scalar or [heads] = [{heads}], got shape {sinks.shape}"
        )
    return jnp.broadcast_to(sinks, (heads,))


def _bias(values: jax.typing.ArrayLike, q: jax.Array, k: jax.Array) -> jax.Array:
    bias, whole = jnp.asarray(values), (*q.shape[:-1], k.shape[-2])
    if not jnp.issubdtype(bias.dtype, jnp.floating):
        raise ArgumentTypeError(
            f"bias: expected floating-point numbers, got {bias.dtype.name} of shape {bias.shape}; "
            "a mask of booleans belongs into the plan"
        )
    pairs = zip(bias.shape, whole, strict=False)
    if bias.ndim != q.ndim or any(size not in {1, full} for size, full in pairs):
        names = "[batch, heads, q_len, kv_len]" if q.ndim == 4 else "[heads, q_len, kv_len]"
        raise ArgumentShapeError(
            f"bias: expected {names} = {list(whole)}, each of them or 1, got shape {bias.shape}"
        )
    bias = jnp.broadcast_to(bias, (*bias.shape[:-1], whole[-1]))
    return bias if q.ndim == 4 else bias[None]
