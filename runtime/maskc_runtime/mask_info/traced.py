"""Values that may be tracers: telling them apart, and keeping the others out of the trace."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from maskc_runtime.mask_info.errors import TracedMaskError

__all__ = ["Array", "host", "is_traced", "namespace", "running_max"]

Array: TypeAlias = Any
"""numpy as given, a JAX array, a tracer, or what `jax.tree` puts in its place."""


def is_traced(*trees: Any) -> bool:
    """Is a leaf of these trees a tracer?"""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def namespace(*trees: Any) -> Any:
    """`jax.numpy` if a leaf is traced, else `numpy`.

    Under `jit` known values that are computed from known values stay known, where JAX would trace
    them; and outside it nothing small is compiled.
    """
    return jnp if is_traced(*trees) else np


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


def running_max(values: Array) -> Array:
    """The largest value so far, along the last axis."""
    if is_traced(values):
        return jax.lax.cummax(values, axis=values.ndim - 1)
    return np.maximum.accumulate(values, axis=-1)
