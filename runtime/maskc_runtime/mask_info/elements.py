"""Terms element by element, as JAX operations: the dense mask, for those who ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskc import expr
from maskc.compile import compile_mask
from maskc_runtime.mask_info.terms import (
    AllOf,
    AnyOf,
    Between,
    Compiled,
    Equal,
    Moved,
    Static,
    Stored,
    Term,
)
from maskc_runtime.mask_info.traced import Array

__all__ = ["Grid", "evaluate"]


@dataclass(frozen=True)
class Grid:
    """Pairs at which terms are evaluated.

    Attributes:
        q: int32 [batch or 1, rows], which query each row is.
        kv: int32 [batch or 1, columns], which key each column is.
        q_len: queries of the mask that they point into.
        kv_len: its keys.
        whole: rows and columns are the mask's own, all of them in order.
    """

    q: Array
    kv: Array
    q_len: int
    kv_len: int
    whole: bool

    @classmethod
    def of(cls, q_len: int, kv_len: int) -> Grid:
        """Every pair."""
        q, kv = (jnp.arange(n, dtype=jnp.int32)[None] for n in (q_len, kv_len))
        return cls(q, kv, q_len, kv_len, whole=True)

    @property
    def pairs(self) -> tuple[Array, Array]:
        """Queries and keys that broadcast to [batch, heads, rows, columns]."""
        return self.q[:, None, :, None], self.kv[:, None, None, :]

    @property
    def inside(self) -> Array:
        """Which pairs lie inside the lengths."""
        q, kv = self.pairs
        return (q >= 0) & (q < self.q_len) & (kv >= 0) & (kv < self.kv_len)

    def moved(self, q_start: Array, kv_start: Array, q_len: int, kv_len: int) -> Grid:
        """The same pairs in the coordinates of a mask that was moved here."""
        q, kv = self.q + jnp.asarray(q_start)[:, None], self.kv + jnp.asarray(kv_start)[:, None]
        return Grid(q, kv, q_len, kv_len, whole=False)

    def rows(self, values: Array) -> Array:
        """Values by query, [batch or 1, ..., q_len], at the rows."""
        return self._take(values, self.q, self.q_len)

    def columns(self, values: Array) -> Array:
        """Values by key, [batch or 1, ..., kv_len], at the columns."""
        return self._take(values, self.kv, self.kv_len)

    def _take(self, values: Array, at: Array, length: int) -> Array:
        values = jnp.asarray(values)
        if self.whole:
            return values
        at = jnp.clip(at, 0, length - 1)
        at = at.reshape(at.shape[0], *(1,) * (values.ndim - 2), at.shape[1])
        batch = max(values.shape[0], at.shape[0])
        values = jnp.broadcast_to(values, (batch, *values.shape[1:]))
        at = jnp.broadcast_to(at, (batch, *values.shape[1:-1], at.shape[-1]))
        return jnp.take_along_axis(values, at, axis=-1)


def evaluate(term: Term, grid: Grid) -> Array:
    """A term at the pairs of a grid, bool, broadcasts to [batch, heads, rows, columns]."""
    match term:
        case AllOf(terms=terms):
            return _fold(jnp.logical_and, terms, grid)
        case AnyOf(terms=terms):
            return _fold(jnp.logical_or, terms, grid)
        case Between(starts=starts, stops=stops):
            starts, stops = (grid.rows(x)[:, None, :, None] for x in (starts, stops))
            return (starts <= grid.pairs[1]) & (grid.pairs[1] < stops)
        case Equal():
            return _equal(grid.rows(term.q), grid.columns(term.kv))
        case Stored(mask=mask):
            return _explicit(jnp.asarray(mask) != 0, grid)
        case Static(masks=masks):
            return jnp.concatenate([_static(mask, grid) for mask in masks])
        case Compiled(plan=plan, batch=batch):
            dense = np.stack([plan.to_dense(head) for head in range(plan.heads)])
            shape = (batch, plan.heads // batch, plan.q_len, plan.kv_len)
            return _explicit(jnp.asarray(dense.reshape(shape)), grid)
        case Moved(term=inner):
            at = grid.moved(term.q_start, term.kv_start, term.q_len, term.kv_len)
            return evaluate(inner, at) & at.inside
    raise TypeError(f"not a term of a mask: {term!r}")


def _fold(operator: Any, terms: tuple[Term, ...], grid: Grid) -> Array:
    first, *others = (evaluate(term, grid) for term in terms)
    for other in others:
        first = operator(first, other)
    return first


def _equal(q: Array, kv: Array) -> Array:
    q, kv = (x if x.ndim == 3 else x[:, None] for x in (q, kv))
    return (q[..., :, None] == kv[..., None, :]) & (q[..., :, None] >= 0)


def _explicit(mask: Array, grid: Grid) -> Array:
    if grid.whole:
        return mask
    q, kv = (jnp.clip(x, 0, n - 1) for x, n in ((grid.q, grid.q_len), (grid.kv, grid.kv_len)))
    batch = max(mask.shape[0], q.shape[0], kv.shape[0])
    row = jnp.arange(batch)[:, None, None, None] if mask.shape[0] > 1 else 0
    head = jnp.arange(mask.shape[1])[None, :, None, None]
    return mask[row, head, q[:, None, :, None], kv[:, None, None, :]]


def _static(mask: expr.Mask, grid: Grid) -> Array:
    """An expression, [batch or 1, heads, rows, columns]."""
    heads = mask.masks if isinstance(mask, expr.MultiHead) else (mask,)
    shape = (max(grid.q.shape[0], grid.kv.shape[0]), 1, grid.q.shape[1], grid.kv.shape[1])
    return jnp.concatenate([jnp.broadcast_to(_element(m, grid), shape) for m in heads], 1)


def _element(mask: expr.Mask, grid: Grid) -> Array:
    """An expression of one head; arithmetic on the device where it is that."""
    q, kv = grid.pairs
    match mask:
        case expr.Full():
            return grid.inside
        case expr.Empty():
            return jnp.zeros((), jnp.bool_)
        case expr.Causal():
            return kv <= q + _offset(mask, grid)
        case expr.Local(left=left, right=right):
            at = q + _offset(mask, grid)
            low = True if left is None else kv >= at - left
            return low & (True if right is None else kv <= at + right) & grid.inside
        case expr.Chunked(chunk=chunk, offset=offset) | expr.ChunkedCausal(chunk, offset):
            same = (q - offset) // chunk == (kv - offset) // chunk
            return same if isinstance(mask, expr.Chunked) else same & (kv <= q)
        case expr.Prefix(length=length):
            return kv < length
        case expr.Rectangle():
            q_stop = grid.q_len if mask.q_stop is None else mask.q_stop
            kv_stop = grid.kv_len if mask.kv_stop is None else mask.kv_stop
            rows = (mask.q_start <= q) & (q < q_stop)
            return rows & (mask.kv_start <= kv) & (kv < kv_stop)
        case expr.Segments():
            ids = mask.q_ids.array, (mask.kv_ids or mask.q_ids).array
            return _equal(grid.rows(ids[0][None]), grid.columns(ids[1][None]))
        case expr.Not(mask=inner):
            return ~_element(inner, grid)
        case expr.And(masks=masks):
            return jnp.stack(jnp.broadcast_arrays(*(_element(m, grid) for m in masks))).all(0)
        case expr.Or(masks=masks):
            return jnp.stack(jnp.broadcast_arrays(*(_element(m, grid) for m in masks))).any(0)
        case expr.Shift(mask=inner):
            q_len = grid.q_len - mask.q if mask.q_len is None else mask.q_len
            kv_len = grid.kv_len - mask.kv if mask.kv_len is None else mask.kv_len
            if min(q_len, kv_len) < 1:
                return jnp.zeros((), jnp.bool_)
            at = grid.moved(np.array([-mask.q]), np.array([-mask.kv]), q_len, kv_len)
            return _element(inner, at) & at.inside
    plan = compile_mask(mask, q_len=grid.q_len, kv_len=grid.kv_len, splash=False)
    return _explicit(jnp.asarray(plan.to_dense()[None, None]), grid)


def _offset(mask: expr.Causal | expr.Local, grid: Grid) -> int:
    return mask.offset + (grid.kv_len - grid.q_len if mask.align == "bottom_right" else 0)
