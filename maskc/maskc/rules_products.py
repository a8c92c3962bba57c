"""Rules for Kron and Neighborhood: products over the axes of a grid of tokens."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from maskc.checks import fail
from maskc.errors import MaskArgumentError
from maskc.expr import (
    Blocks,
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
from maskc.rules import Rule, Shape, rule
from maskc.strip_leaves import strips_of
from maskc.strips import Strips, enlarged, product

__all__ = ["PRODUCT_RULES", "coordinates", "kron_sizes"]

_Axis = tuple[Mask, int, int]


def kron_sizes(mask: Kron, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Queries and keys along each axis, the first one as long as the lengths need.

    Raises:
        MaskArgumentError: the first axis is given, and is not so long.
    """
    kv_shape = mask.q_shape if mask.kv_shape is None else mask.kv_shape
    return (
        _sizes(mask.q_shape, shape[0], "q_shape", "q_len"),
        _sizes(kv_shape, shape[1], "kv_shape", "kv_len"),
    )


def _sizes(given: tuple[int | None, ...], length: int, name: str, side: str) -> tuple[int, ...]:
    rest = cast("tuple[int, ...]", given[1:])  # only the first axis may be open
    step = math.prod(rest)
    first = -(-length // step)
    if given[0] is not None and given[0] != first:
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


def _axes(mask: Kron, shape: Shape) -> list[_Axis]:
    return list(zip(mask.masks, *kron_sizes(mask, shape), strict=True))


def _over(axes: list[_Axis], shape: Shape) -> Mask:
    """The product over other axes of as many tokens, cut where the lengths end before them."""
    masks, q_grid, kv_grid = zip(*axes, strict=True)
    whole = masks[0] if len(axes) == 1 else Kron(masks, q_grid, kv_grid)
    return _cut(whole, q_grid, kv_grid, shape)


def _cut(whole: Mask, q_grid: tuple[int, ...], kv_grid: tuple[int, ...], shape: Shape) -> Mask:
    """A product over a grid, cut to the lengths, unless Kron itself does so in its first axis."""
    grids = (q_grid, kv_grid)
    tokens = (math.prod(q_grid), math.prod(kv_grid))
    open_ended = isinstance(whole, Kron) and all(
        n - math.prod(grid[1:]) < length
        for n, grid, length in zip(tokens, grids, shape, strict=True)
    )
    return whole if open_ended or tokens == shape else Shift(whole, 0, 0, *tokens)


@rule(Kron)
def kron_written(mask: Kron, shape: Shape) -> Mask | None:
    """`Kron(masks, (None, n)) = Kron(masks, (m, n), (m, n))`: sizes of both sides."""
    sizes = kron_sizes(mask, shape)
    return None if (mask.q_shape, mask.kv_shape) == sizes else Kron(mask.masks, *sizes)


@rule(Kron)
def kron_empty(mask: Kron, _: Shape) -> Mask | None:
    """`a x Empty = Empty`."""
    return Empty() if any(isinstance(part, Empty) for part in mask.masks) else None


@rule(Kron)
def kron_full(mask: Kron, _: Shape) -> Mask | None:
    """`Full x Full = Full`."""
    return Full() if all(isinstance(part, Full) for part in mask.masks) else None


@rule(Kron)
def kron_one(mask: Kron, shape: Shape) -> Mask | None:
    """The product of one mask is that mask."""
    return _over(_axes(mask, shape), shape) if len(mask.masks) == 1 else None


@rule(Kron)
def kron_point(mask: Kron, shape: Shape) -> Mask | None:
    """`a x Full = a`, where Full is of one token."""
    if 1 not in mask.q_shape:
        return None
    axes = _axes(mask, shape)
    rest = [axis for axis in axes if not isinstance(axis[0], Full) or axis[1:] != (1, 1)]
    return None if len(rest) == len(axes) else _over(rest, shape)


@rule(Kron)
def kron_full_full(mask: Kron, shape: Shape) -> Mask | None:
    """`a x Full x Full = a x Full`: neighboring axes of nothing but Full are one axis."""
    for i, (left, right) in enumerate(itertools.pairwise(mask.masks)):
        if isinstance(left, Full) and isinstance(right, Full):
            axes = _axes(mask, shape)
            a, b = axes[i], axes[i + 1]
            joint = (left, a[1] * b[1], a[2] * b[2])
            return _over([*axes[:i], joint, *axes[i + 2 :]], shape)
    return None


@rule(Kron)
def kron_strips(mask: Kron, shape: Shape) -> Mask | None:
    """`s x t` of strip forms s and t is a strip form, if it has at most 8 intervals per row."""
    axes = _axes(mask, shape)
    for i in reversed(range(len(axes) - 1)):
        joint = _product(axes[i], axes[i + 1])
        if joint is not None:
            a, b = axes[i], axes[i + 1]
            pair = (joint, a[1] * b[1], a[2] * b[2])
            return _over([*axes[:i], pair, *axes[i + 2 :]], shape)
    return None


def _product(outer: _Axis, inner: _Axis) -> Strips | None:
    form, tile = _strips(outer), inner[1:]
    if form is not None and isinstance(inner[0], Full):
        return enlarged(form, tile)
    other = _strips(inner)
    return None if form is None or other is None else product(form, other)


def _strips(axis: _Axis) -> Strips | None:
    form, *shape = axis
    if isinstance(form, Full):  # which has a name of its own as a canonical form
        return strips_of(form, (shape[0], shape[1]))
    return form if isinstance(form, Strips) else None


@rule(Kron)
def kron_blocks(mask: Kron, shape: Shape) -> Mask | None:
    """`Dense(p) x Full = Blocks(p)`."""
    axes = _axes(mask, shape)
    (a, *_), (b, tile_q, tile_kv) = axes[0], axes[-1]
    if len(axes) != 2 or not isinstance(a, Dense) or not isinstance(b, Full):
        return None
    return Blocks(a.mask, tile_q, tile_kv)


@rule(Kron)
def kron_strided(mask: Kron, shape: Shape) -> Mask | None:
    """`Full x I = Strided(n)`, where I is the identity of n tokens."""
    axes = _axes(mask, shape)
    (a, *_), (b, q, kv) = axes[0], axes[-1]
    if len(axes) != 2 or not isinstance(a, Full) or q != kv:
        return None
    return Strided(q) if b == strips_of(Local(0, 0), (q, kv)) else None


@rule(Neighborhood)
def neighborhood_axes(mask: Neighborhood, shape: Shape) -> Mask | None:
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


PRODUCT_RULES: tuple[Rule, ...] = (
    kron_empty,
    kron_full,
    kron_one,
    kron_point,
    kron_full_full,
    kron_strips,
    kron_written,
    kron_blocks,
    kron_strided,
    neighborhood_axes,
)
