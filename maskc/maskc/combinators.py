"""Nodes that move other masks: shift and crop, transpose, reorder, and products over axes.

The mask inside is bound to the lengths that it really sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from maskc import checks
from maskc.algebra import Mask, Plain, check_operands
from maskc.arrays import ArrayArgument, FrozenArray, frozen_integers

__all__ = ["Kron", "Remap", "Shift", "Transpose"]


@final
@dataclass(frozen=True, slots=True, repr=False)
class Shift(Plain):
    """`mask` at `(q - self.q, kv - self.kv)`, and False outside of it.

    A positive shift puts the mask further down or right; a negative one crops rows or columns off
    it. Sequences side by side are `Shift(a, q_len=n, kv_len=n) | Shift(b, q=n, kv=n)`.

    Args:
        mask: what is moved.
        q: the query where the mask's first row comes to stand.
        kv: the key where its first column comes to stand.
        q_len: queries of the inner mask; None is as many as reach the end, `outer q_len - q`.
        kv_len: keys of the inner mask; None is as many as reach the end.
    """

    mask: Mask
    q: int = 0
    kv: int = 0
    q_len: int | None = None
    kv_len: int | None = None

    def __post_init__(self) -> None:
        check_operands(self, (self.mask,))
        for name in ("q", "kv"):
            self._set(name, checks.integer(self._where(name), getattr(self, name)))
        for name in ("q_len", "kv_len"):
            if getattr(self, name) is not None:
                self._set(name, checks.at_least(self._where(name), getattr(self, name), 1))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Transpose(Plain):
    """`mask` at `(kv, q)`; its lengths are swapped."""

    mask: Mask

    def __post_init__(self) -> None:
        check_operands(self, (self.mask,))


def _positions(where: str, values: ArrayArgument) -> FrozenArray:
    """Positions, of which all negative ones are padding, and so -1."""
    positions = frozen_integers(where, values)
    if positions.array.min() >= -1:
        return positions
    return FrozenArray(np.maximum(positions.array, np.int32(-1)))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Remap(Plain):
    """`mask` at `(q_positions[q], kv_positions[kv])`: permuted, repeated or padded tokens.

    A permutation that lays the tokens of a grid out tile by tile (`zoo.tile_order`) makes
    neighborhood masks blocky.

    Args:
        mask: a mask over the original positions.
        q_positions: int [q_len], the original position of each query; negative is padding, which
            attends nothing and which nobody attends.
        kv_positions: int [kv_len], the same for the keys; None is `q_positions`.
        q_len: queries of the inner mask; None is the greatest position + 1.
        kv_len: keys of the inner mask; None is the greatest position + 1.
    """

    mask: Mask
    q_positions: ArrayArgument
    kv_positions: ArrayArgument = None
    q_len: int | None = None
    kv_len: int | None = None

    def __post_init__(self) -> None:
        check_operands(self, (self.mask,))
        self._set("q_positions", _positions(self._where("q_positions"), self.q_positions))
        if self.kv_positions is not None:
            self._set("kv_positions", _positions(self._where("kv_positions"), self.kv_positions))
        keys = self.q_positions if self.kv_positions is None else self.kv_positions
        for name, positions in (("q_len", self.q_positions), ("kv_len", keys)):
            if getattr(self, name) is None:
                continue
            least = max(int(positions.array.max()) + 1, 1)
            self._set(name, checks.at_least(self._where(name), getattr(self, name), least))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Kron(Plain):
    """The Kronecker product of a mask per axis, over tokens on a grid in row-major order.

    With coordinates `(i0, i1, ...)` of the query and `(j0, j1, ...)` of the key, it is
    `masks[0](i0, j0) and masks[1](i1, j1) and ...`. Equal sequences in one row are
    `Kron((Local(0, 0), mask), (None, length))`, block-causal is
    `Kron((Causal(), Full()), (None, block))`.

    Args:
        masks: one for each axis, slowest first; each is bound to that axis's lengths.
        q_shape: queries along each axis; the first may be None, as many as the length needs. The
            last step of the first axis may be cut off by the length.
        kv_shape: keys along each axis; None is `q_shape`.
    """

    masks: Sequence[Mask]
    q_shape: tuple[int | None, ...]
    kv_shape: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        masks = tuple(self.masks) if isinstance(self.masks, Sequence) else ()
        if not masks:
            raise checks.fail(self._where("masks"), "one mask or more", self.masks)
        check_operands(self, masks)
        self._set("masks", masks)
        for name in ("q_shape", "kv_shape"):
            given = getattr(self, name)
            if name == "kv_shape" and given is None:
                continue
            shape = checks.sizes(self._where(name), given, open_first=True)
            if len(shape) != len(masks):
                raise checks.fail(self._where(name), f"{len(masks)} sizes like the masks", shape)
            self._set(name, shape)
