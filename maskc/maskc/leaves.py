"""Leaves that are arithmetic on positions: bands, chunks, periods, rectangles, neighborhoods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from maskc import checks
from maskc.algebra import Plain

__all__ = [
    "Causal",
    "Chunked",
    "ChunkedCausal",
    "Empty",
    "Full",
    "Local",
    "Neighborhood",
    "Prefix",
    "Random",
    "Rectangle",
    "Strided",
]

Align = Literal["top_left", "bottom_right"]
_ALIGNMENTS = ("top_left", "bottom_right")


@final
@dataclass(frozen=True, slots=True, repr=False)
class Full(Plain):
    """Every query attends every key."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Empty(Plain):
    """No query attends any key."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Causal(Plain):
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
class Local(Plain):
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
class Chunked(Plain):
    """`(q - offset) // chunk == (kv - offset) // chunk`: all of one chunk attend each other.

    Args:
        chunk: tokens per chunk.
        offset: where a chunk starts; the left padding of a padded row.
    """

    chunk: int
    offset: int = 0

    def __post_init__(self) -> None:
        self._set("chunk", checks.at_least(self._where("chunk"), self.chunk, 1))
        self._set("offset", checks.integer(self._where("offset"), self.offset))


@final
@dataclass(frozen=True, slots=True, repr=False)
class ChunkedCausal(Plain):
    """Causal inside chunks: `Chunked(chunk, offset) & Causal()` (Llama 4's local layers).

    Args:
        chunk: keys per chunk.
        offset: where a chunk starts, as for `Chunked`.
    """

    chunk: int
    offset: int = 0

    def __post_init__(self) -> None:
        self._set("chunk", checks.at_least(self._where("chunk"), self.chunk, 1))
        self._set("offset", checks.integer(self._where("offset"), self.offset))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Strided(Plain):
    """`(q - kv) % stride == phase % stride`: every `stride`-th diagonal.

    A dilated window is `Local(w, w) & Strided(dilation)`.

    Args:
        stride: distance from one diagonal to the next.
        phase: a diagonal that is kept, by `q - kv`.
    """

    stride: int
    phase: int = 0

    def __post_init__(self) -> None:
        self._set("stride", checks.at_least(self._where("stride"), self.stride, 1))
        self._set("phase", checks.integer(self._where("phase"), self.phase))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Prefix(Plain):
    """`kv < length`: everybody attends the first keys. Prefix-LM is `Causal() | Prefix(length)`."""

    length: int

    def __post_init__(self) -> None:
        self._set("length", checks.at_least(self._where("length"), self.length, 0))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Rectangle(Plain):
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
class Random(Plain):
    """Independent random elements: the share `sparsity` of them is False.

    Element (q, kv) depends on (seed, q, kv) alone, so it is the same on every machine, and a
    longer mask extends a shorter one. With `mix` the finaliser of SplitMix64 (Steele et al.,
    2014) and `row = mix(mix(seed) + q)`, a number u from 0 to 1 has the binary digits

        bit kv % 64 of mix(row + kv - kv % 64 + place)    for place = 0 (the highest) to 63

    in 64-bit wrapping arithmetic, and the element is True iff `u >= sparsity`.

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
class Neighborhood(Plain):
    """Neighborhood attention (NATTEN, GNA) on a 1-D, 2-D or 3-D grid of tokens in row-major order.

    Each query attends the `kernel` nearest tokens along every axis; at the borders the window is
    moved inwards and keeps its size. The mask is the product over the axes of, with n, K and s the
    axis's own length, kernel and stride, both positions in one residue class modulo the dilation,
    and q, kv and n divided by it:

        centre = clamp(min(q // s * s + s // 2, n - 1), K // 2, n - 1 - (K - 1) // 2)
        centre - K // 2 <= kv <= centre + (K - 1) // 2

    and on a causal axis `min(q // s * s + s - 1, n - 1) - K < kv <= q`.

    Args:
        shape: tokens along each axis, like `(height, width)`.
        kernel: tokens that each query attends along each axis; one number is for every axis.
        dilation: distance of neighbors along each axis; `kernel * dilation` must fit the axis.
        stride: queries that share one window along each axis (GNA), at most the kernel.
        causal: whether queries attend only what is not after them, along each axis.
    """

    shape: tuple[int, ...]
    kernel: int | tuple[int, ...]
    dilation: int | tuple[int, ...] = 1
    stride: int | tuple[int, ...] = 1
    causal: bool | tuple[bool, ...] = False

    def __post_init__(self) -> None:
        self._set("shape", checks.sizes(self._where("shape"), self.shape))
        axes = len(self.shape)
        for name in ("kernel", "dilation", "stride"):
            self._set(name, checks.per_axis(self._where(name), getattr(self, name), axes, _size))
        self._set("causal", checks.per_axis(self._where("causal"), self.causal, axes, checks.truth))
        for length, axis in zip(self.shape, self.axes, strict=True):
            if axis[0] * axis[1] > length:
                raise checks.fail(
                    self._where("kernel"),
                    f"kernel * dilation <= the axis's {length} tokens",
                    axis[0] * axis[1],
                )
            if axis[2] > axis[0]:
                raise checks.fail(self._where("stride"), f"at most the kernel {axis[0]}", axis[2])

    @property
    def axes(self) -> tuple[tuple[int, int, int, bool], ...]:
        """`(kernel, dilation, stride, causal)` of each axis."""
        return tuple(zip(self.kernel, self.dilation, self.stride, self.causal, strict=True))  # type: ignore[arg-type]  # checked: tuples by now


def _size(where: str, value: object) -> int:
    return checks.at_least(where, value, 1)
