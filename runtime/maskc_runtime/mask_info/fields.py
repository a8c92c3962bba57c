"""What a `MaskInfo` holds: its fields, its identity, and how it is changed."""

# ruff: noqa: SLF001  # what is private to the class is shared by its modules
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Self

import jax
import numpy as np
import xxhash

from maskc_runtime.mask_info.errors import ArgumentShapeError, ArgumentTypeError
from maskc_runtime.mask_info.segments import integers, truth
from maskc_runtime.mask_info.terms import Equal, Stored, Term, both, heads_of
from maskc_runtime.mask_info.traced import Array, host, namespace

__all__ = ["AxisNames", "Fields"]

AxisNames = tuple[str, ...] | str | None


class _Keep:
    """The default of `replace`: leave the field as it is."""

    def __repr__(self) -> str:
        return "KEEP"


_KEEP: Final = _Keep()


@dataclass(frozen=True, eq=False, repr=False)
class Fields:
    """The fields, which are ejKernel's in their order, and one more.

    A pair may attend if its segment ids are equal and not negative, and the explicit mask and the
    further conditions allow it; what is None allows every pair.

    Attributes:
        _attention_mask: [batch, heads or 1, q_len, kv_len] or without heads; not zero is True.
        _q_segment_ids: int32 [batch, q_len] or [batch, heads, q_len]; negative is padding.
        _kv_segment_ids: int32 [batch, kv_len] likewise; None is the ids of the queries.
        _cu_seqlens_q: `CuSeqlens` or `SeqlenPairs` that the ids came from, or None.
        _cu_seqlens_kv: the same for the keys.
        q_positions: int32 [batch, q_len], for positional embeddings; None counts in each segment.
        kv_positions: int32 [batch, kv_len].
        causal_mask_baked_in: `apply_causal` was applied.
        sliding_window_baked_in: `apply_sliding_window` was.
        chunked_mask_baked_in: `apply_chunked` was.
        token_type_ids_baked_in: `apply_token_type_ids` was.
        batch_axis_name: mesh axes of the batch.
        qheads_axis_name: mesh axes of the query heads.
        kvheads_axis_name: mesh axes of the kv heads.
        sequence_axis_name: mesh axes of the sequence.
        _term: the further conditions, as a tree.
        _derived: `_attention_mask` only repeats what the other fields say.
    """

    _attention_mask: Array = None
    _q_segment_ids: Array = None
    _kv_segment_ids: Array = None
    _cu_seqlens_q: Array = None
    _cu_seqlens_kv: Array = None
    q_positions: Array = None
    kv_positions: Array = None
    causal_mask_baked_in: bool = False
    sliding_window_baked_in: bool = False
    chunked_mask_baked_in: bool = False
    token_type_ids_baked_in: bool = False
    batch_axis_name: AxisNames = ("dp", "fsdp")
    qheads_axis_name: AxisNames = "tp"
    kvheads_axis_name: AxisNames = "tp"
    sequence_axis_name: AxisNames = "sp"
    _term: Term | None = None
    _derived: bool = False

    # --- a pytree ------------------------------------------------------------------------------

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The arrays and the conditions; axis names and flags are static."""
        return tuple(getattr(self, n) for n in LEAVES), tuple(getattr(self, n) for n in STATIC)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        """The same with the names of the fields."""
        children, static = self.tree_flatten()
        keys = (jax.tree_util.GetAttrKey(name.removeprefix("_")) for name in LEAVES)
        return tuple(zip(keys, children, strict=True)), static

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: tuple[Any, ...]) -> Self:
        """The inverse of `tree_flatten`."""
        made = object.__new__(cls)
        for names, values in ((LEAVES, children), (STATIC, static)):
            for name, value in zip(names, values, strict=True):
                object.__setattr__(made, name, value)
        return made

    # --- identity ------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fields):
            return NotImplemented
        if self is other:
            return True
        (ours, tree), (theirs, other_tree) = (x._identity() for x in (self, other))
        return tree == other_tree and all(map(_same, ours, theirs))

    def __hash__(self) -> int:
        leaves, tree = self._identity()
        state = xxhash.xxh3_64()
        for leaf in leaves:
            state.update(f"{leaf.dtype} {leaf.shape}".encode())
            state.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
        return hash((tree, state.intdigest()))

    def _identity(self) -> tuple[list[Any], Any]:
        """Known leaves and the tree; what only repeats the others is left out."""
        info = self._changed(_attention_mask=None, _derived=False) if self._derived else self
        leaves, tree = jax.tree.flatten(info)
        return [host(leaf, "MaskInfo: == and hash", "values") for leaf in leaves], tree

    # --- shapes --------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int | None:
        """Batch rows; None if nothing says."""
        sources = (self._q_segment_ids, self._kv_segment_ids, self._attention_mask)
        sizes = [int(source.shape[0]) for source in sources if source is not None]
        pairs = (self._cu_seqlens_q, self._cu_seqlens_kv)
        sizes += [cu.batch_size for cu in pairs if hasattr(cu, "batch_size")]
        return max(sizes) if sizes else None

    @property
    def q_len(self) -> int | None:
        """Queries; None if nothing says."""
        sources = (self._q_segment_ids, -1), (self._attention_mask, -2), (self._kv_segment_ids, -1)
        for source, axis in sources:
            if source is not None:
                return int(source.shape[axis])
        return None

    @property
    def kv_len(self) -> int | None:
        """Keys; None if nothing says."""
        for source in (self._kv_segment_ids, self._attention_mask, self._q_segment_ids):
            if source is not None:
                return int(source.shape[-1])
        return None

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """`(batch_size, q_len, kv_len)`."""
        return self.batch_size, self.q_len, self.kv_len

    @property
    def heads(self) -> int:
        """Heads that have masks of their own; 1 if all share one."""
        own = [heads_of(self._whole_term())]
        own += [x.shape[1] for x in (self._q_segment_ids,) if x is not None and x.ndim == 3]
        return max(own)

    def _lengths(self, where: str) -> tuple[int, int, int]:
        """The shape, which must be known."""
        batch, q_len, kv_len = self.shape
        if q_len is None or kv_len is None or batch is None:
            raise ArgumentShapeError(
                f"{where}: expected a mask of known shape, got (batch, q_len, kv_len) = "
                f"{self.shape}; start from segment ids, a mask, lengths or a plan"
            )
        return batch, q_len, kv_len

    # --- parts ---------------------------------------------------------------------------------

    def _ids(self) -> tuple[Array, Array]:
        """The ids of queries and keys that were given; None for both if none were."""
        q, kv = self._q_segment_ids, self._kv_segment_ids
        if q is None and kv is None:
            return None, None
        ids = (kv if q is None else q), (q if kv is None else kv)
        return integers("q_segment_ids", ids[0], 2, 3), integers("kv_segment_ids", ids[1], 2, 3)

    def _explicit(self) -> Array:
        """The explicit mask with a heads axis, if it says what the other fields do not."""
        if self._attention_mask is None or self._derived:
            return None
        mask = self._attention_mask
        if mask.ndim not in {3, 4}:
            raise ArgumentShapeError(
                "_attention_mask: expected [batch, heads or 1, q_len, kv_len] or [batch, q_len, "
                f"kv_len], got shape {mask.shape}; for padding use from_attention_mask"
            )
        mask = truth("_attention_mask", mask)
        return mask[:, None] if mask.ndim == 3 else mask

    def _whole_term(self) -> Term | None:
        """Every condition but the ids."""
        explicit = self._explicit()
        return both(self._term, None if explicit is None else Stored(explicit))

    def _ids_term(self) -> Term | None:
        q, kv = self._ids()
        return None if q is None else Equal(q, kv)

    def _changed(self, **fields: Any) -> Self:
        """A copy with other fields."""
        return dataclasses.replace(self, **fields)

    def _restricted(self, term: Term, batch: int = 1, **fields: Any) -> Self:
        """A copy in which a further condition holds, of as many batch rows as that has."""
        info = self._of_batch(batch)
        if info._derived:
            fields |= {"_attention_mask": None, "_derived": False}
        return info._changed(_term=both(self._term, term), **fields)

    def _of_batch(self, batch: int) -> Self:
        """One row repeated, or as it is."""
        own = self.batch_size
        if own is None or batch in {1, own}:
            return self
        if own != 1:
            raise ArgumentShapeError(f"batch: expected 1 or {own} rows, got {batch}")
        names = [name for name in LEAVES[:3] + LEAVES[5:7] if getattr(self, name) is not None]
        xp = namespace(*(getattr(self, name) for name in names))
        wide = {
            name: xp.broadcast_to(x, (batch, *x.shape[1:]))
            for name, x in ((name, xp.asarray(getattr(self, name))) for name in names)
        }
        return self._changed(_cu_seqlens_q=None, _cu_seqlens_kv=None, **wide)

    # --- changes -------------------------------------------------------------------------------

    def replace(
        self,
        *,
        attention_mask: Any = _KEEP,
        q_segment_ids: Any = _KEEP,
        kv_segment_ids: Any = _KEEP,
        cu_seqlens_q: Any = _KEEP,
        cu_seqlens_kv: Any = _KEEP,
        **fields: Any,
    ) -> Self:
        """A copy with other fields; None clears one.

        A new attention_mask takes the place of the old one and of every condition that was applied;
        ids keep restricting it. New ids leave mask and conditions as they are. Either drops
        cumulative lengths that are not given anew.

        Args:
            attention_mask: [batch, heads or 1, q_len, kv_len].
            q_segment_ids: int [batch, q_len].
            kv_segment_ids: int [batch, kv_len].
            cu_seqlens_q: cumulative lengths, for `cu_seqlens_q`.
            cu_seqlens_kv: the same for the keys.
            **fields: any other field by its name.

        Raises:
            ArgumentTypeError: there is no field of that name.
        """
        if unknown := set(fields) - PUBLIC:
            names = [*(name.removeprefix("_") for name in LEAVES[:5]), *sorted(PUBLIC)]
            raise ArgumentTypeError(
                f"replace: expected fields among {', '.join(names)}, got "
                f"{', '.join(sorted(map(repr, unknown)))}"
            )
        given = {
            "_attention_mask": attention_mask,
            "_q_segment_ids": q_segment_ids,
            "_kv_segment_ids": kv_segment_ids,
            "_cu_seqlens_q": cu_seqlens_q,
            "_cu_seqlens_kv": cu_seqlens_kv,
        }
        changes = {name: value for name, value in given.items() if value is not _KEEP}
        if set(changes) & {"_attention_mask", "_q_segment_ids", "_kv_segment_ids"}:
            changes = {"_cu_seqlens_q": None, "_cu_seqlens_kv": None} | changes
            if "_attention_mask" in changes:
                changes |= {"_derived": False}
                if attention_mask is not None:
                    changes |= {"_term": None}
            elif self._derived:
                changes |= {"_attention_mask": None, "_derived": False}
        return self._changed(**changes, **fields)

    def __repr__(self) -> str:
        parts = [f"shape={self.shape}"]
        for name in LEAVES[:7]:
            value = getattr(self, name)
            if value is not None and hasattr(value, "shape"):
                parts.append(f"{name.removeprefix('_')}={value.dtype}{list(value.shape)}")
        flags = [name.removesuffix("_baked_in") for name in STATIC if name.endswith("_baked_in")]
        baked = [name for name in flags if getattr(self, f"{name}_baked_in")]
        parts += [f"baked_in={baked}"] if baked else []
        return f"MaskInfo({', '.join(parts)})"


PUBLIC = {field.name for field in dataclasses.fields(Fields) if not field.name.startswith("_")}
LEAVES = (*(field.name for field in dataclasses.fields(Fields)[:7]), "_term")
STATIC = (
    *(field.name for field in dataclasses.fields(Fields)[11:15]),
    *(field.name for field in dataclasses.fields(Fields)[7:11]),
    "_derived",
)


def _same(left: Any, right: Any) -> bool:
    return left.dtype == right.dtype and np.array_equal(left, right)
