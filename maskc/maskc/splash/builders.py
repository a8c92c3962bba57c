"""Dense masks as numpy arrays, under the names of JAX's `splash_attention_mask`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import checks
from maskc.splash.computable import CausalMask, ChunkedCausalMask, LocalMask, Window

__all__ = [
    "make_causal_mask",
    "make_chunk_attention_mask",
    "make_local_attention_mask",
    "make_random_mask",
]

Bools = npt.NDArray[np.bool_]


def make_causal_mask(shape: tuple[int, int], offset: int = 0) -> Bools:
    """`CausalMask` as an array.

    Args:
        shape: `(q_len, kv_len)`.
        offset: as for `CausalMask`.

    Returns:
        bool [q_len, kv_len].
    """
    return _whole(CausalMask(shape, offset))


def make_local_attention_mask(
    shape: tuple[int, int], window_size: Window, *, offset: int = 0
) -> Bools:
    """`LocalMask` as an array.

    Args:
        shape: `(q_len, kv_len)`.
        window_size: as for `LocalMask`.
        offset: as for `LocalMask`.

    Returns:
        bool [q_len, kv_len].
    """
    return _whole(LocalMask(shape, window_size, offset))


def make_chunk_attention_mask(shape: tuple[int, int], chunk_size: int, *, offset: int = 0) -> Bools:
    """`ChunkedCausalMask` as an array.

    Args:
        shape: `(q_len, kv_len)`.
        chunk_size: keys per chunk.
        offset: where a chunk starts.

    Returns:
        bool [q_len, kv_len].

    Raises:
        ValueError: `chunk_size` is None or not positive.
    """
    checks.at_least("chunk_size", chunk_size, 1)
    return _whole(ChunkedCausalMask(shape, chunk_size, offset=offset))


def make_random_mask(shape: tuple[int, int], sparsity: float, seed: int) -> Bools:
    """Independent random elements: those that JAX draws for the same seed.

    numpy's global random state, which JAX's function seeds anew, is left alone.

    Args:
        shape: of the mask.
        sparsity: share of elements that may not attend, from 0 to 1.
        seed: from 0 to 2**32 - 1.

    Returns:
        bool of that shape.

    Raises:
        ValueError: `sparsity` or `seed` is out of range.
    """
    random = np.random.RandomState(seed)  # the generator that the seed is for
    return random.binomial(n=1, p=1.0 - sparsity, size=shape).astype(np.bool_)


def _whole(mask: Any) -> Bools:
    return np.asarray(mask[:, :])
