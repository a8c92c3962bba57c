"""The masks that benchmarks compile, each in maskc's words and, where it can be said, in JAX's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash

from maskc import (
    Causal,
    ChunkedCausal,
    Dense,
    Documents,
    Local,
    Mask,
    MultiHead,
    Neighborhood,
    Prefix,
    Random,
    zoo,
)

MEAN_DOCUMENT = 2000  # tokens, log-normal
WIDE = 8192  # rows of blocks of a mask whose splash tables are as wide as they are long
SPARSEST = 32768  # tokens up to which masks are made that need bits for every element


@dataclass(frozen=True)
class Case:
    """One mask at any length.

    Attributes:
        build: the mask for a length.
        twin: JAX's own mask for `(length, length)`; None if it must be given dense.
        longest: no longer than this many tokens.
        grid: no more rows of blocks than this; beyond, its splash tables take gigabytes.
        peers: the peers no longer than this; theirs take minutes beyond.
    """

    build: Callable[[int], Mask]
    twin: Callable[[tuple[int, int]], Any] | None = None
    longest: int = 1 << 40
    grid: int = 1 << 20
    peers: int = 1 << 15


def documents(length: int) -> Documents:
    """Packed documents."""
    random = np.random.default_rng(0)
    ends = np.cumsum(random.lognormal(7.3, 0.8, length // 500).astype(int) + 1)
    return Documents([0, *ends[ends < length].tolist(), length])


def prefixes(length: int) -> Mask:
    """Packed documents, causal but for their first 256 tokens or fewer."""
    cu = documents(length).cu_seqlens.array
    return zoo.document_prefix_lm(cu, np.minimum(np.diff(cu), 256))


def images(length: int) -> Mask:
    """Causal text with an image of 256 tokens in every 1,024."""
    position = np.arange(length)
    return zoo.image_blocks(np.where(position % 1024 < 256, position // 1024, -1))


def heads(length: int) -> MultiHead:
    """32 heads that share 4 masks."""
    four = [Causal(), Local(1023, 0), ChunkedCausal(4096), Causal() & documents(length)]
    return MultiHead([four[i % 4] for i in range(32)])


def bigbird(length: int) -> Mask:
    """Blocks of 64: a window of three, three random ones, the first and the last global."""
    size = length // 64
    random, line = np.random.default_rng(0), np.arange(size)
    pattern = abs(line[:, None] - line) <= 1
    pattern[line[:, None], random.integers(0, size, (size, 3))] = True
    pattern[[0, -1]] = True
    pattern[:, [0, -1]] = True
    return zoo.bigbird(pattern, 64)


def vertical_slash(length: int) -> Mask:
    """64 columns and 80 diagonals."""
    random = np.random.default_rng(0)
    return zoo.vertical_slash(
        random.choice(length, 64, replace=False), random.choice(length, 80, replace=False)
    )


def neighborhood(length: int) -> Mask:
    """NATTEN 2-D, 13 x 13, on a grid 128 tokens high."""
    return Neighborhood((128, length // 128), 13)


def noise(length: int) -> Dense:
    """A dense array without structure below its 128 x 128 tiles."""
    random = np.random.default_rng(0)
    tiles = random.random((length // 128, length // 128)) < 0.1
    return Dense(np.kron(tiles, np.ones((128, 128), bool)))


def _window_and_causal(shape: tuple[int, int]) -> Any:
    return splash.LocalMask(shape, (4095, 0), 0)


CASES: dict[str, Case] = {
    "causal": Case(lambda _: Causal(), splash.CausalMask, grid=WIDE),
    "window 4096": Case(lambda _: Local(4095, 0), _window_and_causal),
    "causal & window & documents": Case(lambda n: Causal() & Local(4095) & documents(n)),
    "prefix over documents": Case(prefixes),
    "sinks + window": Case(lambda _: zoo.sink_window(4, 4096), grid=WIDE),
    "chunked 8192": Case(
        lambda _: ChunkedCausal(8192), lambda shape: splash.ChunkedCausalMask(shape, 8192)
    ),
    "prefix 1024": Case(lambda _: Causal() | Prefix(1024), grid=WIDE),
    "image blocks": Case(images, grid=WIDE),
    "block diffusion 32": Case(lambda n: zoo.block_diffusion(n // 2, 32), grid=WIDE),
    "32 heads of 4 masks": Case(heads, grid=WIDE // 4, peers=1 << 13),
    "strided 128": Case(lambda _: zoo.sparse_transformer_strided(128), longest=1 << 17),
    "bigbird": Case(bigbird, longest=1 << 17),
    "NATTEN 2-D": Case(neighborhood, longest=1 << 17),
    "dilated 256, 4": Case(lambda _: zoo.dilated_window(256, 4), longest=1 << 17),
    "fixed 128": Case(lambda _: zoo.sparse_transformer_fixed(128, 8), longest=1 << 17),
    "vertical slash": Case(vertical_slash, longest=1 << 17),
    "Sparse VideoGen": Case(lambda _: zoo.svg_temporal(226, 1350, 90), longest=1 << 17),
    "dense": Case(noise, longest=SPARSEST),
    "random 50%": Case(lambda _: Random(0.5), longest=SPARSEST),
}
"""Zone masks first, then those that need tiles, periods or bits."""
