"""Attention over the devices of a mesh: batch, heads and queries are split, keys are not."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from maskc_runtime.arguments import SegmentIdsArgument, check_shapes, option_arrays, scalar
from maskc_runtime.backends import BackendChoice
from maskc_runtime.dispatch import attend
from maskc_runtime.errors import ArgumentShapeError, ArgumentValueError
from maskc_runtime.plans import PlanRef
from maskc_runtime.stack import shard_plan
from maskc_runtime.traced import TracedPlan

__all__ = ["sharded_attention"]

Axis: TypeAlias = str | tuple[str, ...] | None
"""The mesh axes that an axis of an array is split over."""


def sharded_attention(
    q: jax.typing.ArrayLike,
    k: jax.typing.ArrayLike,
    v: jax.typing.ArrayLike,
    plan: PlanRef | TracedPlan,
    mesh: Mesh,
    *,
    batch_axis: Axis = None,
    head_axis: Axis = None,
    q_seq_axis: Axis = None,
    sm_scale: float | jax.typing.ArrayLike | None = None,
    segment_ids: SegmentIdsArgument = None,
    logits_soft_cap: float | None = None,
    sinks: jax.typing.ArrayLike | None = None,
    bias: jax.typing.ArrayLike | None = None,
    return_lse: bool = False,
    backend: BackendChoice = None,
    config: Any = None,
) -> Any:
    """`attention` with every device at its own batch rows, heads and queries.

    Each device holds the part of the plan that its heads and queries need, and the keys and values
    of its batch rows and heads in full. The only communication is JAX's own, in the backward pass:
    the gradients of k and v are summed over `q_seq_axis`.

    Args:
        q: [batch, heads, q_len, head_dim]; the arrays are those of the whole call.
        k: [batch, kv_heads, kv_len, head_dim]. If there are fewer kv heads than `head_axis` has
            devices, each device uses the one that it needs.
        v: [batch, kv_heads, kv_len, v_head_dim].
        plan: the whole plan, or `shard_plan(plan, head_shards, q_seq_shards)` for this mesh.
        mesh: the devices.
        batch_axis: mesh axes that split the batch; None does not split it.
        head_axis: mesh axes that split the heads.
        q_seq_axis: mesh axes that split the queries, in whole blocks of every pass.
        sm_scale: as for `attention`; likewise the other arguments.
        segment_ids: see sm_scale.
        logits_soft_cap: see sm_scale.
        sinks: see sm_scale.
        bias: see sm_scale.
        return_lse: see sm_scale.
        backend: see sm_scale.
        config: see sm_scale.

    Returns:
        As `attention`, split like q.

    Raises:
        ArgumentShapeError: an axis does not split evenly, or q has no batch.
        ArgumentValueError: the mesh has no such axis, or the plan does not split this way.
        MaskcError: whatever `attention` raises.
    """
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    check_shapes(q, k, v)
    if q.ndim != 4:
        raise ArgumentShapeError(
            f"q: expected [batch, heads, q_len, head_dim], got shape {q.shape}"
        )
    sizes = {
        "batch_axis": _size(mesh, "batch_axis", batch_axis),
        "head_axis": _size(mesh, "head_axis", head_axis),
        "q_seq_axis": _size(mesh, "q_seq_axis", q_seq_axis),
    }
    for (name, size), length in zip(sizes.items(), q.shape, strict=False):
        if length % size:
            raise ArgumentShapeError(
                f"{name}: its {size} devices do not divide {length} in q of shape {q.shape}"
            )
    shards = (sizes["head_axis"], sizes["q_seq_axis"])
    parts = plan if isinstance(plan, TracedPlan) else shard_plan(plan, *shards)
    if parts.stacked != shards:
        raise ArgumentValueError(
            f"plan: expected {list(shards)} shards of heads and queries, got {parts}"
        )
    kv_axis = _kv_axis(k, head_axis, sizes["head_axis"])
    arrays = option_arrays(q, k, segment_ids, sinks, bias)
    names = (batch_axis, head_axis, q_seq_axis)
    kv_spec = _split(batch_axis, kv_axis, None, None)
    specs = (
        _split(*names, None),
        kv_spec,
        kv_spec,
        _split(),
        jax.tree.map(lambda _: _split(head_axis, q_seq_axis), parts),
        {name: _option_spec(name, array, names) for name, array in arrays.items()},
    )

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        scale: jax.Array,
        plan: TracedPlan,
        arrays: dict[str, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        if kv_axis is None and head_axis is not None:
            k, v = (_own_head(x, head_axis, sizes["head_axis"]) for x in (k, v))
        ids = arrays.get("q_segment_ids"), arrays.get("kv_segment_ids")
        return attend(
            q,
            k,
            v,
            plan[0, 0],
            sm_scale=scale,
            segment_ids=None if ids[0] is None else ids,
            logits_soft_cap=logits_soft_cap,
            sinks=arrays.get("sinks"),
            bias=arrays.get("bias"),
            backend=backend,
            config=config,
        )

    operands = (q, k, v, scalar(sm_scale, q), parts, arrays)
    if AxisType.Explicit in mesh.axis_types:
        operands = jax.tree.map(
            lambda x, spec: jax.sharding.reshard(jnp.asarray(x), NamedSharding(mesh, spec)),  # type: ignore[no-untyped-call]
            operands,
            specs,
        )
    # The kernels of some backends do not say over which axes their results vary.
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs,
        out_specs=(_split(*names, None), _split(*names)),
        check_vma=False,
    )
    out, lse = mapped(*operands)
    return (out, lse) if return_lse else out


def _split(*axes: Axis) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


def _size(mesh: Mesh, name: str, axis: Axis) -> int:
    names = () if axis is None else (axis,) if isinstance(axis, str) else axis
    for one in names:
        if one not in mesh.shape:
            raise ArgumentValueError(
                f"{name}: expected axes of the mesh, {', '.join(mesh.axis_names)}, got {one!r}"
            )
    return math.prod(mesh.shape[one] for one in names)


def _kv_axis(k: jax.Array, head_axis: Axis, size: int) -> Axis:
    """The axes that split the kv heads; None if each device picks its one."""
    kv_heads = k.shape[1]
    if kv_heads % size == 0:
        return head_axis
    if size % kv_heads == 0:
        return None
    raise ArgumentShapeError(
        f"head_axis: its {size} devices and the {kv_heads} kv heads of k {k.shape} do not divide "
        "one another"
    )


def _own_head(x: jax.Array, head_axis: Axis, size: int) -> jax.Array:
    """The one kv head that the query heads of this device use."""
    number = jax.lax.axis_index(head_axis) * x.shape[1] // size
    own: jax.Array = jax.lax.dynamic_slice_in_dim(x, number, 1, axis=1)
    return own


def _option_spec(name: str, array: jax.Array, names: tuple[Axis, Axis, Axis]) -> PartitionSpec:
    """How an option is split, from how q is."""
    batch_axis, head_axis, q_seq_axis = names
    match name:
        case "q_segment_ids":
            return _split(batch_axis, q_seq_axis)
        case "kv_segment_ids":
            return _split(batch_axis, None)
        case "sinks":
            return _split(head_axis)
    pairs = zip(array.shape, names, strict=False)
    return _split(*(axis if size > 1 else None for size, axis in pairs), None)
