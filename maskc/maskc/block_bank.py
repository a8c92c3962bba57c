"""The distinct partial blocks of a mask, numbered in the order in which they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.block_runs import FULL
from maskc.blocking import BlockGrid
from maskc.packed import Bits

__all__ = ["EMPTY", "BlockBank"]

EMPTY = -2
"""The number of a block without True elements, where others have `FULL` or that of their bits."""

_Words = npt.NDArray[np.uint64]


class BlockBank:
    """Blocks by content. A hash is only a hint: contents of equal hashes are compared whole.

    Blocks are drawn at the end of the bank, into `room`, and taken up by `number`, which leaves
    new ones where they are. So nothing is copied, and the bank grows in place.
    """

    def __init__(self, blocking: BlockGrid) -> None:
        self._shape = blocking.block_q, blocking.width
        self._size = blocking.block_q * blocking.width
        self._words: _Words = np.empty((0, -(-self._size // 8)), np.uint64)
        random = np.random.default_rng(0)  # weights of a sum of products: any odd numbers do
        self._weights = random.integers(2**64, size=self._words.shape[1], dtype=np.uint64) | 1
        self._count = 0
        ends = np.zeros((2, self._words.shape[1] * 8), np.uint8)
        line = np.packbits(np.ones(blocking.block_kv, np.bool_), bitorder="little")
        ends[1, : self._size] = np.tile(line, blocking.block_q)
        self._last_byte = line[-1]
        self._ends = ends.view(np.uint64)
        hashes = (self._ends @ self._weights).tolist()
        self._numbers: dict[int, list[int] | int] = dict(zip(hashes, (EMPTY, FULL), strict=True))

    def room(self, n: int, following: int = 0) -> Bits:
        """Where to draw the next blocks, [n, block_q, bytes].

        Args:
            n: how many.
            following: how many are sure to come after them.
        """
        held, needed = len(self._words), self._count + n
        if not held:
            self._words = np.empty((needed + following, self._words.shape[1]), np.uint64)
        elif needed > held:
            self._words.resize(
                (max(needed, held + held // 8), self._words.shape[1]), refcheck=False
            )
        tail = self._words[self._count : needed]
        if 8 * tail.shape[1] > self._size:
            tail[:, -1] = 0
        return tail.view(np.uint8)[:, : self._size].reshape(n, *self._shape)

    def number(self, n: int) -> npt.NDArray[np.int64]:
        """Numbers of the n blocks drawn last, after clearing what lies beyond a block's keys."""
        tail = self._words[self._count : self._count + n]
        if self._last_byte != 255:
            tail.view(np.uint8)[:, : self._size].reshape(n, *self._shape)[..., -1] &= (
                self._last_byte
            )
        hashes = (tail @ self._weights).tolist()
        distinct = set(hashes)
        if len(distinct) == n and self._numbers.keys().isdisjoint(distinct):
            numbers = range(self._count, self._count + n)
            self._numbers.update(zip(hashes, numbers, strict=True))
            self._count += n
            return np.array(numbers, np.int64)
        return np.array([self._interned(h, block) for h, block in zip(hashes, tail, strict=True)])

    def _interned(self, hashed: int, block: _Words) -> int:
        known = self._numbers.get(hashed, [])
        same_hash = known if isinstance(known, list) else [known]
        for number in same_hash:
            if np.array_equal(self._content(number), block):
                return number
        number = self._count
        self._words[number] = block  # which lies there or further down
        self._numbers[hashed] = [*same_hash, number] if same_hash else number
        self._count += 1
        return number

    def _content(self, number: int) -> Any:
        return self._ends[number - EMPTY] if number < 0 else self._words[number]

    def blocks(self) -> Bits:
        """All blocks by number, uint8 [unique, block_q, bytes]. The bank is done with then."""
        self._words.resize((self._count, self._words.shape[1]), refcheck=False)
        rows = self._words.view(np.uint8)[:, : self._size]
        return np.ascontiguousarray(rows).reshape(self._count, *self._shape)
