"""The part of last resort: leaves at scattered positions, evaluated element by element."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from maskc.blocking import BlockGrid
from maskc.content import ALL, NONE, Grid, Ints, Part
from maskc.expr import Blocks, Dense, Diagonals, Mask, Random, Segments, Strided
from maskc.leaf_bounds import Ranges, leaf_bounds
from maskc.packed import Bits, pack
from maskc.random_bits import random_elements
from maskc.strips import Strips

__all__ = ["ElementPart", "elements"]

_ELEMENTS = 1 << 18  # at a time: positions and temporaries stay in the cache


def elements(leaf: Mask, q: Ints, kv: Ints) -> npt.NDArray[np.bool_]:
    """A canonical leaf at broadcast positions, which must lie inside its lengths."""
    return np.array(_elements(leaf, q, kv), np.bool_, copy=None)


def _elements(leaf: Mask, q: Ints, kv: Ints) -> Any:
    match leaf:
        case Strips():
            return leaf.at(q, kv)
        case Strided(stride=stride, phase=phase):
            return (q - kv) % stride == phase
        case Diagonals(distances=distances):
            at = np.searchsorted(distances.array, q - kv)
            return distances.array[np.minimum(at, len(distances) - 1)] == q - kv
        case Segments():
            q_ids = leaf.q_ids.array[q]
            return (q_ids == leaf.kv_ids.array[kv]) & (q_ids >= 0)
        case Dense(mask=dense):
            return dense.at(q, kv)
        case Blocks(pattern=pattern, tile=(tile_q, tile_kv)):
            return pattern.at(q // tile_q, kv // tile_kv)
        case Random(sparsity=sparsity, seed=seed):
            return random_elements(sparsity, seed, q, kv)
    raise TypeError(f"not a canonical leaf: {leaf!r}")


@final
class ElementPart(Part):
    """`leaf(q[i], kv[j])`, and False where a position is -1.

    Which blocks are constant is what the ranges of their positions prove; the others have classes
    of their own.

    Args:
        leaf: a canonical leaf.
        q: int [q_len], positions of the queries in it.
        kv: int [kv_len], positions of the keys in it.
        blocking: of the result.
    """

    def __init__(self, leaf: Mask, q: Ints, kv: Ints, blocking: BlockGrid) -> None:
        self.bound = 2 + blocking.nq * blocking.nk
        self._leaf, self._blocking = leaf, blocking
        self._q = _by_block(q, blocking.nq, blocking.block_q)
        self._kv = _by_block(kv, blocking.nk, blocking.block_kv)

    def _classify(self, rows: range) -> Grid:
        numbers = np.arange(2, self.bound).reshape(-1, self._blocking.nk)
        classes = numbers[rows.start : rows.stop].copy()
        q, kv = Ranges.of(self._q[rows.start : rows.stop]), Ranges.of(self._kv)
        some, every = leaf_bounds(self._leaf, q, kv)
        classes[every & q.inside[:, None] & kv.inside] = ALL
        classes[~(some & q.touched[:, None] & kv.touched)] = NONE
        return classes

    def _draw(self, at: Ints, out: Bits) -> None:
        step = max(1, _ELEMENTS // (self._blocking.block_q * self._blocking.block_kv))
        for start in range(0, len(at), step):
            rows, columns = at[start : start + step].T
            q, kv = self._q[rows][:, :, None], self._kv[columns][:, None, :]
            if min(q.min(), kv.min()) >= 0:
                value = elements(self._leaf, q, kv)
            else:
                value = elements(self._leaf, np.maximum(q, 0), np.maximum(kv, 0))
                value &= (q >= 0) & (kv >= 0)
            out[start : start + step] = pack(value)


def _by_block(positions: Ints, blocks: int, block: int) -> Ints:
    padded = np.full(blocks * block, -1, np.int64)
    padded[: len(positions)] = positions
    return padded.reshape(blocks, block)
