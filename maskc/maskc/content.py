"""Content classes: a number for each block of a node, equal only where the content is equal.

A mask without a strip form is a tree of parts. Each part gives every block a class, exactly and
without drawing it: blocks of one class have equal elements wherever both lie inside the lengths.
So one block of each class is drawn, whatever their number. Class `NONE` has no True element
inside the lengths, `ALL` no False one; a part may miss either of them and give another class.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt

from maskc.blocking import BlockGrid
from maskc.packed import Bits, pack, unpack

__all__ = ["ALL", "NONE", "Both", "Constant", "Grid", "Ints", "Inverse", "Pairs", "Part", "Turned"]

Ints = npt.NDArray[Any]
Grid = npt.NDArray[np.int64]
NONE, ALL = 0, 1

_TABLE = 1 << 21  # pairs of classes that a table may hold: 8 MB


class Part(abc.ABC):
    """A mask whose blocks have classes and can be drawn.

    Attributes:
        bound: class numbers lie below it.
    """

    bound: int

    def classify(self, rows: range) -> Grid:
        """Class numbers [rows, columns] of some rows of blocks."""
        self._top, self._classes = rows.start, self._classify(rows)
        return self._classes

    def classes(self, at: Ints) -> Ints:
        """Classes of blocks [n, (row, column)], among the rows classified last."""
        return np.asarray(self._classes[at[:, 0] - self._top, at[:, 1]])

    def draw(self, at: Ints, out: Bits) -> None:
        """Draw blocks of classes other than `NONE` and `ALL`, among the rows classified last.

        Args:
            at: int [n, 2], block row and column.
            out: [n, block_q, bytes] to overwrite; outside the lengths, and in bits beyond the
                block's keys, with anything.
        """
        if len(at):
            self._draw(at, out)

    @abc.abstractmethod
    def _classify(self, rows: range) -> Grid: ...

    @abc.abstractmethod
    def _draw(self, at: Ints, out: Bits) -> None: ...


@final
class Constant(Part):
    """All elements True, or all False."""

    def __init__(self, value: bool, blocking: BlockGrid) -> None:
        self.bound = 2
        self._value, self._columns = int(value), blocking.nk

    def _classify(self, rows: range) -> Grid:
        return np.full((len(rows), self._columns), self._value)

    def _draw(self, at: Ints, out: Bits) -> None:
        raise AssertionError(f"a constant has no blocks to draw: {at}, {out.shape}")


@final
class Inverse(Part):
    """`~part`."""

    def __init__(self, part: Part) -> None:
        self.bound = part.bound
        self._part = part

    def _classify(self, rows: range) -> Grid:
        classes = self._part.classify(rows)
        return np.where(classes < 2, 1 - classes, classes)

    def _draw(self, at: Ints, out: Bits) -> None:
        self._part.draw(at, out)
        np.invert(out, out=out)


@final
class Turned(Part):
    """A part with queries and keys swapped."""

    def __init__(self, part: Part, blocking: BlockGrid) -> None:
        self.bound = part.bound
        self._part, self._blocking = part, blocking
        self._whole: Grid | None = None

    def _classify(self, rows: range) -> Grid:
        if self._whole is None:
            self._whole = self._part.classify(range(self._blocking.nk)).T
        return self._whole[rows.start : rows.stop]

    def _draw(self, at: Ints, out: Bits) -> None:
        turned = self._blocking.transposed
        bits = np.empty((len(at), turned.block_q, turned.width), np.uint8)
        self._part.draw(at[:, ::-1], bits)
        out[...] = pack(unpack(bits, turned.block_kv).swapaxes(1, 2))


class Pairs:
    """Numbers for pairs of classes.

    Args:
        rule: of two arrays of classes, `NONE` or `ALL` where that is what the pair is, else
            greater than both.
        a: bound of the first classes.
        b: bound of the second ones.
        blocks: how many blocks there are.
    """

    def __init__(self, rule: Callable[[Ints, Ints], Ints], a: int, b: int, blocks: int) -> None:
        self.bound = 2 + min(a * b, blocks)
        self.count = 2
        self._rule, self._second = rule, b
        self._table = np.full(a * b, -1, np.int32) if a * b <= _TABLE else None

    def __call__(self, a: Grid, b: Grid) -> Grid:
        """The numbers of pairs. Without room for a table, new ones at every call."""
        keys = a * self._second + b
        if self._table is None:
            distinct, inverse = np.unique(keys, return_inverse=True)
            return np.asarray(self._numbered(distinct)[inverse].reshape(a.shape))
        numbers = self._table[keys]
        if numbers.min() < 0:
            new = keys[numbers < 0]
            self._table[new] = np.arange(len(new))  # of equal ones the last to be written stays
            new = new[self._table[new] == np.arange(len(new))]
            self._table[new] = self._numbered(new)
            numbers = self._table[keys]
        return np.asarray(numbers, np.int64)

    def _numbered(self, keys: Ints) -> Grid:
        numbers: Grid = np.array(self._rule(*np.divmod(keys, self._second)), np.int64)
        others = numbers > ALL
        following = self.count + int(others.sum())
        numbers[others] = np.arange(self.count, following)
        self.count = following
        return numbers


def _and(a: Ints, b: Ints) -> Ints:
    return np.where((a == NONE) | (b == NONE), NONE, np.maximum(a, b))


def _or(a: Ints, b: Ints) -> Ints:
    return np.where((a == ALL) | (b == ALL), ALL, np.maximum(a, b))


def _xor(a: Ints, b: Ints) -> Ints:
    return np.where((a > ALL) | (b > ALL), 2, a ^ b)


_OPERATORS: dict[str, tuple[Callable[[Ints, Ints], Ints], np.ufunc]] = {
    "And": (_and, np.bitwise_and),
    "Or": (_or, np.bitwise_or),
    "Xor": (_xor, np.bitwise_xor),
}


@final
class Both(Part):
    """An operator of two parts; where one of them decides, or has no say, only the other counts."""

    def __init__(self, operator: str, a: Part, b: Part, blocking: BlockGrid) -> None:
        rule, self._operator = _OPERATORS[operator]
        a, b = (a, b) if a.bound >= b.bound else (b, a)  # the first is drawn in place
        self._parts = a, b
        self._pairs = Pairs(rule, a.bound, b.bound, blocking.nq * blocking.nk)
        self.bound = self._pairs.bound
        self._flips = operator == "Xor"

    def _classify(self, rows: range) -> Grid:
        return self._pairs(*(part.classify(rows) for part in self._parts))

    def _draw(self, at: Ints, out: Bits) -> None:
        a, b = (part.classes(at) for part in self._parts)
        one, other = a > ALL, b > ALL
        if one.all():
            self._parts[0].draw(at, out)
        elif one.any():
            out[one] = self._drawn(0, at[one], out)
        if other.any():
            bits = self._drawn(1, at[other], out)
            alone, both = other & ~one, other & one
            out[alone] = bits[alone[other]]
            out[both] = self._operator(out[both], bits[both[other]])
        if self._flips:
            whole = (a == ALL) | (b == ALL)
            out[whole] = ~out[whole]

    def _drawn(self, part: int, at: Ints, like: Bits) -> Bits:
        bits = np.empty((len(at), *like.shape[1:]), np.uint8)
        self._parts[part].draw(at, bits)
        return bits
