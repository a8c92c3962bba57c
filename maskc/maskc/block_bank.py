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

_COLLISION = -3  # instead of a number
_FIRST = 1 << 32  # bytes that the bank starts with at most; pages that it never uses cost nothing

_Words = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]


class BlockBank:
    """Blocks by content. A hash is only a hint: contents of equal hashes are compared whole.

    Blocks are drawn at the end of the bank, into `room`, and taken up by `number`, which leaves
    new ones where they are. The bank begins with an address for every block that may come, so it is
    neither moved nor cut, and takes the memory of what is in it.
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
        empty, full = self._hashes(self._ends)
        self._numbers: dict[int, int | list[int]] = {empty: EMPTY, full: FULL}
        if empty == full:
            self._numbers = {empty: [EMPTY, FULL]}

    def room(self, n: int, following: int = 0) -> Bits:
        """Where to draw the next blocks, [n, block_q, bytes].

        Args:
            n: how many.
            following: how many are sure to come after them.
        """
        held, needed = len(self._words), self._count + n
        all_needed, width = needed + following, self._words.shape[1]
        if not held:
            some = _FIRST // (8 * width)
            self._words = np.empty((max(needed, min(all_needed, some)), width), np.uint64)
        elif needed > held:  # numpy copies the bank from 2.5 on, so it grows by as much as is known
            self._words.resize((max(all_needed, held + held // 8), width), refcheck=False)
        tail = self._words[self._count : needed]
        if 8 * tail.shape[1] > self._size:
            tail[:, -1] = 0
        return tail.view(np.uint8)[:, : self._size].reshape(n, *self._shape)

    def number(self, n: int) -> _Ints:
        """Numbers of the n blocks drawn last, after clearing what lies beyond a block's keys."""
        tail = self._words[self._count : self._count + n]
        if self._last_byte != 255:
            tail.view(np.uint8)[:, : self._size].reshape(n, *self._shape)[..., -1] &= (
                self._last_byte
            )
        hashes = self._hashes(tail)
        numbers, new = self._by_hash(hashes)
        if len(new) == n or self._confirmed(numbers, new, tail):
            if len(new) < n:
                self._words[self._count : self._count + len(new)] = tail[new]
            self._count += len(new)
            return numbers
        for at in new.tolist():  # two contents of one hash: one block after the other then
            del self._numbers[hashes[at]]
        return np.array([self._interned(h, block) for h, block in zip(hashes, tail, strict=True)])

    def _hashes(self, blocks: _Words) -> list[int]:
        """Sums of products. The upper bits are folded down, where they change more of a product."""
        folded = blocks >> np.uint64(32)
        folded ^= blocks
        return list((folded @ self._weights).tolist())

    def _by_hash(self, hashes: list[int]) -> tuple[_Ints, _Ints]:
        """Numbers if equal hashes mean equal blocks, and which blocks are new then."""
        numbers: list[int] = []
        new: list[int] = []
        for at, hashed in enumerate(hashes):
            number = self._numbers.get(hashed)
            if number is None:
                number = self._numbers[hashed] = self._count + len(new)
                new.append(at)
            numbers.append(number if isinstance(number, int) else _COLLISION)
        return np.array(numbers, np.int64), np.array(new, np.int64)

    def _confirmed(self, numbers: _Ints, new: _Ints, tail: _Words) -> bool:
        """Whether all blocks that are not new are what their numbers say."""
        again = np.ones(len(tail), np.bool_)
        again[new] = False
        row = numbers.copy()  # of the bank; new blocks still lie where they were drawn
        row[numbers >= self._count] = (
            self._count + new[numbers[numbers >= self._count] - self._count]
        )
        stored = again & (numbers >= 0)
        return (
            not (numbers == _COLLISION).any()
            and np.array_equal(self._words[row[stored]], tail[stored])
            and all(
                bool((tail[numbers == end] == self._content(end)).all()) for end in (EMPTY, FULL)
            )
        )

    def _interned(self, hashed: int, block: _Words) -> int:
        """The number of one block, whatever else has its hash."""
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
        rows = self._words[: self._count].view(np.uint8)[:, : self._size]
        return np.ascontiguousarray(rows).reshape(self._count, *self._shape)
