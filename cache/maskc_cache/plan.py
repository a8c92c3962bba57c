"""The plan artefact: frozen records of numpy arrays, and the invariants that they keep.

A `Plan` is what one mask means for one blocking and one sharding. It knows nothing of mask
expressions (the compiler is above it) and nothing of devices (the runtime is above it).
"""

from __future__ import annotations

import enum
import functools
import operator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from maskc_cache.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_INTERVALS",
    "BlockLists",
    "BlockState",
    "Direction",
    "Plan",
    "RowBounds",
    "SplashMaskInfo",
    "SplashTables",
    "blocks_along",
    "digest_of",
    "key_of",
    "pack",
    "smallest_dtype",
]

IntArray = npt.NDArray[np.signedinteger[Any]]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Content = tuple[str, str, tuple[int, ...], bytes]
"""An array's name, dtype (like "i4"), shape, and the XXH3-128 of its little-endian bytes."""

Direction = Literal["fwd", "dq", "dkv"]

MAX_INTERVALS = 2
"""Intervals per row up to which comparing positions beats loading the bits of a block."""


class BlockState(enum.IntEnum):
    """What a block holds, with the numbers that splash attention's `block_mask` uses."""

    EMPTY = 0
    PARTIAL = 1
    FULL = 2


def blocks_along(length: int, block: int) -> int:
    """How many blocks of `block` positions cover `length` positions, a ragged last one included."""
    return -(-length // block)


_INT8, _INT16, _INT32 = np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32)


def smallest_dtype(largest: int) -> np.dtype[np.signedinteger[Any]]:
    """The smallest of int8, int16 and int32 that holds `largest` (splash's downcast rule)."""
    if largest < 1 << 7:
        return _INT8
    if largest < 1 << 15:
        return _INT16
    if largest < 1 << 31:
        return _INT32
    raise PlanError(
        f"a table entry of {largest:,} does not fit int32; use larger blocks "
        "so that the mask has fewer of them"
    )


def pack(value: object) -> bytes:
    """A value of lists, maps, strings, bytes and integers as msgpack; the one place that packs."""
    return msgspec.msgpack.encode(value)


def key_of(canonical: bytes) -> str:
    """The cache key of a canonical form: 32 hex digits of its XXH3-128."""
    return xxhash.xxh3_128_hexdigest(canonical)


def digest_of(facts: list[object], contents: list[Content]) -> str:
    """The digest of a plan: 32 hex digits of the XXH3-128 of what says all that it holds.

    A file's checksum of a raw section is that of its content, so a reader hashes nothing twice.

    Args:
        facts: q_len, kv_len, head_shards, q_seq_shards, the blocks of fwd, dq and dkv, and the
            plan's row intervals or an empty list.
        contents: of every array, in the order of their names.
    """
    return xxhash.xxh3_128_hexdigest(pack([*facts, contents]))


