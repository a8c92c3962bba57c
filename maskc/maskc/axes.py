"""Products over the axes of a grid of tokens: their simplest form; neighborhoods as products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.checks import fail
from maskc.errors import MaskArgumentError
from maskc.expr import (
    Blocks,
    Chunked,
    Dense,
    Empty,
    Full,
    Intervals,
    Kron,
    Local,
    Mask,
    Neighborhood,
    Shift,
    Strided,
)

__all__ = ["coordinates", "kron_of", "neighborhood_of"]

Shape = tuple[int, int]
_Axis = tuple[Mask, int, int]


def kron_of(
    mask: Kron, shape: Shape, canonical: Callable[[Mask, int, int], Mask]
) -> tuple[Mask, bool]:
    """A simpler tree, or the product with canonical factors over an explicit grid.

    Args:
        mask: the product.
        shape: `(q_len, kv_len)`.
        canonical: gives the canonical form of a mask for lengths.

    Returns:
        The tree, and whether it is such a product: nothing more can be done.
    """
    kv_shape = mask.q_shape if mask.kv_shape is None else mask.kv_shape
    q_sizes = _sizes(mask.q_shape, shape[0], "q_shape", "q_len")
    kv_sizes = _sizes(kv_shape, shape[1], "kv_shape", "kv_len")
    axes: list[_Axis] = []
    for factor, nq, nk in zip(mask.masks, q_sizes, kv_sizes, strict=True):
        form = canonical(factor, nq, nk)
        if isinstance(form, Empty):  # a x Empty = Empty
            return form, False
        if isinstance(form, Full) and axes and isinstance(axes[-1][0], Full):  # Full x Full = Full
            axes[-1] = (form, axes[-1][1] * nq, axes[-1][2] * nk)
        elif (nq, nk) != (1, 1) or not isinstance(form, Full):  # a x Full of one token = a
            axes.append((form, nq, nk))
    if all(isinstance(form, Full) for form, _, _ in axes):
        return Full(), False
    forms, q_grid, kv_grid = zip(*axes, strict=True)
    tree, final = axes[0][0], False  # the product of one mask is that mask
    if len(axes) > 1:
        leaf = _leaf_of(axes[0], axes[1], canonical) if len(axes) == 2 else None
        tree, final = (Kron(forms, q_grid, kv_grid), True) if leaf is None else (leaf, False)
    tokens = math.prod(q_grid), math.prod(kv_grid)
    steps = math.prod(q_grid[1:]), math.prod(kv_grid[1:])
    if any(n - step >= length for n, step, length in zip(tokens, steps, shape, strict=True)):
        return Shift(tree, 0, 0, *tokens), False  # the lengths end before the first axis does
    return tree, final


def _leaf_of(
    outer: _Axis, inner: _Axis, canonical: Callable[[Mask, int, int], Mask]
) -> Mask | None:
    """Products of two axes that are leaves."""
    (a, *lengths), (b, nq, nk) = outer, inner
    if isinstance(b, Full) and isinstance(a, Dense):
        return Blocks(a.mask, nq, nk)
    if nq == nk and isinstance(b, Full) and a == canonical(Local(0, 0), *lengths):
        return Chunked(nq)
    if nq == nk and isinstance(a, Full) and b == canonical(Local(0, 0), nq, nk):
        return Strided(nq)
    return None


def _sizes(given: tuple[int | None, ...], length: int, name: str, side: str) -> tuple[int, ...]:
    """Tokens along each axis, the first one as long as the length needs."""
    rest = [int(size) for size in given[1:] if size is not None]
    step = math.prod(rest)
    first = -(-length // step)
    if given[0] not in {None, first}:
        raise MaskArgumentError(
            f"Kron.{name}: expected {first} x {step} tokens for {side}={length}, got {given}"
        )
    return (first, *rest)


def coordinates(
    positions: npt.NDArray[Any], sizes: tuple[int | None, ...]
) -> list[npt.NDArray[Any]]:
    """Each token's place along each axis of a grid in row-major order."""
    places = []
    for size in sizes[:0:-1]:
        assert size is not None  # noqa: S101  # only the first axis may be open
        positions, place = np.divmod(positions, size)
        places.append(place)
    return [positions, *reversed(places)]


def neighborhood_of(mask: Neighborhood, shape: Shape) -> Mask:
    """Neighborhood attention is the product of the neighborhoods along its axes."""
    tokens = math.prod(mask.shape)
    for side, length in zip(("q_len", "kv_len"), shape, strict=True):
        if tokens != length:
            raise fail("Neighborhood.shape", f"{side}={length} tokens in all", mask.shape)
    masks = [_along(n, *axis) for n, axis in zip(mask.shape, mask.axes, strict=True)]
    return Kron(tuple(masks), mask.shape)


def _along(n: int, kernel: int, dilation: int, stride: int, causal: bool) -> Mask:
    """The neighborhood of each token of one axis: an interval, and one residue of the dilation."""
    residue, place = np.arange(n) % dilation, np.arange(n) // dilation
    last = (n - residue + dilation - 1) // dilation - 1  # of the tokens of one residue
    group = place // stride * stride
    after = (kernel - 1) // 2
    if causal:
        low, high = np.minimum(group + stride - 1, last) - kernel + 1, place
    else:
        leader = np.minimum(group + stride // 2, last)
        centre = np.clip(leader, kernel // 2, last - after)
        low, high = centre - kernel // 2, centre + after
    window = Intervals(low * dilation + residue, high * dilation + residue + 1)
    return window if dilation == 1 else window & Strided(dilation)
