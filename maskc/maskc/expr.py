"""The mask language: a shape-free tree of frozen leaves and operators.

True means "query q may attend key kv". A tree is bound to lengths only when it is compiled, so one
tree serves every length. Leaves are combined with `&`, `|`, `^`, `~` and `-`; nodes compare and
hash by content, alike in every process, and print as the Python that builds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, final

import numpy as np

from maskc import checks
from maskc.arrays import ArrayArgument, FrozenArray, PackedMask, frozen_integers
from maskc.errors import MaskArgumentError

__all__ = [
    "And",
    "Blocks",
    "Causal",
    "ChunkedCausal",
    "Dense",
    "Documents",
    "Empty",
    "Full",
    "Local",
    "Mask",
    "MultiHead",
    "Node",
    "Not",
    "Or",
    "Prefix",
    "Random",
    "Rectangle",
    "Segments",
    "Xor",
]

Align = Literal["top_left", "bottom_right"]
_ALIGNMENTS = ("top_left", "bottom_right")


class Mask:
    """Base of every mask node: the operators."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy must not broadcast an operator over its own elements

    def __and__(self, other: Mask) -> Mask:
        return _combine(And, self, other)

    def __or__(self, other: Mask) -> Mask:
        return _combine(Or, self, other)

    def __xor__(self, other: Mask) -> Mask:
        return _combine(Xor, self, other)

    def __sub__(self, other: Mask) -> Mask:
        return self & ~other if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> Mask:
        if isinstance(self, MultiHead):
            return MultiHead([~mask for mask in self.masks])
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value; combine masks with & | ^ ~ -, not and/or/not")

    def __str__(self) -> str:
        return repr(self)

    def _set(self, name: str, value: object) -> None:
        """Store a checked argument while the node is being built."""
        object.__setattr__(self, name, value)

    def _where(self, argument: str) -> str:
        return f"{type(self).__name__}.{argument}"


class _Leaf(Mask):
    """A node with no masks inside; prints only the arguments that differ from their defaults."""

    __slots__ = ()

    def __repr__(self) -> str:
        parts = []
        for field in fields(self):  # type: ignore[arg-type]  # every leaf is a dataclass
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Full(_Leaf):
    """Every query attends every key."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Empty(_Leaf):
    """No query attends any key."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Causal(_Leaf):
    """`kv <= q + offset`.

    Args:
        offset: the query acts as position `q + offset`; a positive one sees later keys.
        align: where q_len != kv_len, which corner the diagonal starts from: "top_left" (splash,
            ejKernel), or "bottom_right" (FlashAttention >= 2.1, chunked prefill and decoding),
            which adds `kv_len - q_len` to the offset.
    """

    offset: int = 0
    align: Align = "top_left"

    def __post_init__(self) -> None:
        self._set("offset", checks.integer(self._where("offset"), self.offset))
        checks.choice(self._where("align"), self.align, _ALIGNMENTS)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Local(_Leaf):
    """A window: `q + offset - left <= kv <= q + offset + right`, both sides inclusive.

    FlashAttention's and splash's `(left, right)`: `left=W` keeps W + 1 keys, the query's own
    among them, so Hugging Face's `sliding_window=W` is `Local(left=W - 1, right=0)`.

    Args:
        left: keys kept before the query's own position; None is unbounded.
        right: keys kept after it; None is unbounded, 0 is causal.
        offset: the query acts as position `q + offset`.
        align: as for `Causal`.
    """

    left: int | None = None
    right: int | None = None
    offset: int = 0
    align: Align = "top_left"

    def __post_init__(self) -> None:
        self._set("left", checks.optional_integer(self._where("left"), self.left))
        self._set("right", checks.optional_integer(self._where("right"), self.right))
        self._set("offset", checks.integer(self._where("offset"), self.offset))
        checks.choice(self._where("align"), self.align, _ALIGNMENTS)


