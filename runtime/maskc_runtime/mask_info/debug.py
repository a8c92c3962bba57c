"""Debug mode: one line on stderr for each operation on a mask."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["get_debug_mode", "logged", "set_debug_mode"]

P = ParamSpec("P")
T = TypeVar("T")

_mode = {"on": any(os.environ.get(f"{name}_MASK_DEBUG") == "1" for name in ("MASKC", "EJKERNEL"))}


def set_debug_mode(enabled: bool) -> None:
    """Write a line to stderr for each operation, or stop it.

    It is on from the start where `MASKC_MASK_DEBUG` or ejKernel's `EJKERNEL_MASK_DEBUG` is 1. Under
    `jit` the lines come when a function is traced.
    """
    _mode["on"] = bool(enabled)


def get_debug_mode() -> bool:
    """Is debug mode on?"""
    return _mode["on"]


def logged(operation: Callable[P, T]) -> Callable[P, T]:
    """An operation that says so in debug mode."""

    @functools.wraps(operation)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        result = operation(*args, **kwargs)
        if _mode["on"]:
            given = ", ".join(
                [*map(_brief, args), *(f"{k}={_brief(v)}" for k, v in kwargs.items())]
            )
            sys.stderr.write(f"{operation.__qualname__}({given}) -> {_brief(result)}\n")
        return result

    return call


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return value.__name__ if isinstance(value, type) else repr(value)
