"""The masks of the GPU benchmark, in maskc's words and as PyTorch's FlexAttention takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc import Causal, Documents, Mask, zoo

WINDOW = 1024
DIFFUSION_BLOCK = 256
BIGBIRD_BLOCK = 128


@dataclass(frozen=True)
class Case:
    """One mask at one length.

    Attributes:
        length: q_len and kv_len.
        mask: in maskc's words.
        flex: from a function that makes device tensors of arrays, FlexAttention's `mask_mod`.
        cudnn: arguments of `jax.nn.dot_product_attention` that say the same; None if none do.
    """

    length: int
    mask: Mask
    flex: Callable[[Callable[[Any], Any]], Callable[..., Any]]
    cudnn: dict[str, Any] | None = None


def document_ends(length: int, mean: int = 2000) -> list[int]:
    """Offsets of packed documents with log-normal lengths."""
    random = np.random.default_rng(0)
    ends = np.cumsum(random.lognormal(np.log(mean) - 0.32, 0.8, length).astype(int) + 1)
    return [0, *ends[ends < length].tolist(), length]


def _documents(length: int) -> Case:
    ends = document_ends(length)

    def flex(tensor: Callable[[Any], Any]) -> Callable[..., Any]:
        ids = tensor(np.repeat(np.arange(len(ends) - 1), np.diff(ends)).astype(np.int32))
        return lambda _b, _h, q, k: (ids[q] == ids[k]) & (q >= k)

    return Case(length, Documents(ends) & Causal(), flex)


def _bigbird(length: int) -> Case:
    blocks = length // BIGBIRD_BLOCK
    random: npt.NDArray[np.bool_] = np.random.default_rng(0).random((blocks, blocks)) < 3 / blocks
    near = np.abs(np.subtract.outer(np.arange(blocks), np.arange(blocks))) <= 1
    wide = random | near
    wide[[0, -1]] = wide[:, [0, -1]] = True

    def flex(tensor: Callable[[Any], Any]) -> Callable[..., Any]:
        table = tensor(wide)
        return lambda _b, _h, q, k: table[q // BIGBIRD_BLOCK, k // BIGBIRD_BLOCK]

    return Case(length, zoo.bigbird(random, BIGBIRD_BLOCK), flex)


def _diffusion(length: int) -> Case:
    half = length // 2

    def flex(_tensor: Callable[[Any], Any]) -> Callable[..., Any]:
        def mod(_b: Any, _h: Any, q: Any, k: Any) -> Any:
            q_clean, k_clean = q >= half, k >= half
            q_block, k_block = (q % half) // DIFFUSION_BLOCK, (k % half) // DIFFUSION_BLOCK
            own = (q_clean == k_clean) & (q_block == k_block)
            before = k_clean & (q_block > k_block)
            return own | before

        return mod

    return Case(length, zoo.block_diffusion(half, DIFFUSION_BLOCK), flex)


def cases(length: int) -> dict[str, Case]:
    """By name, all at one length but packed documents, which are also 32k."""
    long = length * 4
    return {
        "causal": Case(
            length, Causal(), lambda _: lambda _b, _h, q, k: q >= k, {"is_causal": True}
        ),
        f"window {WINDOW}": Case(
            length,
            zoo.sliding_window(WINDOW),
            lambda _: lambda _b, _h, q, k: (q >= k) & (q - k < WINDOW),
            {"is_causal": True, "local_window_size": (WINDOW - 1, 0)},
        ),
        f"documents, {length // 1024}k": _documents(length),
        f"documents, {long // 1024}k": _documents(long),
        "prefix-LM": Case(
            length,
            zoo.prefix_lm(length // 4),
            lambda _: lambda _b, _h, q, k: (q >= k) | (k < length // 4),
        ),
        "BigBird": _bigbird(length),
        "block diffusion": _diffusion(length),
    }
