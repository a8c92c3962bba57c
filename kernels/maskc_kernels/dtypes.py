"""Which dtypes attention takes, and which one it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax

__all__ = ["INPUT_DTYPES", "accumulator"]

INPUT_DTYPES = ("bfloat16", "float16", "float32", "float64")
"""Dtypes of q, k and v, by name."""


def accumulator(*arrays: jax.Array) -> np.dtype[np.floating[Any]]:
    """The dtype that is computed in: float32, or float64 if an input has it."""
    wide = any(array.dtype == np.float64 for array in arrays)
    return np.dtype(np.float64 if wide else np.float32)
