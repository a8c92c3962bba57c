"""What a `MaskInfo` says about itself: the dense mask, ids, lengths, positions, bias."""

# what is private to the class is shared by its modules
from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import DTypeLike

from maskc_runtime.mask_info.cu_seqlens import (
    CuSeqlens,
    SeqlenPairs,
    ids_to_cu_seqlens,
    qkv_masks_to_cu_seqlens,
    read_cu_seqlens,
)
from maskc_runtime.mask_info.debug import logged
from maskc_runtime.mask_info.errors import NotSegmentsError
from maskc_runtime.mask_info.fields import Fields
from maskc_runtime.mask_info.segments import ids_of_mask, positions_in_segments
from maskc_runtime.mask_info.shardings import MaskSharding, shardings
from maskc_runtime.mask_info.terms import both
from maskc_runtime.mask_info.traced import Array, is_traced, namespace

__all__ = ["Views"]


class Views(Fields):
    """Properties and conversions. Nothing here changes the object, or writes into it."""

    # --- the dense mask ------------------------------------------------------------------------

    @property
    def attention_mask(self) -> jax.Array:
        """The whole mask, bool [batch, heads or 1, q_len, kv_len]: computed at each use."""
        return self.get_or_compute_attention_mask()

    @logged
    def get_or_compute_attention_mask(self, dtype: DTypeLike = jnp.bool_) -> jax.Array:
        """The whole mask, [batch, heads or 1, q_len, kv_len], q_len x kv_len elements for each.

        Args:
            dtype: of the result; 1 may attend.

        Raises:
            ArgumentShapeError: the shape is not known.
        """
        from maskc_runtime.mask_info.elements import Grid, evaluate  # brings the compiler

        if self._derived:
            return (jnp.asarray(self._attention_mask) != 0).astype(dtype)
        batch, q_len, kv_len = self._lengths("attention_mask")
        term = both(self._ids_term(), self._whole_term())
        shape = (batch, self.heads, q_len, kv_len)
        if term is None:
            return jnp.ones(shape, dtype)
        mask = evaluate(term, Grid.of(q_len, kv_len))
        return jnp.broadcast_to(mask, shape).astype(dtype)

    @logged
    def materialize_attention_mask(self, dtype: DTypeLike = jnp.bool_) -> Self:
        """A copy that keeps the whole mask, for programs that use it more than once."""
        mask = self.get_or_compute_attention_mask(dtype)
        if self._explicit() is None:
            return self._changed(_attention_mask=mask, _derived=True)
        return self._changed(_attention_mask=mask, _term=None)

    def to_dtype(self, dtype: DTypeLike) -> Self:
        """A copy that keeps the whole mask in `dtype`, as `_attention_mask`."""
        return self.materialize_attention_mask(dtype)

    @property
    def bias(self) -> jax.Array:
        """`create_bias()`."""
        return self.create_bias()

    @logged
    def create_bias(self, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """The whole mask as an additive bias: 0, or the most negative number of `dtype`.

        A query that may attend nothing gets the same number everywhere, so a plain softmax attends
        all keys alike; `maskc_runtime.attention` under `plan()` gives it output 0.
        """
        kind = jnp.dtype(dtype)
        low = jnp.asarray(jnp.finfo(kind).min, kind)  # type: ignore[no-untyped-call]
        return jnp.where(self.get_or_compute_attention_mask(), jnp.zeros((), kind), low)

    # --- segment ids ---------------------------------------------------------------------------

    @property
    def q_segment_ids(self) -> jax.Array:
        """Int32 [batch, q_len] or with heads: tokens of unequal or negative ids do not attend."""
        return self.get_or_compute_segment_ids()[0]

    @property
    def kv_segment_ids(self) -> jax.Array:
        """Int32 [batch, kv_len] or with heads, likewise."""
        return self.get_or_compute_segment_ids()[1]

    @logged
    def get_or_compute_segment_ids(
        self,
        per_head: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """The ids of queries and keys that the mask is a part of.

        If none were given they are found in the mask: the ids that mean the same if there are such,
        else those of its padding.

        Args:
            per_head: ids of each head, [batch, heads, len].
        """
        q, kv = self._known_ids(per_head)
        return jnp.asarray(q), jnp.asarray(kv)

    def _known_ids(self, per_head: bool) -> tuple[Array, Array]:
        """The same, known if what they come from is."""
        q, kv = self._ids()
        if q is None:
            given = None if self._term else self._explicit()
            mask = self.get_or_compute_attention_mask() if given is None else given
            return ids_of_mask(mask, per_head=per_head, inexact="padding")
        if per_head and q.ndim == 2:
            xp = namespace(q, kv)
            q, kv = (xp.repeat(x[:, None], self.heads, axis=1) for x in (q, kv))
        return q, kv

    @logged
    def materialize_segment_ids(
        self,
        per_head: bool = False,
    ) -> Self:
        """A copy that keeps both ids."""
        q, kv = self._known_ids(per_head)
        return self._changed(_q_segment_ids=q, _kv_segment_ids=kv)

    @property
    def is_multi_sequence(self) -> jax.Array:
        """Bool scalar: has a batch row more than one segment?"""
        ids = self.q_segment_ids
        largest = ids.max(-1)
        smallest = jnp.where(ids < 0, np.iinfo(np.int32).max, ids).min(-1)
        return (largest > smallest).any()

    @property
    def q_attention_mask(self) -> jax.Array:
        """Int32 [batch, q_len]: 1, and 0 for padding."""
        return (self.q_segment_ids >= 0).astype(jnp.int32)

    def get_qkv_masks(self, dtype: DTypeLike = jnp.bool_) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Which queries and which keys are no padding, and the whole mask."""
        q, kv = self.get_or_compute_segment_ids()
        mask = self.get_or_compute_attention_mask(dtype)
        return (q >= 0).astype(dtype), (kv >= 0).astype(dtype), mask

    def is_self_attention(self) -> Any:
        """Have queries and keys the same lengths and the same ids? A traced bool if ids are."""
        q, kv = self._ids()
        if q is None:
            return self.q_len is not None and self.q_len == self.kv_len
        if q.shape != kv.shape:
            return False
        if is_traced(q, kv):
            return (q == kv).all()
        return bool(np.array_equal(q, kv))

    @property
    def baked_in_masks(self) -> dict[str, bool]:
        """Which operations were applied."""
        return {
            "causal": self.causal_mask_baked_in,
            "sliding_window": self.sliding_window_baked_in,
            "chunked": self.chunked_mask_baked_in,
            "token_type_ids": self.token_type_ids_baked_in,
        }

    # --- lengths -------------------------------------------------------------------------------

    @property
    def q_lens(self) -> jax.Array:
        """Int32 [batch] or [batch, heads]: queries of each row that are no padding."""
        return (self.q_segment_ids >= 0).sum(-1, dtype=jnp.int32)

    @property
    def kv_lens(self) -> jax.Array:
        """Int32 [batch] or [batch, heads]: keys of each row that are no padding."""
        return (self.kv_segment_ids >= 0).sum(-1, dtype=jnp.int32)

    @property
    def cu_seqlens_q(self) -> CuSeqlens | SeqlenPairs:
        """Cumulative lengths of the queries; see `get_or_compute_qkv_cu_seqlens`."""
        return self.get_or_compute_qkv_cu_seqlens()[0]

    @property
    def cu_seqlens_kv(self) -> CuSeqlens | SeqlenPairs:
        """Cumulative lengths of the keys."""
        return self.get_or_compute_qkv_cu_seqlens()[1]

    @logged
    def get_or_compute_qkv_cu_seqlens(
        self, *, out_dtype: DTypeLike = jnp.int32, max_segments: int | None = None
    ) -> tuple[CuSeqlens | SeqlenPairs, CuSeqlens | SeqlenPairs]:
        """Cumulative lengths: as given; else offsets of the ids' documents; else pairs of the mask.

        Args:
            out_dtype: integer dtype.
            max_segments: for offsets, length - 1; None is as many as there are, or may be under
                `jit`.

        Raises:
            NotSegmentsError: offsets cannot say it: a document in pieces, ids per head, or other
                documents for the keys than for the queries.
        """
        given = self._cu_seqlens_q, self._cu_seqlens_kv
        if given != (None, None):
            q, kv = (given[0] if x is None else x for x in given)
            q = kv if q is None else q
            kinds = (("cu_seqlens_q", q), ("cu_seqlens_kv", kv))
            read = [read_cu_seqlens(where, x).astype(out_dtype) for where, x in kinds]
            return read[0], read[1]
        q_ids, kv_ids = self._ids()
        if q_ids is None:
            mask = self.get_or_compute_attention_mask()
            valid = mask.any((1, 3)), mask.any((1, 2))
            return qkv_masks_to_cu_seqlens(*valid, out_dtype=out_dtype)
        if q_ids.ndim == 3:
            raise NotSegmentsError("cu_seqlens: segment ids per head have no common lengths")
        if not is_traced(q_ids, kv_ids):
            _check_pairs(np.asarray(q_ids), np.asarray(kv_ids))
        q, kv = (ids_to_cu_seqlens(ids, out_dtype, max_segments) for ids in (q_ids, kv_ids))
        return q, kv

    # --- positions -----------------------------------------------------------------------------

    @property
    def q_position_ids(self) -> jax.Array:
        """Int32 [batch, q_len]: each query's number inside its segment, -1 for padding."""
        return positions_in_segments(self.q_segment_ids, pad_value=-1)

    @logged
    def get_or_compute_positions(self) -> tuple[Array, Array]:
        """`q_positions` and `kv_positions`, counted inside segments where they were not given.

        Padding is at -1 among queries and at the largest int32 among keys; None if nothing says
        which tokens there are.
        """
        q, kv = self.q_positions, self.kv_positions
        if (q is None or kv is None) and None not in self.shape:
            ids = self.get_or_compute_segment_ids()
            far = int(np.iinfo(np.int32).max)
            q = positions_in_segments(ids[0], pad_value=-1) if q is None else q
            kv = positions_in_segments(ids[1], pad_value=far) if kv is None else kv
        return q, kv

    # --- shardings -----------------------------------------------------------------------------

    @staticmethod
    def get_empty_sharding() -> MaskSharding:
        """A `MaskSharding` of None."""
        return MaskSharding(*(None for _ in MaskSharding._fields))

    def get_shardings(
        self,
        sequence_parallel: bool = False,
        *,
        mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    ) -> MaskSharding:
        """How the arrays are laid out on a mesh.

        Axes that the mesh does not have, or that do not divide a length, are left out.

        Args:
            sequence_parallel: split the sequences too, over `sequence_axis_name`.
            mesh: the devices.
        """
        return shardings(self, mesh, sequence_parallel=sequence_parallel)


def _check_pairs(q: npt.NDArray[Any], kv: npt.NDArray[Any]) -> None:
    """Document i of the queries must be document i of the keys."""
    for row, (a, b) in enumerate(zip(q, kv, strict=True)):
        runs = [ids[ids >= 0] for ids in (a, b)]
        order = [ids[np.diff(ids, prepend=-1) != 0] for ids in runs]
        if not np.array_equal(*order):
            raise NotSegmentsError(
                f"cu_seqlens: row {row} has other documents among its keys than among its queries, "
                "which offsets cannot pair; use segment ids"
            )