@dataclass(frozen=True, slots=True, eq=False)
class BlockLists:
    """The non-empty blocks of every unique mask, as compressed rows.

    A "row" is a block of queries for fwd and dq, and a block of keys for dkv; the lists name the
    blocks of the other side. Row `r` of mask `m` is number `m * rows + r`, and its full blocks are
    `full_idx[full_ptr[n]:full_ptr[n + 1]]`, ascending; likewise for the partial ones.

    Outside the lengths nothing attends, so a block that crosses a ragged edge is never full.

    Attributes:
        block_q: queries per block.
        block_kv: keys per block.
        full_ptr: int32 [masks * rows + 1], offsets into `full_idx`.
        full_idx: int8/int16/int32 [n_full], blocks with no mask arithmetic to do. The dtype is the
            smallest that holds the last column, whatever the mask.
        partial_ptr: int32 [masks * rows + 1], offsets into `partial_idx` and `partial_id`.
        partial_idx: [n_partial], of the dtype of `full_idx`.
        partial_id: [n_partial], which of `partial_blocks` applies; the smallest dtype that holds
            the last one's number.
        partial_blocks: uint8 [unique, block_q, ceil(block_kv / 8)], each block once, as bits along
            kv, least significant first. Always in (q, kv) orientation, for dkv too. Numbered by
            first appearance over (mask, q block, kv block), as splash attention numbers them.
    """

    block_q: int
    block_kv: int
    full_ptr: IntArray
    full_idx: IntArray
    partial_ptr: IntArray
    partial_idx: IntArray
    partial_id: IntArray
    partial_blocks: ByteArray

    @property
    def blocks(self) -> tuple[int, int]:
        """`(block_q, block_kv)`."""
        return self.block_q, self.block_kv

    def unpacked_blocks(self) -> BoolArray:
        """The unique partial blocks as bool [unique, block_q, block_kv]."""
        bits = np.unpackbits(self.partial_blocks, axis=2, count=self.block_kv, bitorder="little")
        return bits.astype(np.bool_)

    def states(self, rows: int, cols: int) -> tuple[IntArray, IntArray]:
        """The lists as grids: `BlockState` int8 and partial id int32, each [masks, rows, cols].

        The id is -1 where a block is not partial.
        """
        masks = (len(self.full_ptr) - 1) // rows
        state = np.zeros((masks * rows, cols), np.int8)
        ids = np.full((masks * rows, cols), -1, np.int32)
        state[_row_numbers(self.full_ptr), self.full_idx] = BlockState.FULL
        state[_row_numbers(self.partial_ptr), self.partial_idx] = BlockState.PARTIAL
        ids[_row_numbers(self.partial_ptr), self.partial_idx] = self.partial_id
        return state.reshape(masks, rows, cols), ids.reshape(masks, rows, cols)


def _row_numbers(ptr: IntArray) -> IntArray:
    """The row of every list entry, from the row offsets."""
    return np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))


class SplashMaskInfo(NamedTuple):
    """The fields of JAX splash attention's `MaskInfo`, in its order, as host arrays.

    Attributes:
        data_next: [heads or head_shards, q blocks, width], the block to fetch next.
        mask_next: same shape, the partial block to fetch next; None if nothing is partial.
        block_mask: same shape, 0 empty, 1 partial, 2 full.
        partial_mask_blocks: bool [unique, block_q, block_kv], transposed for dkv; None if nothing
            is partial.
        q_sequence: int32 [q_len], the position of each query; only for masks that a kernel
            recomputes instead of loading.
        is_dynamic_mask: None, for a mask that was known at compile time.
    """

    data_next: IntArray | None
    mask_next: IntArray | None
    block_mask: IntArray | None
    partial_mask_blocks: BoolArray | IntArray | None
    q_sequence: IntArray | None
    is_dynamic_mask: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SplashTables:
    """The small tables of splash attention for one direction (see `SplashMaskInfo`)."""

    data_next: IntArray
    mask_next: IntArray | None
    block_mask: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class RowBounds:
    """The mask as intervals of each row, for kernels that apply it without stored blocks.

    A side has bounds if no row of any mask has more than two intervals: a mask may be one interval
    for each query and many for a key. They hold whole rows, so one set serves every blocking.

    Query `i` of mask `m` attends `kv` iff `q[m, 0, i] <= kv < q[m, 1, i]`, or
    `q[m, 2, i] <= kv < q[m, 3, i]` if there is a second interval; likewise key `j` is attended by
    queries between the entries of `kv[m, :, j]`. Intervals ascend, apart by one position or more.
    One that is missing is `[0, 0)`, so zeros beyond the length mean rows that attend nothing.
    Neighboring rows lie side by side in memory.

    Attributes:
        q_intervals: most intervals of keys that any query attends.
        kv_intervals: most intervals of queries that any key is attended by.
        q: int32 [masks, 2 * max(q_intervals, 1), q_len], or None if that is more than 2 intervals.
        kv: int32 [masks, 2 * max(kv_intervals, 1), kv_len], or None likewise.
    """

    q_intervals: int
    kv_intervals: int
    q: IntArray | None
    kv: IntArray | None


