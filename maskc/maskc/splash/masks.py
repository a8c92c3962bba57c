"""Masks of fixed shape under the names of JAX's `splash_attention_mask`: base, operators, heads.

Each is lazy: it holds what it means, as a maskc expression, and makes elements only when they are
asked for by index. Masks compare and hash by their description, alike in every process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import xxhash

from maskc import checks, expr
from maskc.compile import compile_mask
from maskc_cache.plan import pack

__all__ = [
    "ExpressionMask",
    "FullMask",
    "Logical",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "Mask",
    "MaskFunction",
    "MaskIndexError",
    "MultiHeadMask",
    "NumpyMask",
    "spans",
    "stable_hash",
]

Bools = npt.NDArray[np.bool_]
MaskFunction = Callable[[Any, Any], Any]
"""`(q_ids [n, 1], kv_ids [1, m]) -> bool [n, m]`, of numpy arrays or, in a kernel, JAX's."""


class MaskIndexError(IndexError, AssertionError):
    """An index outside of a mask, or a slice with steps; JAX raises one or the other."""


class Mask:
    """Base of the splash masks: `shape`, elements by index, and the operators `& | ^ - ~`.

    A subclass gives `shape` and `__getitem__` for two slices. An operand of an operator may also
    be a 2-D bool array, or a maskc expression, which then has the other operand's shape.
    """

    __array_ufunc__ = None  # numpy must not broadcast an operator over its own elements

    @property
    def shape(self) -> tuple[int, ...]:
        """`(q_len, kv_len)`, behind the heads of a `MultiHeadMask`."""
        raise NotImplementedError

    def __getitem__(self, idx: Any) -> Any:
        raise NotImplementedError

    @property
    def expression(self) -> expr.Mask:
        """The same mask in maskc's language, for `compile_mask` and specs."""
        from maskc.splash.expressions import expression_of  # it knows every class of this module

        return expression_of(self)

    def __bool__(self) -> bool:
        raise NotImplementedError("a mask has no truth value; combine masks with & | ^ ~ -")

    def __and__(self, other: Any) -> Mask:
        return _combined(LogicalAnd, self, other)

    def __or__(self, other: Any) -> Mask:
        return _combined(LogicalOr, self, other)

    def __xor__(self, other: Any) -> Mask:
        return _combined(LogicalXor, self, other)

    def __sub__(self, other: Any) -> Mask:
        right = _operand(self, other)
        return NotImplemented if right is None else self & ~right

    def __rsub__(self, other: Any) -> Mask:
        left = _operand(self, other)
        return NotImplemented if left is None else left & ~self

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Mask:
        if isinstance(self, MultiHeadMask):
            return MultiHeadMask([~mask for mask in self.masks])
        return LogicalNot(self)


# --- masks that are given whole -----------------------------------------------------------------


