"""Attention over the devices of a mesh: batch, heads and queries are split, keys are not."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, TypeAlias

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
    axes = _Axes(mesh, batch_axis, head_axis, q_seq_axis)
    axes.check(q)
    shards = axes.size("head_axis"), axes.size("q_seq_axis")
    parts = plan if isinstance(plan, TracedPlan) else shard_plan(plan, *shards)
    if parts.stacked != shards:
        raise ArgumentValueError(
            f"plan: expected {list(shards)} shards of heads and queries, got {parts}"
        )
    arrays = option_arrays(q, k, segment_ids, sinks, bias)
    operands = _Operands(q, k, v, scalar(sm_scale, q), parts, arrays)
    specs = axes.specs(operands)
    if AxisType.Explicit in mesh.axis_types:
        operands = jax.tree.map(
            lambda x, spec: jax.sharding.reshard(jnp.asarray(x), NamedSharding(mesh, spec)),  # type: ignore[no-untyped-call]
            operands,
            specs,
        )
    static = {"logits_soft_cap": logits_soft_cap, "backend": backend, "config": config}
    # The kernels of some backends do not say over which axes their results vary.
    mapped = jax.shard_map(
        functools.partial(_on_one_device, axes.kv_heads(k), static),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(specs.q, _split(*axes.names)),
        check_vma=False,
    )
    out, lse = mapped(operands)
    return (out, lse) if return_lse else out


class _Operands(NamedTuple):
    """What is split over the mesh."""

    q: Any
    k: Any
    v: Any
    scale: Any
    plan: Any
    options: dict[str, Any]


class _Axes(NamedTuple):
    """A mesh, and which of its axes split what."""

    mesh: Mesh
    batch_axis: Axis
    head_axis: Axis
    q_seq_axis: Axis

    @property
    def names(self) -> tuple[Axis, Axis, Axis]:
        return self[1:]

    def size(self, name: str) -> int:
        """Over how many devices an axis splits."""
        axis: Axis = getattr(self, name)
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        for one in names:
            if one not in self.mesh.shape:
                raise ArgumentValueError(
                    f"{name}: expected axes of the mesh, {', '.join(self.mesh.axis_names)}, got "
                    f"{one!r}"
                )
        return math.prod(self.mesh.shape[one] for one in names)

    def check(self, q: jax.Array) -> None:
        """Does q split evenly?"""
        if q.ndim != 4:
            raise ArgumentShapeError(
                f"q: expected [batch, heads, q_len, head_dim], got shape {q.shape}"
            )
        for name, length in zip(self._fields[1:], q.shape, strict=False):
            if length % self.size(name):
                raise ArgumentShapeError(
                    f"{name}: its {self.size(name)} devices do not divide {length} in q of shape "
                    f"{q.shape}"
                )

    def kv_heads(self, k: jax.Array) -> tuple[Axis, int] | None:
        """None if the kv heads are split; else by which axes, and how many, a device picks one."""
        size, kv_heads = self.size("head_axis"), k.shape[1]
        if kv_heads % size == 0:
            return None
        if size % kv_heads == 0:
            return self.head_axis, size
        raise ArgumentShapeError(
            f"head_axis: its {size} devices and the {kv_heads} kv heads of k {k.shape} do not "
            "divide one another"
        )

    def specs(self, operands: _Operands) -> _Operands:
        """How every operand is split."""
        kv = _split(self.batch_axis, None if self.kv_heads(operands.k) else self.head_axis)
        plan = jax.tree.map(lambda _: _split(self.head_axis, self.q_seq_axis), operands.plan)
        options = {name: self._option(name, array) for name, array in operands.options.items()}
        return _Operands(_split(*self.names, None), kv, kv, _split(), plan, options)

    def _option(self, name: str, array: jax.Array) -> PartitionSpec:
        match name:
            case "q_segment_ids":
                return _split(self.batch_axis, self.q_seq_axis)
            case "kv_segment_ids":
                return _split(self.batch_axis, None)
            case "sinks":
                return _split(self.head_axis)
        pairs = zip(array.shape, self.names, strict=False)
        return _split(*(axis if size > 1 else None for size, axis in pairs))


def _on_one_device(
    pick: tuple[Axis, int] | None, static: dict[str, Any], operands: _Operands
) -> tuple[jax.Array, jax.Array]:
    k, v = operands.k, operands.v
    if pick is not None:
        k, v = (_own_head(x, *pick) for x in (k, v))
    given = dict(operands.options)
    ids = given.pop("q_segment_ids", None), given.pop("kv_segment_ids", None)
    segment_ids = None if ids[0] is None else ids
    plan, scale = operands.plan[0, 0], operands.scale
    return attend(
        operands.q, k, v, plan, sm_scale=scale, segment_ids=segment_ids, **given, **static
    )


def _own_head(x: jax.Array, head_axis: Axis, size: int) -> jax.Array:
    """The one kv head that the query heads of this device use."""
    number = jax.lax.axis_index(head_axis) * x.shape[1] // size
    own: jax.Array = jax.lax.dynamic_slice_in_dim(x, number, 1, axis=1)
    return own


def _split(*axes: Axis) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]
