"""How the arrays of a `MaskInfo` are laid out on a mesh."""

# ruff: noqa: SLF001  # what is private to the class is shared by its modules
from __future__ import annotations

from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec

from maskc_runtime.mask_info.fields import AxisNames, Fields
from maskc_runtime.mask_info.traced import Array

__all__ = ["MaskSharding", "shardings"]


class MaskSharding(NamedTuple):
    """A `PartitionSpec` for each array, None for those that are not there."""

    attention_mask: PartitionSpec | None
    q_segment_ids: PartitionSpec | None
    kv_segment_ids: PartitionSpec | None
    cu_seqlens_q: PartitionSpec | None
    cu_seqlens_kv: PartitionSpec | None
    q_positions: PartitionSpec | None
    kv_positions: PartitionSpec | None


def shardings(
    info: Fields, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, *, sequence_parallel: bool
) -> MaskSharding:
    """The layout of `info` on `mesh`; cumulative lengths are on every device."""
    sizes = dict(mesh.shape)
    sequence = info.sequence_axis_name if sequence_parallel else None

    def spec(array: Array, *axes: AxisNames) -> PartitionSpec | None:
        if array is None:
            return None
        named = zip(array.shape, axes, strict=True)
        names = (_present(axis, length, sizes) for length, axis in named)
        return PartitionSpec(*names)  # type: ignore[no-untyped-call]

    def tokens(array: Array, heads: AxisNames) -> PartitionSpec | None:
        if array is not None and array.ndim == 3:
            return spec(array, info.batch_axis_name, heads, sequence)
        return spec(array, info.batch_axis_name, sequence)

    mask = info._attention_mask
    heads = (info.qheads_axis_name,) if mask is not None and mask.ndim == 4 else ()
    return MaskSharding(
        attention_mask=spec(mask, info.batch_axis_name, *heads, sequence, None),
        q_segment_ids=tokens(info._q_segment_ids, info.qheads_axis_name),
        kv_segment_ids=tokens(info._kv_segment_ids, info.kvheads_axis_name),
        cu_seqlens_q=None,
        cu_seqlens_kv=None,
        q_positions=spec(info.q_positions, info.batch_axis_name, sequence),
        kv_positions=spec(info.kv_positions, info.batch_axis_name, sequence),
    )


def _present(axis: AxisNames, length: int, sizes: dict[str, int]) -> AxisNames:
    """The mesh axes of these names that exist and together divide a length."""
    names: list[str] = []
    devices = 1
    for name in (axis,) if isinstance(axis, str) else axis or ():
        if name in sizes and length % (devices * sizes[name]) == 0:
            names.append(name)
            devices *= sizes[name]
    return tuple(names) if len(names) > 1 else next(iter(names), None)
