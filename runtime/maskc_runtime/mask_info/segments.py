"""Segment ids: to masks and back, positions inside segments, and pairs of ids as ids."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from maskc_runtime.mask_info.errors import (
    ArgumentShapeError,
    ArgumentTypeError,
    NotSegmentsError,
    TracedMaskError,
)
from maskc_runtime.mask_info.traced import Array, is_traced, namespace, running_max

__all__ = [
    "ids_of_mask",
    "integers",
    "joined_ids",
    "mask_to_segment_ids",
    "padding_ids",
    "positions_in_segments",
    "segment_ids_to_mask",
    "segment_ids_to_qkv_masks",
    "truth",
]


def truth(where: str, values: Any) -> Array:
    """A mask as bool: of numbers, positive ones are True.

    Raises:
        ArgumentTypeError: floats other than known zeros and ones, like an additive bias.
    """
    xp = namespace(values)
    array = xp.asarray(values)
    if array.dtype == xp.bool_:
        return array
    floats = not xp.issubdtype(array.dtype, xp.integer)
    if floats and (is_traced(array) or bool(((array != 0) & (array != 1)).any())):
        raise ArgumentTypeError(
            f"{where}: expected bool or integers, or zeros and ones, got {array.dtype} of "
            f"shape {array.shape}; an additive bias is no mask, pass `bias == 0`"
        )
    return array > 0


def integers(where: str, values: Any, *ranks: int) -> Array:
    """Ids, positions or offsets as int32 of one of these ranks.

    Raises:
        ArgumentTypeError: not integers.
        ArgumentShapeError: of another rank.
    """
    xp = namespace(values)
    array = xp.asarray(values)
    if not xp.issubdtype(array.dtype, xp.integer):
        raise ArgumentTypeError(
            f"{where}: expected integers, got {array.dtype} of shape {array.shape}"
        )
    if ranks and array.ndim not in ranks:
        rank = " or ".join(map(str, ranks))
        raise ArgumentShapeError(f"{where}: expected rank {rank}, got shape {array.shape}")
    return array.astype(xp.int32)


def segment_ids_to_mask(
    segment_ids: Array | tuple[Array, Array],
    dtype: DTypeLike = jnp.bool_,
    return_separate_masks: bool = False,
) -> Any:
    """Where the ids are equal and not negative, [batch, 1 or heads, q_len, kv_len].

    Args:
        segment_ids: int [batch, len] or [batch, heads, len], or a tuple of those of q and kv.
        dtype: of the result.
        return_separate_masks: return `(q_mask, kv_mask, mask)`, the first two like the ids.
    """
    if isinstance(segment_ids, list):
        raise ArgumentTypeError("segment_ids: expected an array or a tuple (q, kv), got a list")
    given = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    q, kv = (jnp.asarray(integers("segment_ids", ids, 2, 3)) for ids in given)
    q_mask, kv_mask = ((ids >= 0).astype(dtype) for ids in (q, kv))
    q, kv = (ids if ids.ndim == 3 else ids[:, None] for ids in (q, kv))
    mask = (q[..., :, None] == kv[..., None, :]) & (q[..., :, None] >= 0)
    mask = mask.astype(dtype)
    return (q_mask, kv_mask, mask) if return_separate_masks else mask


def segment_ids_to_qkv_masks(
    q_segment_ids: Array,
    kv_segment_ids: Array | None = None,
    dtype: DTypeLike = jnp.bool_,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(q_mask, kv_mask, attention_mask)` of segment ids; None for kv is the ids of q."""
    ids = (q_segment_ids, q_segment_ids if kv_segment_ids is None else kv_segment_ids)
    masks: tuple[jax.Array, jax.Array, jax.Array] = segment_ids_to_mask(ids, dtype, True)
    return masks


def mask_to_segment_ids(
    mask: Array,
    per_head: bool = False,
    *,
    inexact: Literal["raise", "padding"] = "raise",
) -> tuple[jax.Array, jax.Array]:
    """The ids that mean the same as a mask: `segment_ids_to_mask((q, kv))` gives it back.

    There are such ids exactly if any two queries attend the same keys or none in common. Then the
    first key of a query, and the first query of that key, name its segment, which takes one pass
    over the mask. Segments are numbered by first query; queries and keys without any are -1.

    Args:
        mask: [q_len, kv_len], [batch, q_len, kv_len] or [batch, heads, q_len, kv_len].
        per_head: ids of each head, [batch, heads, len]; else all heads must be alike.
        inexact: what to do with a mask that has no such ids: "raise", or return those of its
            "padding" alone (0, and -1 where nothing attends), of which the mask is a part.

    Returns:
        int32 ids of the queries and of the keys.

    Raises:
        NotSegmentsError: there are no such ids.
        TracedMaskError: the mask is traced and `inexact` is "raise", which cannot be known then.
        ArgumentShapeError: another rank.
    """
    q, kv = ids_of_mask(mask, per_head=per_head, inexact=inexact)
    return jnp.asarray(q), jnp.asarray(kv)


