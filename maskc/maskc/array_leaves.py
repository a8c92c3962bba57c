"""Leaves that hold arrays: segments, documents, intervals, positions, bitmaps, block patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from maskc import checks
from maskc.algebra import Plain
from maskc.arrays import ArrayArgument, FrozenArray, PackedMask, frozen_integers
from maskc.errors import MaskArgumentError

__all__ = [
    "Blocks",
    "Dense",
    "Diagonals",
    "Documents",
    "Intervals",
    "Keys",
    "Queries",
    "Segments",
]


@final
@dataclass(frozen=True, slots=True, repr=False)
class Segments(Plain):
    """`q_ids[q] == kv_ids[kv] >= 0`: tokens of one segment attend each other.

    Args:
        q_ids: int [q_len], the segment of each query. Negative is padding: it attends nothing
            and nobody attends it.
        kv_ids: int [kv_len], the segment of each key; None is the same ids as the queries.
    """

    q_ids: ArrayArgument
    kv_ids: ArrayArgument = None

    def __post_init__(self) -> None:
        self._set("q_ids", frozen_integers(self._where("q_ids"), self.q_ids))
        if self.kv_ids is not None:
            self._set("kv_ids", frozen_integers(self._where("kv_ids"), self.kv_ids))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Documents(Plain):
    """Packed documents, bidirectional inside each: `cu[d] <= q, kv < cu[d + 1]` for one d.

    Args:
        cu_seqlens: int [documents + 1], where each document starts and the last one ends
            (FlashAttention's `cu_seqlens_q`). Tokens beyond the end are padding.
        kv_cu_seqlens: the same for the keys, as many documents; None is `cu_seqlens`.
    """

    cu_seqlens: ArrayArgument
    kv_cu_seqlens: ArrayArgument = None

    def __post_init__(self) -> None:
        self._set("cu_seqlens", self._offsets("cu_seqlens"))
        if self.kv_cu_seqlens is None:
            return
        self._set("kv_cu_seqlens", self._offsets("kv_cu_seqlens"))
        if len(self.kv_cu_seqlens) != len(self.cu_seqlens):
            raise MaskArgumentError(
                f"Documents.kv_cu_seqlens: expected {len(self.cu_seqlens)} offsets like "
                f"cu_seqlens, got {len(self.kv_cu_seqlens)}"
            )

    def _offsets(self, name: str) -> FrozenArray:
        where = self._where(name)
        frozen = frozen_integers(where, getattr(self, name))
        array = frozen.array
        if len(array) < 2 or array[0] != 0 or np.any(np.diff(array) < 0):
            raise checks.fail(where, "offsets [0, ...] that never fall, two or more", frozen)
        return frozen


@final
@dataclass(frozen=True, slots=True, repr=False)
class Dense(Plain):
    """An explicit mask, one bit per element.

    Args:
        mask: bool [q_len, kv_len]; it is copied.
    """

    mask: ArrayArgument

    def __post_init__(self) -> None:
        if not isinstance(self.mask, PackedMask):
            self._set("mask", PackedMask(self._where("mask"), self.mask))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Blocks(Plain):
    """`pattern[q // block_q, kv // block_kv]`: a mask made of whole tiles (BigBird, top-k blocks).

    The tiles of the pattern are part of the mask's meaning and need not be the plan's blocks.

    Args:
        pattern: bool [ceil(q_len / block_q), ceil(kv_len / block_kv)]; it is copied.
        block_q: queries per tile.
        block_kv: keys per tile; None is `block_q`.
    """

    pattern: ArrayArgument
    block_q: int
    block_kv: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, PackedMask):
            self._set("pattern", PackedMask(self._where("pattern"), self.pattern))
        self._set("block_q", checks.at_least(self._where("block_q"), self.block_q, 1))
        if self.block_kv is not None:
            self._set("block_kv", checks.at_least(self._where("block_kv"), self.block_kv, 1))

    @property
    def tile(self) -> tuple[int, int]:
        """`(queries, keys)` of one tile."""
        return self.block_q, self.block_q if self.block_kv is None else self.block_kv


@final
@dataclass(frozen=True, slots=True, repr=False)
class Intervals(Plain):
    """`starts[q] <= kv < stops[q]`: one interval of keys for each query.

    Padded and ragged batches, shared prefixes, prefixes of documents. Where a start is not below
    its stop the query attends nothing; what lies beyond the keys is cut off.

    Args:
        starts: int [q_len], the first key of each query.
        stops: int [q_len], one past its last key.
    """

    starts: ArrayArgument
    stops: ArrayArgument

    def __post_init__(self) -> None:
        for name in ("starts", "stops"):
            self._set(name, frozen_integers(self._where(name), getattr(self, name)))
        if len(self.starts) != len(self.stops):
            raise MaskArgumentError(
                f"Intervals.stops: expected {len(self.starts)} like starts, got {len(self.stops)}"
            )


class _Positions(Plain):
    """A leaf of positions, which may be none, in any order and beyond the lengths."""

    __slots__ = ()
    positions: ArrayArgument

    def __post_init__(self) -> None:
        where = self._where("positions")
        frozen = frozen_integers(where, self.positions, empty=True)
        if np.any(frozen.array < 0):
            raise checks.fail(where, "positions >= 0", frozen)
        self._set("positions", frozen)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Queries(_Positions):
    """`q in positions`: these queries attend every key (the rows of global tokens).

    Args:
        positions: int [n]; those beyond the queries are ignored.
    """

    positions: ArrayArgument


@final
@dataclass(frozen=True, slots=True, repr=False)
class Keys(_Positions):
    """`kv in positions`: every query attends these keys (global tokens, vertical lines).

    Args:
        positions: int [n]; those beyond the keys are ignored.
    """

    positions: ArrayArgument


@final
@dataclass(frozen=True, slots=True, repr=False)
class Diagonals(Plain):
    """`q - kv in distances`: whole diagonals (the slashes of MInference).

    Args:
        distances: int [n], how far back the key lies; negative ones are later keys.
    """

    distances: ArrayArgument

    def __post_init__(self) -> None:
        where = self._where("distances")
        self._set("distances", frozen_integers(where, self.distances, empty=True))
