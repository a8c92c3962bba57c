"""The few argument checks that every mask node and compile parameter shares.

Each returns the value in its one stored type, or raises `MaskArgumentError` that reads
"Node.argument: expected X, got value (type)".
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from maskc.errors import MaskArgumentError

__all__ = [
    "at_least",
    "choice",
    "fail",
    "fraction",
    "integer",
    "optional_integer",
    "per_axis",
    "sizes",
    "truth",
]


T = TypeVar("T")


def fail(where: str, expected: str, got: object) -> MaskArgumentError:
    """The error to raise for argument `where`."""
    if isinstance(got, np.ndarray):
        return MaskArgumentError(f"{where}: expected {expected}, got {got.dtype}{list(got.shape)}")
    shown = " ".join(repr(got).split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return MaskArgumentError(f"{where}: expected {expected}, got {shown} ({type(got).__name__})")


def integer(where: str, value: Any) -> int:
    """`value` as a Python int; numpy integers are welcome, bools and floats are not."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise fail(where, "an integer", value)
    return int(value)


def optional_integer(where: str, value: Any) -> int | None:
    """`value` as an int, or None, which means unbounded."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise fail(where, "an integer or None", value)
    return int(value)


def at_least(where: str, value: Any, least: int) -> int:
    """`value` as an int that is `least` or more."""
    number = integer(where, value)
    if number < least:
        raise fail(where, f"an integer >= {least}", value)
    return number


def sizes(where: str, value: Any, *, open_first: bool = False) -> tuple[int | None, ...]:
    """`value` as a tuple of sizes >= 1; with `open_first` the first may be None."""
    items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if not items:
        raise fail(where, "one size per axis, like (64, 64)", value)
    first = (None,) if open_first and items[0] is None else (at_least(where, items[0], 1),)
    return first + tuple(at_least(where, item, 1) for item in items[1:])


def per_axis(where: str, value: Any, axes: int, check: Callable[[str, Any], T]) -> tuple[T, ...]:
    """`value` for each of `axes` axes: one for all of them, or a sequence of as many."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        return (check(where, value),) * axes
    items = tuple(check(where, item) for item in value)
    if len(items) != axes:
        raise fail(where, f"one value, or {axes} like the axes", items)
    return items


def truth(where: str, value: Any) -> bool:
    """`value` as a Python bool."""
    if not isinstance(value, bool | np.bool_):
        raise fail(where, "True or False", value)
    return bool(value)


def fraction(where: str, value: Any) -> float:
    """`value` as a float in [0, 1]."""
    number = float(value) if isinstance(value, numbers.Real) else -1.0
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise fail(where, "a number from 0 to 1", value)
    return number


def choice(where: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of the `allowed` words."""
    if value not in allowed:
        raise fail(where, " or ".join(map(repr, allowed)), value)