_LISTS = tuple(field.name for field in fields(BlockLists)[2:])
_TABLES = tuple(field.name for field in fields(SplashTables))
_arrays_of_lists = operator.attrgetter(*_LISTS)


@dataclass(frozen=True, eq=False)
class Plan:
    """One mask, for one blocking and one sharding: everything that a kernel needs.

    Plans compare and hash by `digest`, so equal content is equal, however it was written or
    stored. The arrays are read-only.

    Attributes:
        q_len: queries that the plan covers.
        kv_len: keys that it covers.
        head_mask: int32 [heads], which unique mask each head uses, numbered by first use.
        head_shards: over how many devices the splash tables split the heads.
        q_seq_shards: over how many devices they split the queries.
        fwd: block lists of the forward pass; rows are q blocks.
        dq: block lists of the dq pass; the same object as `fwd` where the blocks agree.
        dkv: block lists of the dkv pass; rows are kv blocks.
        splash_fwd: splash attention's forward tables, or None if the plan leaves them out.
        splash_dkv: its dkv tables, or None.
        row_bounds: the intervals of each row, or None if the plan leaves them out.
        canonical: the canonical form that was compiled, with every parameter (msgpack). Its hash
            is the key; comparing it is what makes a cache hit certain.
        compiler: the maskc version that wrote the plan. Not part of its identity.
    """

    q_len: int
    kv_len: int
    head_mask: IntArray
    head_shards: int
    q_seq_shards: int
    fwd: BlockLists
    dq: BlockLists
    dkv: BlockLists
    splash_fwd: SplashTables | None
    splash_dkv: SplashTables | None
    row_bounds: RowBounds | None
    canonical: bytes
    compiler: str

    def __post_init__(self) -> None:
        arrays = [self.head_mask, *_arrays_of_lists(self.fwd), *_arrays_of_lists(self.dkv)]
        if self.dq is not self.fwd:
            arrays += _arrays_of_lists(self.dq)
        for tables in (self.splash_fwd, self.splash_dkv):
            if tables is not None:
                arrays += (tables.data_next, tables.mask_next, tables.block_mask)
        if self.row_bounds is not None:
            arrays += (self.row_bounds.q, self.row_bounds.kv)
        for array in arrays:
            if array is not None:
                array.setflags(write=False)

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return len(self.head_mask)

    @property
    def masks(self) -> int:
        """Number of unique masks among the heads."""
        return int(self.head_mask.max()) + 1

    @property
    def row_intervals(self) -> tuple[int, int] | None:
        """Most intervals of one query and of one key; None if the plan has no row bounds."""
        bounds = self.row_bounds
        return None if bounds is None else (bounds.q_intervals, bounds.kv_intervals)

    @functools.cached_property
    def key(self) -> str:
        """The cache key: 32 hex digits over `canonical`."""
        return key_of(self.canonical)

    @functools.cached_property
    def digest(self) -> str:
        """32 hex digits over the decoded content: the same for every image of the same plan.

        Independent of the compiler's version and of how a file was compressed. Two keys may share
        a digest (two writings of one mask); one key never has two.
        """
        facts = [self.q_len, self.kv_len, self.head_shards, self.q_seq_shards]
        blocks = [self.fwd.blocks, self.dq.blocks, self.dkv.blocks]
        contents: list[Content] = [
            (
                name,
                array.dtype.str[1:],
                array.shape,
                xxhash.xxh3_128_digest(np.ascontiguousarray(array).data),
            )
            for name, array in sorted(self.arrays(), key=operator.itemgetter(0))
        ]
        return digest_of([*facts, blocks, self.row_intervals or ()], contents)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return (
            f"<Plan {self.key[:12]} q_len={self.q_len} kv_len={self.kv_len} heads={self.heads} "
            f"block_q={self.fwd.block_q} block_kv={self.fwd.block_kv} "
            f"partial_blocks={len(self.fwd.partial_blocks)}>"
        )

    def lists(self, direction: Direction) -> BlockLists:
        """The block lists of one direction: "fwd", "dq" or "dkv"."""
        match direction:
            case "fwd":
                return self.fwd
            case "dq":
                return self.dq
            case "dkv":
                return self.dkv
        raise ValueError(f"direction: expected 'fwd', 'dq' or 'dkv', got {direction!r}")

    def grid(self, direction: Direction) -> tuple[int, int]:
        """`(rows, columns)` of one direction's block grid; rows are kv blocks for dkv."""
        lists = self.lists(direction)
        rows = blocks_along(self.q_len, lists.block_q), blocks_along(self.kv_len, lists.block_kv)
        return rows if direction != "dkv" else (rows[1], rows[0])

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Every stored array with its section name, in a fixed order, shared ones once."""
        yield "head_mask", self.head_mask
        seen = set()
        for name, lists in (("fwd", self.fwd), ("dq", self.dq), ("dkv", self.dkv)):
            for field in _LISTS if name != "dq" or lists is not self.fwd else ():
                array = getattr(lists, field)
                if (field, id(array)) not in seen:
                    seen.add((field, id(array)))
                    yield f"{name}.{field}", array
        for name in ("fwd", "dkv"):
            tables: SplashTables | None = getattr(self, f"splash_{name}")
            for field in _TABLES if tables else ():
                if (array := getattr(tables, field)) is not None:
                    yield f"splash_{name}.{field}", array
        for name in ("q", "kv"):
            if self.row_bounds and (array := getattr(self.row_bounds, name)) is not None:
                yield f"row_bounds.{name}", array

    def splash(
        self,
        direction: Literal["fwd", "dkv"] = "fwd",
        *,
        computable: bool = False,
        partial_dtype: npt.DTypeLike = np.bool_,
    ) -> SplashMaskInfo:
        """The tables as JAX splash attention's `process_mask` / `process_mask_dkv` return them.

        Args:
            direction: "fwd" or "dkv".
            computable: give `q_sequence` in place of `mask_next` and `partial_mask_blocks`, as
                splash does for a mask that its kernel recomputes with a mask function.
            partial_dtype: bool as in JAX and ejKernel, int32 as in FJFormer.

        Raises:
            PlanError: the plan was compiled without splash tables.
            ValueError: `direction` is neither "fwd" nor "dkv".
        """
        if direction not in {"fwd", "dkv"}:
            raise ValueError(f"direction: expected 'fwd' or 'dkv', got {direction!r}")
        tables = self.splash_fwd if direction == "fwd" else self.splash_dkv
        if tables is None:
            raise PlanError("this plan has no splash tables; compile it with splash=True")
        if computable:
            positions = np.arange(self.q_len, dtype=np.int32)
            return SplashMaskInfo(tables.data_next, None, tables.block_mask, None, positions)
        blocks = None
        if tables.mask_next is not None:
            blocks = self.lists(direction).unpacked_blocks()
            blocks = blocks.swapaxes(1, 2) if direction == "dkv" else blocks
            blocks = blocks.astype(partial_dtype, copy=False)
        return SplashMaskInfo(tables.data_next, tables.mask_next, tables.block_mask, blocks, None)

    def to_dense(self, head: int = 0, direction: Direction = "fwd") -> BoolArray:
        """The mask of one head as bool [q_len, kv_len], read back from the block lists.

        For tests and small lengths: it allocates every element.

        Raises:
            IndexError: `head` is not one of the plan's heads.
        """
        lists, (rows, cols) = self.lists(direction), self.grid(direction)
        mask = int(self.head_mask[head])
        states, ids = lists.states(rows, cols)
        state, number = states[mask], ids[mask]
        if direction == "dkv":
            state, number = state.T, number.T
        nq, nk = state.shape
        blocks = np.zeros((nq, nk, lists.block_q, lists.block_kv), np.bool_)
        blocks[state == BlockState.FULL] = True
        partial = state == BlockState.PARTIAL
        blocks[partial] = lists.unpacked_blocks()[number[partial]]
        dense = blocks.swapaxes(1, 2).reshape(nq * lists.block_q, nk * lists.block_kv)
        return dense[: self.q_len, : self.kv_len]
