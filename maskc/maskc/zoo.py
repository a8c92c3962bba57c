"""Published masks as compositions of nodes, each with its predicate and where it comes from.

"Keys" counts what a query sees, its own position included; a "distance" is how far away the
farthest one lies. Published windows use both; the names here say which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.checks import at_least, fail, per_axis, sizes
from maskc.expr import (
    Blocks,
    Causal,
    Chunked,
    Dense,
    Diagonals,
    Documents,
    Full,
    Intervals,
    Keys,
    Kron,
    Local,
    Mask,
    Neighborhood,
    Prefix,
    Queries,
    Rectangle,
    Segments,
    Shift,
    Strided,
    Transpose,
)

__all__ = [
    "batchify",
    "bigbird",
    "block_causal",
    "block_diagonal",
    "block_diffusion",
    "blockwise",
    "dilated_window",
    "document_prefix_lm",
    "flamingo",
    "image_blocks",
    "longformer",
    "multi_block_draft",
    "padded_keys",
    "prefix_lm",
    "shared_prefix",
    "sink_window",
    "sliding_window",
    "sparse_transformer_fixed",
    "sparse_transformer_strided",
    "sta",
    "svg_spatial",
    "svg_temporal",
    "tile_order",
    "tree",
    "vertical_slash",
]

Integers = Sequence[int] | npt.NDArray[Any]


# --- windows and prefixes -----------------------------------------------------------------------


def sliding_window(keys: int) -> Mask:
    """`0 <= q - kv < keys` (Hugging Face's `sliding_window`, Mistral).

    FlashAttention's `window_size=(l, 0)` and splash's `LocalMask((l, 0))` keep l + 1 keys: there,
    `sliding_window(l + 1)` or `Local(l, 0)`.
    """
    return Local(left=at_least("sliding_window.keys", keys, 1) - 1, right=0)


def sink_window(sinks: int, keys: int) -> Mask:
    """`kv <= q and (kv < sinks or q - kv < keys)` (StreamingLLM, arXiv 2309.17453)."""
    return sliding_window(keys) | (Causal() & Prefix(sinks))


def prefix_lm(length: int) -> Mask:
    """`kv < length or kv <= q` (T5's and PaliGemma's prefix-LM)."""
    return Causal() | Prefix(length)


def dilated_window(distance: int, dilation: int) -> Mask:
    """`|q - kv| <= distance and |q - kv| % dilation == 0` (attention-gym, Longformer)."""
    return Local(distance, distance) & Strided(dilation)


def padded_keys(length: int, left: int = 0) -> Mask:
    """`left <= kv < length`: intersect a mask with it where keys are padded."""
    return Rectangle(kv_start=left, kv_stop=length)


# --- documents, images, sequences in one row ----------------------------------------------------


def document_prefix_lm(cu_seqlens: Integers, prefixes: Integers) -> Mask:
    """Packed documents: inside one, `kv <= q` or kv is of the document's prefix (FlashMask).

    Args:
        cu_seqlens: int [documents + 1], as for `Documents`; they end where the tokens do.
        prefixes: int [documents], how many tokens of each attend each other freely.
    """
    cu = np.asarray(cu_seqlens)
    stops = np.minimum(cu[:-1] + np.asarray(prefixes), cu[1:])
    parts = np.append(np.stack([cu[:-1], stops], axis=1), cu[-1])  # prefix, rest, prefix, ...
    prefix = Documents(np.repeat(cu, 2)[1:], parts)  # all queries in the prefix, none in the rest
    return (Documents(cu) & Causal()) | prefix


def shared_prefix(prefix: int, lengths: Integers) -> Mask:
    """Several causal continuations of one causal prefix (GRPO groups, cascade inference).

    The tokens are the prefix, then one continuation after the other: `kv <= q` and both in one of
    them, or kv in the prefix. For several groups, put one of these for each into `block_diagonal`.

    Args:
        prefix: tokens of the prefix.
        lengths: int [continuations], tokens of each.
    """
    cu_seqlens = np.cumsum([0, prefix, *np.asarray(lengths).tolist()])
    return Causal() & (Documents(cu_seqlens) | Prefix(prefix))


def image_blocks(image_ids: Integers) -> Mask:
    """`kv <= q or image[q] == image[kv] >= 0` (Gemma 3, PaliGemma): images see all of themselves.

    With a window, `Local(w, 0) | Segments(image_ids)`.

    Args:
        image_ids: int [q_len], the image of each token; negative for text.
    """
    return Causal() | Segments(image_ids)


def flamingo(starts: Integers, stops: Integers, tokens: int) -> Mask:
    """`starts[i] <= q < stops[i]` for image i = kv // tokens (Flamingo, attention-gym).

    Args:
        starts: int [images], the first text token that attends each image.
        stops: int [images], one past the last one.
        tokens: keys per image.
    """
    return Transpose(Intervals(np.repeat(starts, tokens), np.repeat(stops, tokens)))


def batchify(mask: Mask, length: int) -> Mask:
    """`q // length == kv // length` and `mask(q % length, kv % length)`: a batch in one row."""
    return Kron((Local(0, 0), mask), (None, length))


def block_diagonal(parts: Sequence[tuple[Mask, int, int]]) -> Mask:
    """Sequences one after the other, each with a mask of its own (xFormers' block-diagonal masks).

    Args:
        parts: `(mask, q_len, kv_len)` of each sequence.
    """
    if not parts:
        raise fail("block_diagonal.parts", "one part or more", parts)
    q, kv, masks = 0, 0, []
    for mask, q_len, kv_len in parts:
        masks.append(Shift(mask, q, kv, q_len, kv_len))
        q, kv = q + q_len, kv + kv_len
    return _either(masks)


def _either(masks: Sequence[Mask]) -> Mask:
    """The union of one or more masks."""
    first, *others = masks
    for mask in others:
        first |= mask
    return first


# --- blocks -------------------------------------------------------------------------------------


def blockwise(mask: Mask, block: int) -> Mask:
    """`mask(q // block, kv // block)`: a mask over blocks, at any length."""
    return Kron((mask, Full()), (None, block))


def block_causal(block: int) -> Mask:
    """`kv // block <= q // block` (autoregressive video, block-wise decoding of diffusion LMs)."""
    return blockwise(Causal(), block)


def block_diffusion(length: int, block: int) -> Mask:
    """The training mask of BD3-LM (arXiv 2503.09573) over [noisy | clean], each of `length` tokens.

    With block numbers qb and kb inside each half: noisy attends noisy where `qb == kb`, noisy
    attends clean where `qb > kb`, and clean attends clean where `qb >= kb`.
    """
    if length % block == 0:
        half = (length // block, length // block)
        blocks = Shift(Local(0, 0), 0, 0, *half) | Shift(Causal(-1), 0, half[1], *half)
        return blockwise(blocks | Shift(Causal(), *half, *half), block)
    half = (length, length)
    return (
        Shift(Chunked(block), 0, 0, *half)
        | Shift(blockwise(Causal(-1), block), 0, length, *half)
        | Shift(block_causal(block), length, length, *half)
    )


def multi_block_draft(prefix: int, block: int) -> Mask:
    """`kv < prefix`, or both in one block after it and the key not after the query in that block.

    The draft training of jetspec: every block of draft tokens sees the prefix and itself.
    """
    return Prefix(prefix) | Shift(batchify(Causal(), block), prefix, prefix)


def tree(ancestors: Any, prefix: int = 0) -> Mask:
    """`kv < prefix or ancestors[q, kv - prefix]`: speculative trees (Medusa, EAGLE).

    The queries are the tree's nodes. To have the prefix among them too, in front of the tree:
    `Causal() & Rectangle(q_stop=prefix) | Shift(tree(ancestors, prefix), q=prefix)`.

    Args:
        ancestors: bool [nodes, nodes], whether kv is q or one of its ancestors.
        prefix: keys before the tree.
    """
    return Prefix(prefix) | Shift(Dense(ancestors), kv=prefix)


def bigbird(pattern: Any, block: int) -> Mask:
    """BigBird (arXiv 2007.14062) over blocks: first, last and neighboring blocks, and random ones.

    With n blocks, qb = q // block and kb = kv // block: `|qb - kb| <= 1`, or qb or kb is 0 or
    n - 1, or `pattern[qb, kb]`.

    Args:
        pattern: bool [n, n], the random blocks of one head.
        block: tokens per block.
    """
    ends = [0, len(pattern) - 1]
    return blockwise(Local(1, 1) | Queries(ends) | Keys(ends), block) | Blocks(pattern, block)


# --- sparse patterns ----------------------------------------------------------------------------


def longformer(distance: int, tokens: Integers) -> Mask:
    """`|q - kv| <= distance` or q or kv is one of the global `tokens` (arXiv 2004.05150)."""
    return Local(distance, distance) | Queries(tokens) | Keys(tokens)


def sparse_transformer_strided(stride: int) -> Mask:
    """`kv <= q and (q - kv < stride or (q - kv) % stride == 0)` (arXiv 1904.10509)."""
    return Causal() & (Local(left=stride - 1) | Strided(stride))


def sparse_transformer_fixed(stride: int, summary: int) -> Mask:
    """`kv <= q and (q // l == kv // l or kv % l >= l - summary)`, l the stride (of the same)."""
    last = Rectangle(kv_start=stride - summary)
    return Causal() & (Chunked(stride) | Kron((Full(), last), (None, stride)))


def vertical_slash(columns: Integers, distances: Integers) -> Mask:
    """`kv <= q and (kv in columns or q - kv in distances)` (MInference, arXiv 2407.02490)."""
    return Causal() & (Keys(columns) | Diagonals(distances))


# --- grids --------------------------------------------------------------------------------------


def tile_order(shape: Sequence[int], tile: int | Sequence[int]) -> npt.NDArray[np.int64]:
    """The row-major number of each token of a grid, tile by tile: positions for `Remap`.

    Tiles, and the tokens inside each, are in row-major order; the last ones along an axis are cut
    off where `tile` does not divide it. `x[tile_order(...)]` reorders tokens likewise.

    Args:
        shape: tokens along each axis.
        tile: tokens of a tile along each axis; one number is for every axis.
    """
    grid = [n for n in sizes("tile_order.shape", shape) if n is not None]
    tiles = per_axis("tile_order.tile", tile, len(grid), lambda where, n: at_least(where, n, 1))
    places = np.unravel_index(np.arange(math.prod(grid)), grid)
    outer = [place // n for place, n in zip(places, tiles, strict=True)]
    return np.lexsort([*places[::-1], *outer[::-1]])  # the last key is the first to decide


def sta(tiles: Sequence[int], kernel: int | Sequence[int], tokens: int, text: int = 0) -> Mask:
    """Sliding tile attention (arXiv 2502.04507) over tokens in tile order, then text.

    Tiles attend the `kernel` nearest tiles along each axis; all attend the text, and the text all.

    Args:
        tiles: tiles along each axis.
        kernel: tiles that each tile attends along each axis.
        tokens: tokens per tile.
        text: tokens of text after those of the grid.
    """
    window = Neighborhood(tuple(tiles), kernel if isinstance(kernel, int) else tuple(kernel))
    image = Kron((window, Full()), (math.prod(tiles), tokens))
    length = math.prod(tiles) * tokens
    if not text:
        return image
    return (
        Shift(image, q_len=length, kv_len=length)
        | Rectangle(q_start=length)
        | Rectangle(kv_start=length)
    )


def svg_spatial(prefix: int, keys: int) -> Mask:
    """`kv < prefix or q < prefix or |q - kv| < keys` (Sparse VideoGen, arXiv 2502.01776)."""
    return Prefix(prefix) | Rectangle(q_stop=prefix) | Local(keys - 1, keys - 1)


def svg_temporal(prefix: int, frame: int, keys: int) -> Mask:
    """`kv < prefix or q < prefix`, or close to each other inside the frame (Sparse VideoGen).

    Close is `|(q - prefix) % frame - (kv - prefix) % frame| < keys`: the same place, in any frame.
    """
    near = Kron((Full(), Local(keys - 1, keys - 1)), (None, frame))
    return Prefix(prefix) | Rectangle(q_stop=prefix) | Shift(near, prefix, prefix)