def ids_of_mask(mask: Array, *, per_head: bool, inexact: str) -> tuple[Array, Array]:
    """`mask_to_segment_ids`, with known ids for a known mask."""
    if inexact not in {"raise", "padding"}:
        raise ValueError(f"inexact: expected 'raise' or 'padding', got {inexact!r}")
    if is_traced(mask) and inexact == "raise":
        raise TracedMaskError(
            "mask_to_segment_ids: whether a traced mask is made of segments is not known; call it "
            "outside jit, or pass inexact='padding'"
        )
    xp = namespace(mask)
    array = truth("mask", mask)
    if array.ndim not in {2, 3, 4}:
        raise ArgumentShapeError(f"mask: expected rank 2, 3 or 4, got shape {array.shape}")
    wide = array.reshape((1,) * (4 - array.ndim) + array.shape)
    if array.ndim == 3:
        wide = array[:, None]
    q, kv, exact = _find_segments(wide if per_head else wide.any(1, keepdims=True), wide)
    if inexact == "raise" and not bool(exact.all()):
        row, head = (int(i) for i in np.argwhere(~np.asarray(exact))[0])
        raise NotSegmentsError(
            f"mask: batch row {row}, head {head} is not made of segments (causal and windows "
            "are not); keep it as a mask, or pass inexact='padding'"
            + ("" if per_head else ", or per_head=True if heads differ")
        )
    q, kv = (xp.where(exact[:, : ids.shape[1], None], ids, xp.minimum(ids, 0)) for ids in (q, kv))
    if array.ndim == 2:
        return q[0, 0], kv[0, 0]
    return (q, kv) if per_head and array.ndim == 4 else (q[:, 0], kv[:, 0])


def _find_segments(mask: Array, heads: Array) -> tuple[Array, Array, Array]:
    """Ids of a mask, and in which rows and heads they give `heads` back."""
    xp = namespace(mask)
    row_any, column_any = mask.any(3), mask.any(2)
    first_key, first_query = mask.argmax(3), mask.argmax(2)
    root = xp.take_along_axis(first_query, first_key, axis=2)  # the segment's first query
    is_root = row_any & (root == xp.arange(mask.shape[2]))
    number = xp.cumsum(is_root, axis=2, dtype=xp.int32) - 1
    q = xp.where(row_any, xp.take_along_axis(number, root, axis=2), -1)
    kv = xp.where(column_any, xp.take_along_axis(q, first_query, axis=2), -1)
    back = (q[..., :, None] == kv[..., None, :]) & (q[..., :, None] >= 0)
    exact = (back == heads).all((2, 3))
    if mask.shape[1] == 1:
        exact = exact.all(1, keepdims=True)
    return q, kv, exact


def padding_ids(mask: Array) -> tuple[Array, Array]:
    """0, and -1 for what attends nothing or is attended by nobody, of a mask with heads."""
    q, kv = mask.any((1, 3)), mask.any((1, 2))
    xp = namespace(mask)
    return xp.where(q, 0, -1).astype(xp.int32), xp.where(kv, 0, -1).astype(xp.int32)


def positions_in_segments(segment_ids: Array, *, pad_value: int) -> jax.Array:
    """Each token's number inside its run of equal ids; `pad_value` where the id is negative."""
    xp = namespace(segment_ids)
    ids = integers("segment_ids", segment_ids)
    if ids.ndim < 1:
        raise ArgumentShapeError(f"segment_ids: expected [..., len], got shape {ids.shape}")
    at = xp.broadcast_to(xp.arange(ids.shape[-1], dtype=xp.int32), ids.shape)
    turns = xp.concatenate(
        [xp.ones_like(ids[..., :1], bool), ids[..., 1:] != ids[..., :-1]], axis=-1
    )
    start = running_max(xp.where(turns, at, 0))
    return jnp.asarray(xp.where(ids >= 0, at - start, pad_value).astype(xp.int32))


def joined_ids(q: tuple[Array, Array], kv: tuple[Array, Array]) -> tuple[Array, Array]:
    """Ids that are equal exactly where both ids of a pair are; negative where one of them is.

    Args:
        q: two ids of each query, int32 [..., q_len].
        kv: two ids of each key, int32 [..., kv_len].
    """
    xp = namespace(q, kv)
    first, second = (
        xp.concatenate([ids, others], axis=-1) for ids, others in zip(q, kv, strict=True)
    )
    first, second = _same_rank(first, second)
    valid = (first >= 0) & (second >= 0)
    order = xp.lexsort((second, first), axis=-1)
    a, b, some = (xp.take_along_axis(x, order, axis=-1) for x in (first, second, valid))
    change = (a[..., 1:] != a[..., :-1]) | (b[..., 1:] != b[..., :-1])
    change = xp.concatenate([xp.zeros_like(change[..., :1]), change], axis=-1)
    number = xp.cumsum(change, axis=-1)
    place = xp.argsort(order, axis=-1)
    ids = xp.where(some, number, -1)
    ids = xp.take_along_axis(ids, place, axis=-1).astype(xp.int32)
    q_len = q[0].shape[-1]
    return ids[..., :q_len], ids[..., q_len:]


def _same_rank(a: Array, b: Array) -> tuple[Array, Array]:
    """Per-head ids next to those of all heads."""
    rank = max(a.ndim, b.ndim)
    a, b = (x if x.ndim == rank else x[:, None] for x in (a, b))
    xp = namespace(a, b)
    shape = np.broadcast_shapes(a.shape, b.shape)
    return xp.broadcast_to(a, shape), xp.broadcast_to(b, shape)
