"""Cumulative sequence lengths in their two dialects, kept apart by type.

FlashAttention's are offsets of documents in packed tokens, `[0, 5, 9, 12]`: `CuSeqlens`. ejKernel's
are a first and an end index for each batch row, `[0, 5, 0, 7]`: `SeqlenPairs`. Both are arrays for
`numpy.asarray` and `jax.numpy.asarray`, and pytrees. A plain array is read as the one that it can
be; if it can be either, it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import DTypeLike

from maskc_runtime.mask_info.errors import SeqlensError, TracedMaskError
from maskc_runtime.mask_info.segments import truth
from maskc_runtime.mask_info.traced import Array, is_traced, namespace, running_max

__all__ = [
    "CuSeqlens",
    "SeqlenPairs",
    "attention_mask_to_qkv_cu_seqlens",
    "cu_seqlens_to_mask",
    "ids_to_cu_seqlens",
    "qkv_cu_seqlens_to_attention_mask",
    "qkv_cu_seqlens_to_qkv_masks",
    "qkv_masks_to_cu_seqlens",
    "read_cu_seqlens",
]


@dataclass(frozen=True, eq=False)
class _Seqlens:
    """What both dialects share: a frozen integer array, checked if its values are known."""

    array: Array
    expected: ClassVar[str]

    def __post_init__(self) -> None:
        array = self.array.array if isinstance(self.array, type(self)) else self.array
        if not is_traced(array):
            array = array if isinstance(array, jax.Array) else np.asarray(array)
            if not (_is_list(array) and self.fits(np.asarray(array))):
                raise SeqlensError(
                    f"{type(self).__name__}: expected {self.expected}, got {_shown(self.array)}"
                )
        object.__setattr__(self, "array", array)

    @staticmethod
    def fits(values: npt.NDArray[Any]) -> bool:
        """Could these numbers be of this dialect?"""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        """Of the array."""
        return self.array.dtype

    def astype(self, dtype: DTypeLike) -> Self:
        """The same numbers in another integer dtype."""
        return self.unchecked(self.array.astype(dtype))

    @classmethod
    def unchecked(cls, array: Array) -> Self:
        """Of numbers that were computed here, or what JAX puts in their place: without a check."""
        made = object.__new__(cls)
        object.__setattr__(made, "array", array)
        return made

    def tree_flatten(self) -> tuple[tuple[Array], None]:
        """The array is the only leaf."""
        return (self.array,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Iterable[Array]) -> Self:
        """The inverse of `tree_flatten`."""
        return cls.unchecked(next(iter(leaves)))

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __jax_array__(self) -> jax.Array:
        return jnp.asarray(self.array)

    def __getitem__(self, index: Any) -> Array:
        return self.array[index]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and np.array_equal(self, other)

    def __hash__(self) -> int:
        return hash((type(self).__name__, tuple(np.asarray(self.array).tolist())))


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class CuSeqlens(_Seqlens):
    """FlashAttention's `cu_seqlens`: where each document of the packed tokens starts, and the end.

    Args:
        array: int [documents + 1], `[0, ...]`, never falling. Tokens are counted without padding.
            Entries that repeat the last one are no documents.
    """

    expected = "offsets [0, ...] that never fall, as integers"

    @staticmethod
    def fits(values: npt.NDArray[Any]) -> bool:
        """Offsets that begin at 0 and never fall."""
        return bool(values[0] == 0 and np.all(np.diff(values) >= 0))

    @property
    def lengths(self) -> Array:
        """Int [documents], tokens of each document."""
        return self.array[1:] - self.array[:-1]


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class SeqlenPairs(_Seqlens):
    """ejKernel's: `[start, stop]` of each batch row, one pair after the other.

    Args:
        array: int [2 * batch]; tokens `start <= i < stop` of a row are valid, the others padding.
    """

    expected = "pairs of 0 <= start <= stop, as integers"

    @staticmethod
    def fits(values: npt.NDArray[Any]) -> bool:
        """Pairs of a start and an end that is not before it."""
        if len(values) % 2:
            return False
        starts, stops = values[::2], values[1::2]
        return bool(np.all((starts >= 0) & (starts <= stops)))

    @property
    def batch_size(self) -> int:
        """Number of batch rows."""
        return len(self) // 2

    @property
    def lengths(self) -> Array:
        """Int [batch], tokens between start and stop."""
        return self.array[1::2] - self.array[::2]


def _is_list(array: Array) -> bool:
    return array.ndim == 1 and array.size > 0 and np.issubdtype(array.dtype, np.integer)


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def read_cu_seqlens(where: str, values: Any) -> CuSeqlens | SeqlenPairs:
    """Either dialect, from its type or, for a plain array, from its numbers.

    A plain array of two numbers from 0 means the same in both.

    Raises:
        SeqlensError: the numbers fit none, or both.
        TracedMaskError: a plain array is traced.
    """
    if isinstance(values, CuSeqlens | SeqlenPairs):
        return values
    wrap = f"wrap it in CuSeqlens (offsets of documents) or SeqlenPairs ({SeqlenPairs.expected})"
    if is_traced(values):
        raise TracedMaskError(f"{where}: a traced array does not say which dialect it is; {wrap}")
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    numbers = np.asarray(array)
    kinds = [kind for kind in (SeqlenPairs, CuSeqlens) if _is_list(array) and kind.fits(numbers)]
    if not kinds or (len(kinds) > 1 and len(numbers) > 2):
        fault = "could be offsets of documents or pairs of each row" if kinds else "is neither"
        raise SeqlensError(f"{where}: {_shown(numbers)} {fault}; {wrap}")
    return kinds[0](array)


def _side(where: str, length: int) -> int:
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0:
        raise SeqlensError(f"{where}: expected an integer >= 0, got {length!r}")
    return int(length)


def seqlens_to_ids(cu: CuSeqlens | SeqlenPairs, max_len: int, where: str) -> Array:
    """Segment ids, int32 [batch, max_len]: pairs are rows of one document, offsets are one row.

    Raises:
        SeqlensError: more tokens than `max_len`.
    """
    xp = namespace(cu)
    if not is_traced(cu) and int(np.max(np.asarray(cu.array))) > max_len:
        raise SeqlensError(
            f"{where}: expected tokens up to {max_len}, got {_shown(np.asarray(cu.array))}"
        )
    at = xp.arange(max_len, dtype=xp.int32)
    array = xp.asarray(cu.array)
    if isinstance(cu, SeqlenPairs):
        starts, stops = array[::2, None], array[1::2, None]
        return xp.where((starts <= at) & (at < stops), 0, -1).astype(xp.int32)
    document = xp.searchsorted(array, at, side="right") - 1
    return xp.where(at < array[-1], document, -1).astype(xp.int32)[None]


def cu_seqlens_to_mask(cu_seqlens: Any, max_len: int, dtype: DTypeLike = jnp.bool_) -> jax.Array:
    """Which tokens are valid, [batch, max_len] (one row for `CuSeqlens`).

    Raises:
        SeqlensError: `cu_seqlens` is of neither dialect, of both, or reaches beyond `max_len`.
    """
    cu = read_cu_seqlens("cu_seqlens", cu_seqlens)
    ids = seqlens_to_ids(cu, _side("max_len", max_len), "cu_seqlens")
    return jnp.asarray(ids >= 0).astype(dtype)


def qkv_cu_seqlens_to_qkv_masks(
    cu_seqlens_q: Any,
    *,
    max_q_len: int,
    cu_seqlens_kv: Any = None,
    max_kv_len: int | None = None,
    dtype: DTypeLike = jnp.bool_,
) -> tuple[jax.Array, jax.Array]:
    """Which queries and keys are valid, [batch, max_q_len] and [batch, max_kv_len]."""
    q = cu_seqlens_to_mask(cu_seqlens_q, max_q_len, dtype)
    kv_len = max_q_len if max_kv_len is None else max_kv_len
    kv = cu_seqlens_q if cu_seqlens_kv is None else cu_seqlens_kv
    return q, cu_seqlens_to_mask(kv, kv_len, dtype)


def qkv_cu_seqlens_to_attention_mask(
    cu_seqlens_q: Any,
    *,
    max_q_len: int,
    cu_seqlens_kv: Any = None,
    max_kv_len: int | None = None,
    dtype: DTypeLike = jnp.bool_,
) -> jax.Array:
    """Which pairs are of one document, [batch, 1, max_q_len, max_kv_len]; S² elements."""
    q = read_cu_seqlens("cu_seqlens_q", cu_seqlens_q)
    kv = q if cu_seqlens_kv is None else read_cu_seqlens("cu_seqlens_kv", cu_seqlens_kv)
    if type(q) is not type(kv) or len(q) != len(kv):
        raise SeqlensError(
            f"cu_seqlens_kv: expected the kind and length of cu_seqlens_q, {type(q).__name__} of "
            f"{len(q)}, got {type(kv).__name__} of {len(kv)}"
        )
    q_len = _side("max_q_len", max_q_len)
    kv_len = q_len if max_kv_len is None else _side("max_kv_len", max_kv_len)
    q_ids = seqlens_to_ids(q, q_len, "cu_seqlens_q")
    kv_ids = seqlens_to_ids(kv, kv_len, "cu_seqlens_kv")
    equal = (q_ids[:, :, None] == kv_ids[:, None, :]) & (q_ids[:, :, None] >= 0)
    return jnp.asarray(equal[:, None]).astype(dtype)


def qkv_masks_to_cu_seqlens(
    q_mask: Array, kv_mask: Array | None = None, *, out_dtype: DTypeLike = jnp.int32
) -> tuple[SeqlenPairs, SeqlenPairs]:
    """First valid token of each row and one past its last one, 0 and 0 for rows of padding.

    Args:
        q_mask: [batch, q_len], not zero is valid.
        kv_mask: [batch, kv_len]; None is `q_mask`.
        out_dtype: integer dtype.

    Raises:
        NotSegmentsError: a known mask has padding between valid tokens, which pairs cannot say.
        ArgumentShapeError: a mask is not of rank 2.
    """
    q = _pairs("q_mask", q_mask, out_dtype)
    return q, q if kv_mask is None else _pairs("kv_mask", kv_mask, out_dtype)


def _pairs(where: str, mask: Array, dtype: DTypeLike) -> SeqlenPairs:
    from maskc_runtime.mask_info.errors import ArgumentShapeError, NotSegmentsError

    xp = namespace(mask)
    valid = truth(where, mask)
    if valid.ndim != 2:
        raise ArgumentShapeError(f"{where}: expected [batch, len], got shape {valid.shape}")
    some = valid.any(1)
    starts = xp.where(some, valid.argmax(1), 0)
    stops = xp.where(some, valid.shape[1] - valid[:, ::-1].argmax(1), 0)
    if not is_traced(valid) and bool((stops - starts != valid.sum(1)).any()):
        row = int(np.argmax(np.asarray(stops - starts != valid.sum(1))))
        raise NotSegmentsError(
            f"{where}: row {row} has padding between valid tokens, which a start and a stop "
            "cannot say; use segment ids"
        )
    return SeqlenPairs.unchecked(xp.stack([starts, stops], 1).reshape(-1).astype(dtype))


def attention_mask_to_qkv_cu_seqlens(
    attention_mask: Array,
    *,
    reduce_heads: Literal["any", "all", "first"] = "any",
    out_dtype: DTypeLike = jnp.int32,
) -> tuple[SeqlenPairs, SeqlenPairs]:
    """The pairs of a mask's padding: what attends nothing and is attended by nobody.

    Args:
        attention_mask: [batch, len] padding, or [batch, q_len, kv_len], or with heads.
        reduce_heads: whether any head, all heads or the first one says what may attend.
        out_dtype: integer dtype.
    """
    from maskc_runtime.mask_info.errors import ArgumentShapeError

    if reduce_heads not in {"any", "all", "first"}:
        raise ValueError(f"reduce_heads: expected 'any', 'all' or 'first', got {reduce_heads!r}")
    mask = truth("attention_mask", attention_mask)
    if mask.ndim == 4:
        reduced = {"any": mask.any(1), "all": mask.all(1), "first": mask[:, 0]}
        mask = reduced[reduce_heads]
    if mask.ndim == 2:
        return qkv_masks_to_cu_seqlens(mask, out_dtype=out_dtype)
    if mask.ndim != 3:
        raise ArgumentShapeError(
            f"attention_mask: expected rank 2, 3 or 4, got shape {attention_mask.shape}"
        )
    return qkv_masks_to_cu_seqlens(mask.any(2), mask.any(1), out_dtype=out_dtype)


def ids_to_cu_seqlens(
    segment_ids: Array, out_dtype: DTypeLike = jnp.int32, max_segments: int | None = None
) -> CuSeqlens:
    """FlashAttention's offsets of the documents of a batch, in tokens without padding.

    Rows come one after the other, and no document crosses them.

    Args:
        segment_ids: int [batch, len]; negative is padding.
        out_dtype: integer dtype.
        max_segments: length of the result - 1. None is as many documents as there are, or under
            `jit` as there could be; the rest repeats the end.

    Raises:
        SeqlensError: more documents than `max_segments`; where that is traced, all are -1.
        NotSegmentsError: a known document comes in several pieces, which offsets cannot say.
    """
    from maskc_runtime.mask_info.errors import NotSegmentsError

    xp = namespace(segment_ids)
    ids = xp.asarray(segment_ids)
    valid = ids >= 0
    at = xp.arange(ids.shape[1])
    last = running_max(xp.where(valid, at, -1))  # the last valid token so far
    before = xp.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    previous = xp.take_along_axis(ids, xp.maximum(before, 0), axis=1)
    starts = valid & ((before < 0) | (previous != ids))
    number = xp.cumsum(starts.reshape(-1)) - 1
    count = number[-1] + 1
    size = ids.size if max_segments is None else max_segments
    if not is_traced(ids):
        _check_whole(np.asarray(ids), np.asarray(starts), NotSegmentsError)
        if max_segments is None:
            size = int(count)
        elif int(count) > size:
            raise SeqlensError(f"max_segments: {int(count)} documents, got {max_segments}")
    place = xp.where(valid.reshape(-1), xp.minimum(number, size), size) + 1
    length = {"length": size + 2} if xp is jnp else {"minlength": size + 2}
    offsets = xp.cumsum(xp.bincount(place, **length)[: size + 1])
    return CuSeqlens.unchecked(xp.where(count > size, -1, offsets).astype(out_dtype))


def _check_whole(ids: npt.NDArray[Any], starts: npt.NDArray[Any], error: type[Exception]) -> None:
    """Refuse a document that begins twice in a row."""
    row, column = np.nonzero(starts)
    begun = np.stack([row, ids[row, column]], axis=1)
    if len(np.unique(begun, axis=0)) == len(begun):
        return
    for index in range(1, len(begun)):
        if (begun[:index] == begun[index]).all(1).any():
            raise error(
                f"segment_ids: document {begun[index, 1]} of row {begun[index, 0]} comes in "
                "several pieces, which offsets cannot say; use segment ids"
            )
