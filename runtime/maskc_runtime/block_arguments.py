"""The arguments of `blocksparse_attention`: checked, and brought to one form each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskc_runtime.errors import ArgumentShapeError, ArgumentTypeError, ArgumentValueError

__all__ = [
    "BlockParams",
    "blocks_of",
    "causal_of",
    "chunk_of",
    "mask_of",
    "positions_of",
    "segment_ids_of",
    "sinks_of",
    "window_of",
]

_MOST = 128  # the default block: a multiple of what every device wants
_LEAST = 16


class BlockParams(NamedTuple):
    """The blocks of a pass. ejKernel's own parameter objects and mappings serve as well.

    Attributes:
        q_blocksize: queries per block; None is 128, or less for short sequences.
        kv_blocksize: keys per block, likewise.
        num_warps: a hint that results do not depend on; the kernels choose for themselves.
        num_stages: likewise.
    """

    q_blocksize: int | None = None
    kv_blocksize: int | None = None
    num_warps: int | None = None
    num_stages: int | None = None


def segment_ids_of(
    q_ids: jax.typing.ArrayLike | None,
    kv_ids: jax.typing.ArrayLike | None,
    q: jax.Array,
    k: jax.Array,
) -> tuple[Any, Any] | None:
    """Ids of queries and keys, or None; those of the queries serve the keys if alone."""
    if q_ids is None and kv_ids is None:
        return None
    if q_ids is None:
        raise ArgumentValueError("kv_segment_ids: given without q_segment_ids; give both")
    if kv_ids is None:
        if q.shape[2] != k.shape[2]:
            raise ArgumentValueError(
                f"q_segment_ids: given without kv_segment_ids, and {q.shape[2]} queries are not "
                f"{k.shape[2]} keys; give both"
            )
        kv_ids = q_ids
    sides = []
    for side, ids, array in (("q", q_ids, q), ("kv", kv_ids, k)):
        shape, expected = np.shape(ids), (array.shape[0], array.shape[2])
        if shape != expected:
            raise ArgumentShapeError(
                f"{side}_segment_ids: expected [batch, {side}_len] = {list(expected)}, got shape "
                f"{shape}"
            )
        sides.append(ids)
    return sides[0], sides[1]


def positions_of(name: str, values: Any, array: jax.Array) -> Any:
    """Positions as [batch or 1, length], or None."""
    if values is None:
        return None
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    batch, length = array.shape[0], array.shape[2]
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ArgumentTypeError(f"{name}: expected integers, got {values.dtype.name}")
    if values.shape not in {(length,), (1, length), (batch, length)}:
        raise ArgumentShapeError(
            f"{name}: expected [{length}] or [batch, length] = {[batch, length]}, got shape "
            f"{values.shape}"
        )
    return values if values.ndim == 2 else values[None]


def mask_of(mask: Any, q: jax.Array, k: jax.Array) -> Any:
    """A dense mask as [batch or 1, heads or 1, q_len, kv_len], or None."""
    if mask is None:
        return None
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    batch, heads, q_len, kv_len = *q.shape[:3], k.shape[2]
    if mask.dtype != np.bool_:
        raise ArgumentTypeError(
            f"attention_mask: expected bool, True where q may attend kv, got {mask.dtype.name} of "
            f"shape {mask.shape}; numbers to add to the scores are a bias"
        )
    wide = mask[:, None] if mask.ndim == 3 else mask
    fits = wide.ndim == 4 and wide.shape[0] in {1, batch} and wide.shape[1] in {1, heads}
    if not fits or wide.shape[2:] != (q_len, kv_len):
        raise ArgumentShapeError(
            f"attention_mask: expected [batch, heads, q_len, kv_len] = "
            f"{[batch, heads, q_len, kv_len]}, batch and heads of them or 1, or without heads, got "
            f"shape {mask.shape}; padding of keys is kv_segment_ids of -1"
        )
    return wide


def sinks_of(values: jax.typing.ArrayLike | None, q: jax.Array) -> jax.Array | None:
    """One sink for each head, or None; several of one head count as one, their log-sum-exp."""
    if values is None:
        return None
    sinks, heads = jnp.asarray(values), q.shape[1]
    if sinks.ndim == 2 and sinks.shape[0] in {1, heads}:
        total = jax.nn.logsumexp(sinks.astype(jnp.promote_types(sinks.dtype, jnp.float32)), 1)
        return jnp.broadcast_to(total, (heads,))
    if sinks.shape in {(), (1,), (heads,)}:
        return jnp.broadcast_to(sinks, (heads,))
    raise ArgumentShapeError(
        f"softmax_aux: expected a scalar, [heads] = [{heads}], or [heads or 1, num_sinks], got "
        f"shape {sinks.shape}; several sinks that all heads share are softmax_aux[None]"
    )


def window_of(value: Any) -> tuple[int | None, int | None] | None:
    """The sides of a window, or None."""
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    fits = len(sides) == 2 and all(
        side is None or (isinstance(side, int | np.integer) and not isinstance(side, bool))
        for side in sides
    )
    if not fits:
        raise ArgumentTypeError(
            f"sliding_window: expected an integer or (left, right), got {value!r}"
        )
    if any(side is not None and side < 0 for side in sides):
        raise ArgumentValueError(
            f"sliding_window: expected sides >= 0, None for no bound, got {value!r}"
        )
    return sides[0], sides[1]


def causal_of(value: Any) -> bool | None:
    """Whether later keys are left out, or None."""
    if value is None or isinstance(value, bool | np.bool_):
        return value if value is None else bool(value)
    raise ArgumentTypeError(
        f"causal: expected True or False, known when the function is traced, got {value!r}"
    )


def chunk_of(value: Any) -> int | None:
    """The size of a chunk, or None."""
    if value is None:
        return None
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ArgumentTypeError(f"chunk_size: expected an integer, got {value!r}")
    if value < 1:
        raise ArgumentValueError(f"chunk_size: expected a positive integer, got {value!r}")
    return int(value)


def blocks_of(
    fwd: Any, bwd: Any, q: jax.Array, k: jax.Array, *, smallest: int = 1, whole_q: bool = False
) -> dict[str, int]:
    """Block sizes of every pass, by the compiler's names.

    Args:
        fwd: blocks of the forward pass, or None.
        bwd: blocks of the backward passes, or None.
        q: the queries.
        k: the keys.
        smallest: that the kernels take; a default is not below it.
        whole_q: choose a block that divides the queries.
    """
    blocks: dict[str, int] = {}
    for side, array in (("q", q), ("kv", k)):
        length = array.shape[2]
        usual = max(_LEAST, smallest, min(_MOST, 1 << max(length - 1, 0).bit_length()))
        if whole_q and side == "q":
            usual = math.gcd(length, _MOST)
        blocks[f"block_{side}"] = _parameter("fwd_params", fwd, side) or usual
        own = _parameter("bwd_params", bwd, side) or blocks[f"block_{side}"]
        blocks[f"block_{side}_dq"] = blocks[f"block_{side}_dkv"] = own
    return blocks


def _parameter(name: str, params: Any, side: str) -> int | None:
    field = f"{side}_blocksize"
    if params is None:
        return None
    if not isinstance(params, Mapping) and not hasattr(params, field):
        raise ArgumentTypeError(
            f"{name}: expected BlockParams, or an object or mapping with {field}, got {params!r}"
        )
    if isinstance(params, Mapping) and (unknown := set(params) - set(BlockParams._fields)):
        raise ArgumentValueError(
            f"{name}: expected the names {', '.join(BlockParams._fields)}, got "
            f"{', '.join(sorted(map(repr, unknown)))}"
        )
    value = params.get(field) if isinstance(params, Mapping) else getattr(params, field)
    if value is not None and (not isinstance(value, int | np.integer) or value < 1):
        raise ArgumentValueError(f"{name}.{field}: expected a positive integer, got {value!r}")
    return None if value is None else int(value)
