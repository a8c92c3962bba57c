"""Arrays that a frozen mask node can hold: immutable, hashable, compared by content."""

from __future__ import annotations

import functools
import hashlib
from typing import Any, final

import numpy as np
import numpy.typing as npt

from maskc.checks import fail

__all__ = ["ArrayArgument", "FrozenArray", "PackedMask", "frozen_integers"]

ArrayArgument = Any
"""What a node takes for an array: whatever numpy reads as one. Stored as the classes below."""

_PRINTED = 1000  # elements; numpy's own print threshold
_COUNTED = 1 << 20  # words counted at a time


@final
class FrozenArray:
    """A private, read-only copy of a numpy array.

    Equality and hash go by dtype, shape and SHA-256 of the content, so they agree across
    processes. Prints as the list that would build it, up to 1,000 elements.
    """

    __slots__ = ("__dict__", "array")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = np.array(array, order="C", copy=True)
        self.array.flags.writeable = False

    @classmethod
    def adopt(cls, array: npt.NDArray[Any]) -> FrozenArray:
        """The array itself, in C order and from now on read-only: whoever made it gives it away."""
        frozen = cls.__new__(cls)
        frozen.array = np.ascontiguousarray(array)
        frozen.array.flags.writeable = False
        return frozen

    @functools.cached_property
    def sha256(self) -> bytes:
        """32 bytes that stand for the content in canonical forms."""
        return hashlib.sha256(self.array.data).digest()

    @property
    def identity(self) -> list[Any]:
        """What tells this array from every other: dtype, shape, content hash."""
        return [self.array.dtype.str, list(self.array.shape), self.sha256]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenArray):
            return NotImplemented
        return self is other or self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        if self.array.size <= _PRINTED:
            return repr(self.array.tolist())
        return f"<{self.array.dtype}{list(self.array.shape)} sha256:{self.sha256.hex()[:12]}>"


@final
class PackedMask:
    """A dense 2-D mask, kept as one bit per element along the keys.

    Attributes:
        shape: `(rows, columns)` of the mask.
        bits: uint8 [rows, ceil(columns / 8)], least significant bit first.
    """

    __slots__ = ("bits", "shape")

    def __init__(self, where: str, mask: Any) -> None:
        dense = np.asarray(mask)
        if dense.ndim != 2 or dense.dtype != np.bool_ or not dense.size:
            raise fail(where, "a non-empty 2-D bool array", mask)
        self.shape: tuple[int, int] = (dense.shape[0], dense.shape[1])
        self.bits = FrozenArray(np.packbits(dense, axis=1, bitorder="little"))

    @classmethod
    def adopt(cls, columns: int, bits: npt.NDArray[np.uint8]) -> PackedMask:
        """Of bits, uint8 [rows, ceil(columns / 8)] with 0 beyond the columns; not copied."""
        packed = cls.__new__(cls)
        packed.shape, packed.bits = (len(bits), columns), FrozenArray.adopt(bits)
        return packed

    def rows(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Rows `start:stop` as bool [stop - start, columns]."""
        bits = self.bits.array[start:stop]
        return np.unpackbits(bits, axis=1, count=self.shape[1], bitorder="little").astype(np.bool_)

    def count(self) -> int:
        """How many elements are True."""
        flat, whole = self.bits.array.reshape(-1), self.bits.array.size // 8 * 8
        words = flat[:whole].view(np.uint64)
        pieces = [words[i : i + _COUNTED] for i in range(0, len(words), _COUNTED)]
        return sum(int(np.bitwise_count(x).sum(dtype=np.int64)) for x in [*pieces, flat[whole:]])

    def at(self, row: npt.NDArray[Any], column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """The elements at broadcast indices."""
        bits = self.bits.array[row, column >> 3] >> (column & 7).astype(np.uint8) & 1
        return np.asarray(bits, np.bool_)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedMask):
            return NotImplemented
        return self.shape == other.shape and self.bits == other.bits

    def __hash__(self) -> int:
        return hash((self.shape, self.bits))

    def __repr__(self) -> str:
        if self.shape[0] * self.shape[1] <= _PRINTED:
            return repr(self.rows(0, self.shape[0]).tolist())
        return f"<bool{list(self.shape)} sha256:{self.bits.sha256.hex()[:12]}>"


def frozen_integers(where: str, values: Any, *, empty: bool = False) -> FrozenArray:
    """`values` as a 1-D int32 array, which may be of length 0 only with `empty`.

    Raises:
        MaskArgumentError: not 1-D, empty, not integers, or beyond int32.
    """
    if isinstance(values, FrozenArray):
        return values
    array = np.asarray(values)
    if empty and array.shape == (0,):
        return FrozenArray(array.astype(np.int32))
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise fail(where, f"a {'' if empty else 'non-empty '}1-D array of integers", values)
    if array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min:
        raise fail(where, "integers that fit int32", values)
    return FrozenArray(array.astype(np.int32))
