"""Values that may be tracers: telling them apart, and keeping the others out of the trace."""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias

import jax
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from maskc_runtime.mask_info.errors import TracedMaskError

__all__ = ["Array", "host", "is_traced", "settled"]

Array: TypeAlias = Any
"""numpy as given, a JAX array, a tracer, or what `jax.tree` puts in its place."""


def is_traced(*trees: Any) -> bool:
    """Is a leaf of these trees a tracer?"""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def settled(*trees: Any) -> contextlib.AbstractContextManager[Any]:
    """Under `jit`, known values computed from known values stay known; JAX would trace them."""
    return contextlib.nullcontext() if is_traced(*trees) else jax.ensure_compile_time_eval()


def host(value: Array, where: str, what: str) -> npt.NDArray[Any]:
    """A value as numpy.

    Raises:
        TracedMaskError: it is traced.
    """
    if is_traced(value):
        raise TracedMaskError(
            f"{where}: expected known values, got traced {what} of shape {value.shape}; "
            "do this outside jit, or use `operands`, which leaves segment ids to run time"
        )
    return np.asarray(value)
