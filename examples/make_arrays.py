"""Write the array files that the example specs name: `python examples/make_arrays.py [DIR]`."""

import sys
from pathlib import Path

import numpy as np


def packed_documents() -> dict[str, np.ndarray]:
    """Documents of log-normal length (mean about 2,000 tokens) that fill 32,000 tokens."""
    lengths: list[int] = []
    random = np.random.default_rng(0)
    while sum(lengths) < 32000:
        lengths.append(int(random.lognormal(7.3, 0.8)) + 1)
    lengths[-1] -= sum(lengths) - 32000
    return {"cu_seqlens": np.cumsum([0, *lengths]).astype(np.int32)}


def bigbird(blocks: int = 64, randoms: int = 3, heads: int = 12) -> dict[str, np.ndarray]:
    """Block patterns of 4,096 tokens in blocks of 64: the window, and each head's random blocks."""
    at = np.arange(blocks)
    patterns = {"window": np.abs(at[:, None] - at) <= 1}
    random = np.random.default_rng(0)
    for head in range(heads):
        chosen = np.zeros((blocks, blocks), bool)
        for row in range(2, blocks):
            far = np.flatnonzero((np.abs(at - row) > 1) & (at >= 2))
            chosen[row, random.choice(far, randoms, replace=False)] = True
        patterns[f"random_{head}"] = chosen
    return patterns


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "arrays"
    target.mkdir(exist_ok=True)
    np.savez_compressed(target / "packed_documents.npz", **packed_documents())
    np.savez_compressed(target / "bigbird.npz", **bigbird())