@final
@dataclass(frozen=True, slots=True, repr=False)
class ChunkedCausal(_Leaf):
    """Causal inside chunks: `q // chunk == kv // chunk and kv <= q` (Llama 4's local layers)."""

    chunk: int

    def __post_init__(self) -> None:
        self._set("chunk", checks.at_least(self._where("chunk"), self.chunk, 1))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Prefix(_Leaf):
    """`kv < length`: everybody attends the first keys. Prefix-LM is `Causal() | Prefix(length)`."""

    length: int

    def __post_init__(self) -> None:
        self._set("length", checks.at_least(self._where("length"), self.length, 0))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Rectangle(_Leaf):
    """`q_start <= q < q_stop and kv_start <= kv < kv_stop`; a stop of None is the length.

    Global query rows, padding and lengths: `Rectangle(q_stop=64)`, `Rectangle(kv_stop=1000)`.
    """

    q_start: int = 0
    q_stop: int | None = None
    kv_start: int = 0
    kv_stop: int | None = None

    def __post_init__(self) -> None:
        for name in ("q_start", "kv_start"):
            self._set(name, checks.at_least(self._where(name), getattr(self, name), 0))
        for name in ("q_stop", "kv_stop"):
            if getattr(self, name) is not None:
                self._set(name, checks.at_least(self._where(name), getattr(self, name), 0))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Segments(_Leaf):
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
class Documents(_Leaf):
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
class Dense(_Leaf):
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
class Blocks(_Leaf):
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
class Random(_Leaf):
    """Independent random elements: the share `sparsity` of them is False.

    Element (q, kv) is a hash of (seed, q, kv), so it is the same on every machine, and a longer
    mask extends a shorter one. With `mix` the finaliser of SplitMix64 (Steele et al., 2014), it is
    True iff `mix(mix(seed + q) + kv) >= sparsity * 2**64`, in 64-bit wrapping arithmetic.

    Args:
        sparsity: share of elements that may not attend, from 0 to 1.
        seed: a non-negative integer below 2**63.
    """

    sparsity: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._set("sparsity", checks.fraction(self._where("sparsity"), self.sparsity))
        seed = checks.at_least(self._where("seed"), self.seed, 0)
        if seed >= 2**63:
            raise checks.fail(self._where("seed"), "an integer below 2**63", seed)
        self._set("seed", seed)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Not(Mask):
    """`~mask`."""

    mask: Mask

    def __post_init__(self) -> None:
        _check_operands(self, (self.mask,))

    def __repr__(self) -> str:
        return f"~{_parenthesised(self.mask)}"


class _Nary(Mask):
    """An associative operator over two or more masks; nested ones of the same kind are joined."""

    __slots__ = ()
    masks: tuple[Mask, ...]
    symbol: str

    def __post_init__(self) -> None:
        masks = tuple(self.masks)
        if len(masks) < 2:
            raise checks.fail(self._where("masks"), "two or more masks", masks)
        _check_operands(self, masks)
        joined: list[Mask] = []
        for mask in masks:
            if type(mask) is type(self):
                joined.extend(mask.masks)
            else:
                joined.append(mask)
        self._set("masks", tuple(joined))

    def __repr__(self) -> str:
        return f" {self.symbol} ".join(map(_parenthesised, self.masks))


@final
@dataclass(frozen=True, slots=True, repr=False)
class And(_Nary):
    """`a & b & ...`: attends where every mask does."""

    masks: tuple[Mask, ...]
    symbol = "&"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Or(_Nary):
    """`a | b | ...`: attends where some mask does."""

    masks: tuple[Mask, ...]
    symbol = "|"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Xor(_Nary):
    """`a ^ b ^ ...`: attends where an odd number of masks does."""

    masks: tuple[Mask, ...]
    symbol = "^"


@final
@dataclass(frozen=True, slots=True)
class MultiHead(Mask):
    """One mask per query head. An operator on it works head by head.

    Args:
        masks: one mask for each head, none of them a `MultiHead` itself.
    """

    masks: Sequence[Mask]

    def __post_init__(self) -> None:
        masks = tuple(self.masks)
        if not masks:
            raise checks.fail("MultiHead.masks", "one mask or more", masks)
        _check_operands(self, masks)
        self._set("masks", masks)


Node = (
    Full
    | Empty
    | Causal
    | Local
    | ChunkedCausal
    | Prefix
    | Rectangle
    | Segments
    | Documents
    | Dense
    | Blocks
    | Random
    | Not
    | And
    | Or
    | Xor
)
"""Every node of a single head's mask, for `match` statements that must not forget one."""


def _check_operands(node: Mask, masks: tuple[object, ...]) -> None:
    for mask in masks:
        if not isinstance(mask, Mask) or isinstance(mask, MultiHead):
            raise checks.fail(type(node).__name__, "a mask of a single head", mask)


def _parenthesised(mask: Mask) -> str:
    return f"({mask!r})" if isinstance(mask, _Nary) else repr(mask)


def _combine(kind: type[And | Or | Xor], left: Mask, right: Mask) -> Mask:
    if not isinstance(right, Mask):
        return NotImplemented
    if not isinstance(left, MultiHead) and not isinstance(right, MultiHead):
        return kind((left, right))
    count = max(len(mask.masks) for mask in (left, right) if isinstance(mask, MultiHead))
    heads = [
        mask.masks if isinstance(mask, MultiHead) else (mask,) * count for mask in (left, right)
    ]
    if len(heads[0]) != len(heads[1]):
        raise MaskArgumentError(
            f"{kind.symbol}: expected two MultiHead masks of as many heads, "
            f"got {len(heads[0])} and {len(heads[1])}"
        )
    return MultiHead([_combine(kind, a, b) for a, b in zip(*heads, strict=True)])
