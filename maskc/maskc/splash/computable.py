"""Masks that a kernel can recompute from positions instead of loading them.

`q_sequence` says which position each query has; a permutation of the queries, as load-balanced
context parallelism makes it, is a mask over the same positions in another order.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import checks, expr
from maskc.splash.masks import Mask, MaskFunction, spans, stable_hash

__all__ = [
    "CausalMask",
    "ChunkedCausalMask",
    "LocalMask",
    "StockFunction",
    "_ComputableMask",
    "window_sides",
]

Window = int | tuple[int | None, int | None] | None


@dataclass(frozen=True)
class StockFunction:
    """A mask function that maskc knows a closed form of."""

    def expression(self, origin: int) -> expr.Mask:
        """The mask over all integers, at rows counted from `origin` and columns from 0.

        Args:
            origin: the position of the first row, 0 or less.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class _Causal(StockFunction):
    offset: int

    def __call__(self, q_ids: Any, kv_ids: Any) -> Any:
        return _moved(q_ids, self.offset) >= kv_ids

    def expression(self, origin: int) -> expr.Mask:
        return expr.Causal(self.offset + origin)


@dataclass(frozen=True)
class _Local(StockFunction):
    left: int | None
    right: int | None
    offset: int

    def __call__(self, q_ids: Any, kv_ids: Any) -> Any:
        at = _moved(q_ids, self.offset)
        if self.left is None and self.right is None:
            return (q_ids == q_ids) & (kv_ids == kv_ids)  # noqa: PLR0124  # ones without a constant
        if self.left is None:
            return at + self.right >= kv_ids
        after = at - self.left <= kv_ids
        return after if self.right is None else after & (at + self.right >= kv_ids)

    def expression(self, origin: int) -> expr.Mask:
        return expr.Local(self.left, self.right, self.offset + origin)


@dataclass(frozen=True)
class _ChunkedCausal(StockFunction):
    chunk_size: int
    offset: int

    def __call__(self, q_ids: Any, kv_ids: Any) -> Any:
        q, kv = (_moved(ids, -self.offset) // self.chunk_size for ids in (q_ids, kv_ids))
        return (q == kv) & (q_ids >= kv_ids)

    def expression(self, origin: int) -> expr.Mask:
        whole = expr.ChunkedCausal(self.chunk_size, self.offset)
        return whole if not origin else expr.Shift(whole, q=-origin)


def _moved(ids: Any, offset: int) -> Any:
    return ids + offset if offset else ids  # a plain view is left one


class _ComputableMask(Mask):
    """Base of masks that are a function of positions; made to be subclassed.

    A subclass sets `q_sequence` after this constructor if its queries are not in order, and
    defines `__eq__` and `__hash__`.

    Args:
        shape: `(q_len, kv_len)`.
        mask_function: `(q_ids [n, 1], kv_ids [1, m]) -> bool [n, m]`, for numpy arrays and for
            those of a kernel.
        shard_count: its square must divide the queries.

    Attributes:
        q_sequence: int32 [q_len], the position of each query.
        mask_function: as given.

    Raises:
        ValueError: `shard_count**2` does not divide the queries.
    """

    _shape: tuple[int, int]
    q_sequence: npt.NDArray[Any]
    mask_function: MaskFunction

    def __init__(
        self, shape: tuple[int, int], mask_function: MaskFunction, shard_count: int = 1
    ) -> None:
        q_len, kv_len = shape
        self._shape = q_len, kv_len
        if q_len % shard_count**2:
            raise ValueError(
                f"shard_count: expected that its square, {shard_count**2}, divides the {q_len} "
                "queries"
            )
        self.mask_function = mask_function
        self.q_sequence = np.arange(q_len, dtype=np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(q_len, kv_len)`."""
        return self._shape

    def __getitem__(self, idx: Any) -> Any:
        (rows, columns), lone = spans(idx, self.shape)
        q_ids, kv_ids = self.q_sequence[rows], np.arange(columns.start, columns.stop)
        return self.mask_function(q_ids[:, None], kv_ids[None, :])[lone]

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError(f"{type(self).__name__} must define __eq__")

    def __hash__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __hash__")


class _Stock(_ComputableMask):
    """The masks of this module: they compare by their functions and positions."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (
            self._shape == other._shape
            and self.mask_function == other.mask_function
            and np.array_equal(self.q_sequence, other.q_sequence)
        )

    def __hash__(self) -> int:
        function: Any = self.mask_function
        meaning = list(astuple(function)) if isinstance(function, StockFunction) else hash(function)
        positions = np.asarray(self.q_sequence, np.int64).tobytes()
        return stable_hash(type(self).__name__, list(map(int, self._shape)), meaning, positions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shape}, {self.mask_function!r})"


class CausalMask(_Stock):
    """`kv <= q + offset`.

    Args:
        shape: `(q_len, kv_len)`.
        offset: a positive one lets queries see later keys; a negative one leaves the first
            queries without any, and their output is 0.
        shard_count: its square must divide the queries.
    """

    offset: int

    def __init__(self, shape: tuple[int, int], offset: int = 0, shard_count: int = 1) -> None:
        self.offset = checks.integer("CausalMask.offset", offset)
        super().__init__(shape, _Causal(self.offset), shard_count)


class LocalMask(_Stock):
    """A window, both sides inclusive: `q + offset - left <= kv <= q + offset + right`.

    Args:
        shape: `(q_len, kv_len)`.
        window_size: `(left, right)`; a side of None is unbounded, one integer is both sides, and
            None is no window at all. `left=W` keeps W + 1 keys, the query's own among them.
        offset: the query acts as position `q + offset`.
        shard_count: its square must divide the queries.
    """

    window_size: tuple[int | None, int | None]
    offset: int

    def __init__(
        self, shape: tuple[int, int], window_size: Window, offset: int = 0, shard_count: int = 1
    ) -> None:
        self.window_size = window_sides("LocalMask.window_size", window_size)
        self.offset = checks.integer("LocalMask.offset", offset)
        super().__init__(shape, _Local(*self.window_size, self.offset), shard_count)


class ChunkedCausalMask(_Stock):
    """Causal inside chunks of keys (Llama 4's local layers).

    Args:
        shape: `(q_len, kv_len)`.
        chunk_size: keys per chunk.
        shard_count: its square must divide the queries.
        offset: where a chunk starts; the left padding of a padded row.

    Raises:
        ValueError: `chunk_size` is not positive.
    """

    chunk_size: int
    offset: int

    def __init__(
        self, shape: tuple[int, int], chunk_size: int, shard_count: int = 1, *, offset: int = 0
    ) -> None:
        if chunk_size is None:
            raise TypeError("ChunkedCausalMask.chunk_size: expected an integer >= 1, got None")
        self.chunk_size = checks.at_least("ChunkedCausalMask.chunk_size", chunk_size, 1)
        self.offset = checks.integer("ChunkedCausalMask.offset", offset)
        super().__init__(shape, _ChunkedCausal(self.chunk_size, self.offset), shard_count)


def window_sides(where: str, window: Any) -> tuple[int | None, int | None]:
    """A window as `(left, right)`.

    Raises:
        ValueError: neither None, an integer nor a pair of these.
    """
    if window is None or not isinstance(window, list | tuple):
        side = checks.optional_integer(where, window)
        return side, side
    if len(window) != 2:
        raise checks.fail(where, "(left, right)", window)
    return checks.optional_integer(where, window[0]), checks.optional_integer(where, window[1])