@dataclass(frozen=True)
class FullMask(Mask):
    """Every query attends every key.

    Args:
        _shape: `(q_len, kv_len)`.

    Raises:
        ValueError: the shape is not a tuple.
    """

    _shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not isinstance(self._shape, tuple):
            raise checks.fail("FullMask._shape", "a tuple", self._shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(q_len, kv_len)`."""
        return self._shape

    def __getitem__(self, idx: Any) -> Any:
        (rows, columns), lone = spans(idx, self.shape)
        return np.ones((rows.stop - rows.start, columns.stop - columns.start), np.bool_)[lone]

    def __hash__(self) -> int:
        return stable_hash(type(self).__name__, list(map(int, self._shape)))


@dataclass(frozen=True, eq=False)
class NumpyMask(Mask):
    """A dense mask; indexed as numpy indexes it.

    Args:
        array: bool [q_len, kv_len].

    Raises:
        ValueError: it is not 2-D, or not of bools.
    """

    array: Bools

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", np.asarray(self.array))
        if self.array.ndim != 2 or self.array.dtype != np.bool_:
            raise checks.fail("NumpyMask.array", "a 2-D bool array", self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(q_len, kv_len)`."""
        return self.array.shape

    def __getitem__(self, idx: Any) -> Any:
        return self.array[idx]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self is other or np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        content = xxhash.xxh3_128_digest(np.ascontiguousarray(self.array).data)
        return stable_hash(type(self).__name__, list(self.shape), content)


@dataclass(frozen=True)
class ExpressionMask(Mask):
    """Any mask of maskc's language as a splash mask: prefixes, documents, dilated windows, ...

    Args:
        _shape: `(q_len, kv_len)`.
        mask: a maskc expression of a single head, like `maskc.Causal() | maskc.Prefix(256)`.

    Raises:
        ValueError: `mask` is no such expression.
    """

    _shape: tuple[int, int]
    mask: expr.Mask

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shape", tuple(self._shape))
        if not isinstance(self.mask, expr.Mask) or isinstance(self.mask, expr.MultiHead):
            raise checks.fail("ExpressionMask.mask", "a maskc mask of a single head", self.mask)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(q_len, kv_len)`."""
        return self._shape

    def __getitem__(self, idx: Any) -> Any:
        (rows, columns), lone = spans(idx, self.shape)
        size = rows.stop - rows.start, columns.stop - columns.start
        if 0 in size:
            return np.zeros(size, np.bool_)[lone]
        crop = expr.Shift(self.mask, -rows.start, -columns.start, *self._shape)
        plan = compile_mask(crop, q_len=size[0], kv_len=size[1], splash=False)
        return plan.to_dense()[lone]

    def __hash__(self) -> int:
        # the tree's own hash goes by what Python's `hash` makes of strings and types
        return stable_hash(type(self).__name__, list(map(int, self._shape)), repr(self.mask))


# --- operators ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Combined:
    """The mask function of an operator."""

    operator: Callable[..., Any]
    operands: tuple[MaskFunction, ...]

    def __call__(self, q_ids: Any, kv_ids: Any) -> Any:
        return self.operator(*(function(q_ids, kv_ids) for function in self.operands))


def _everything(q_ids: Any, kv_ids: Any) -> Any:
    """The mask function of a full mask, in the arrays' own operations: no constant for a kernel."""
    return (q_ids == q_ids) & (kv_ids == kv_ids)  # noqa: PLR0124  # that is the point


class Logical(Mask):
    """An operator. It is computable in a kernel if its operands are, over the same `q_sequence`.

    Operands that are `FullMask` do not stand in the way of that.
    """

    operation: ClassVar[Callable[..., Any]]

    @property
    def _operands(self) -> tuple[Mask, ...]:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """`(q_len, kv_len)`."""
        return self._operands[0].shape

    def __getitem__(self, idx: Any) -> Any:
        return self.operation(*(mask[idx] for mask in self._operands))

    @property
    def q_sequence(self) -> Any:
        """int32 [q_len], the position of each query; AttributeError if it is not computable."""
        own = [mask.q_sequence for mask in self._operands if not isinstance(mask, FullMask)]  # type: ignore[attr-defined]  # AttributeError is the answer
        if not own or not all(np.array_equal(own[0], other) for other in own):
            raise AttributeError("the operands have no q_sequence in common")
        return own[0]

    @property
    def mask_function(self) -> MaskFunction:
        """The operator on the operands' functions; AttributeError if it is not computable."""
        _ = self.q_sequence
        functions = [
            _everything if isinstance(mask, FullMask) else mask.mask_function  # type: ignore[attr-defined]  # as above
            for mask in self._operands
        ]
        return _Combined(self.operation, tuple(functions))

    def __hash__(self) -> int:
        return stable_hash(type(self).__name__, [hash(mask) for mask in self._operands])


@dataclass(frozen=True)
class _Binary(Logical):
    left: Mask
    right: Mask

    def __post_init__(self) -> None:
        for side in (self.left, self.right):
            if not isinstance(side, Mask):
                raise checks.fail(type(self).__name__, "splash masks", side)
        if self.left.shape != self.right.shape:
            raise ValueError(
                f"{type(self).__name__}: expected masks of one shape, "
                f"got {self.left.shape} and {self.right.shape}"
            )

    @property
    def _operands(self) -> tuple[Mask, ...]:
        return self.left, self.right

    __hash__ = Logical.__hash__


class LogicalAnd(_Binary):
    """`left & right`."""

    operation = operator.and_


class LogicalOr(_Binary):
    """`left | right`."""

    operation = operator.or_


class LogicalXor(_Binary):
    """`left ^ right`."""

    operation = operator.xor


@dataclass(frozen=True)
class LogicalNot(Logical):
    """`~mask`."""

    mask: Mask
    operation = operator.invert

    def __post_init__(self) -> None:
        if not isinstance(self.mask, Mask):
            raise checks.fail("LogicalNot", "a splash mask", self.mask)

    @property
    def _operands(self) -> tuple[Mask, ...]:
        return (self.mask,)

    __hash__ = Logical.__hash__


def _combined(kind: type[_Binary], left: Mask, other: Any) -> Mask:
    """An operator on two masks, head by head where one of them has heads."""
    right = _operand(left, other)
    if right is None:
        return NotImplemented  # type: ignore[no-any-return]
    count = max(len(m.masks) if isinstance(m, MultiHeadMask) else 0 for m in (left, right))
    if not count:
        if left.shape != right.shape:
            raise ValueError(f"expected two masks of one shape, got {left.shape} and {right.shape}")
        return kind(left, right)
    heads = [m.masks if isinstance(m, MultiHeadMask) else (m,) * count for m in (left, right)]
    if len(heads[0]) != len(heads[1]):
        raise ValueError(f"expected masks of as many heads, got {left.shape} and {right.shape}")
    return MultiHeadMask([_combined(kind, a, b) for a, b in zip(*heads, strict=True)])


def _operand(mask: Mask, other: Any) -> Mask | None:
    """The other operand of an operator on `mask`, or None if it cannot be one."""
    if isinstance(other, Mask):
        return other
    if isinstance(other, np.ndarray):
        return NumpyMask(other)
    if isinstance(other, expr.Mask) and not isinstance(other, expr.MultiHead):
        return ExpressionMask(cast("tuple[int, int]", mask.shape[-2:]), other)
    return None


@dataclass(frozen=True)
class MultiHeadMask(Mask):
    """One mask per query head.

    Args:
        masks: as many as heads, all of one shape.

    Raises:
        ValueError: no mask, shapes that differ, or something that is no mask of a single head.
    """

    masks: Sequence[Mask]

    def __post_init__(self) -> None:
        masks = tuple(self.masks)
        object.__setattr__(self, "masks", masks)
        if not masks:
            raise checks.fail("MultiHeadMask.masks", "one mask or more", masks)
        for mask in masks:
            if not isinstance(mask, Mask) or isinstance(mask, MultiHeadMask):
                raise checks.fail("MultiHeadMask.masks", "splash masks of a single head", mask)
            if mask.shape != masks[0].shape:
                raise ValueError(
                    "MultiHeadMask.masks: expected masks of one shape, "
                    f"got {masks[0].shape} and {mask.shape}"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """`(heads, q_len, kv_len)`."""
        return (len(self.masks), *self.masks[0].shape)

    def __getitem__(self, idx: Any) -> Any:
        if not isinstance(idx, tuple) or len(idx) != 3:
            raise NotImplementedError(f"mask[{idx!r}]: expected an index of (head, q, kv)")
        (heads,), (lone,) = spans(idx[:1], self.shape[:1])
        return np.stack([mask[idx[1:]] for mask in self.masks[heads]])[lone]

    def __hash__(self) -> int:
        return stable_hash(type(self).__name__, [hash(mask) for mask in self.masks])


# --- shared -------------------------------------------------------------------------------------


def spans(idx: Any, shape: Sequence[int]) -> tuple[list[slice], tuple[Any, ...]]:
    """An index as slices from 0 to the size, one per axis, and what drops the axes of integers.

    Raises:
        NotImplementedError: not a slice or an integer for each axis.
        MaskIndexError: a slice with steps, or one that reaches beyond the mask.
    """
    parts = idx if isinstance(idx, tuple) else (idx,)
    if len(parts) != len(shape):
        raise NotImplementedError(f"mask[{idx!r}]: expected {len(shape)} slices or integers")
    out, lone = [], []
    for part, size in zip(parts, shape, strict=True):
        single = isinstance(part, int | np.integer)
        if not single and not isinstance(part, slice):
            raise NotImplementedError(f"mask[{idx!r}]: expected slices or integers")
        start, stop = _bounds(part, size)
        if (isinstance(part, slice) and part.step not in {None, 1}) or not (
            0 <= start <= size and single <= stop <= size
        ):
            raise MaskIndexError(f"mask[{idx!r}]: expected steps of 1 inside shape {tuple(shape)}")
        out.append(slice(start, max(start, stop)))
        lone.append(0 if single else slice(None))
    return out, tuple(lone)


def _bounds(part: Any, size: int) -> tuple[int, int]:
    """Start and stop of an integer or a slice, negative ones counted from the end."""
    if not isinstance(part, slice):
        start = int(part) + (size if part < 0 else 0)
        return start, start + 1
    start = 0 if part.start is None else int(part.start)
    stop = size if part.stop is None else int(part.stop)
    return start + (size if start < 0 else 0), stop + (size if stop < 0 else 0)


def stable_hash(*parts: Any) -> int:
    """A hash of msgpack's values that is the same in every process."""
    return xxhash.xxh3_64_intdigest(pack(list(parts))) >> 4  # Python keeps hashes below 2**61
