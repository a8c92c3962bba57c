"""The mask of a call that names rules instead of a plan: causal, window, chunk, on positions.

Rules that are known when the function is traced become an expression, and so a compiled plan. If
positions or a dense mask are traced, the same rules become a dense mask on the device.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from maskc_runtime.view import PlanView

if TYPE_CHECKING:
    from maskc.expr import Mask
    from maskc.request import CompileRequest

__all__ = ["Array", "MaskRules", "compiled", "is_known"]

Array: TypeAlias = npt.NDArray[Any] | jax.Array

PADDING = 2**31 - 1
"""A position that is padding, as negative ones are: what MaskInfo pads keys with."""


def is_known(value: Any) -> bool:
    """Can a value be read when the function is traced?"""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


@functools.lru_cache(maxsize=64)
def compiled(request: CompileRequest) -> PlanView:
    """The plan of a request, compiled once in this process."""
    from maskc.compile import compile_request  # a program that loads plans never needs it

    return PlanView.from_plan(compile_request(request))


@dataclass(frozen=True, slots=True)
class MaskRules:
    """What decides the mask, all of it ANDed.

    Attributes:
        q_len: number of queries.
        kv_len: number of keys.
        causal: keys at positions not after the query's.
        window: `(left, right)` positions around the query's, inclusive; None is unbounded.
        chunk: positions of one chunk attend each other.
        q_positions: [batch or 1, q_len], or None for 0, 1, 2 and so on.
        kv_positions: [batch or 1, kv_len], or None likewise.
        dense: bool [batch or 1, heads or 1, q_len, kv_len], or None.
        builder: an expression, or one for each head, or None.
    """

    q_len: int
    kv_len: int
    causal: bool
    window: tuple[int | None, int | None] | None
    chunk: int | None
    q_positions: Array | None = None
    kv_positions: Array | None = None
    dense: Array | None = None
    builder: Mask | None = None

    @property
    def known(self) -> bool:
        """Can the mask be compiled when the function is traced?"""
        return all(map(is_known, (self.q_positions, self.kv_positions, self.dense)))

    def expression(self, heads: int) -> list[Mask]:
        """The mask of every batch row; one, if all share it.

        Args:
            heads: number of query heads.
        """
        q, kv = _rows(self.q_positions), _rows(self.kv_positions)
        dense = _rows(self.dense)
        masks = [
            self._row(heads, *(rows[min(b, len(rows) - 1)] for rows in (q, kv, dense)))
            for b in range(max(map(len, (q, kv, dense))))
        ]
        return masks if any(mask != masks[0] for mask in masks) else masks[:1]

    def _row(self, heads: int, q: Any, kv: Any, dense: Any) -> Mask:
        from maskc import expr

        mask: Mask = self._rules()
        if q is not None or kv is not None:
            q = np.arange(self.q_len) if q is None else q
            kv = np.arange(self.kv_len) if kv is None else kv
            q, kv = (np.where(side == PADDING, -1, side) for side in (q, kv))
            mask = expr.Remap(mask, q, kv)
        if self.builder is not None:
            mask &= self.builder
        if dense is None:
            return mask
        if all(np.array_equal(one, dense[0]) for one in dense):
            return mask & expr.Dense(dense[0])
        return mask & expr.MultiHead([expr.Dense(dense[h]) for h in range(heads)])

    def _rules(self) -> Mask:
        from maskc import expr

        mask: Mask = expr.Causal() if self.causal else expr.Full()
        if self.window is not None:
            mask &= expr.Local(*self.window)
        return mask if self.chunk is None else mask & expr.Chunked(self.chunk)

    def dense_mask(self, heads: int, q_start: jax.Array | int = 0) -> jax.Array:
        """The mask as bool [batch or 1, heads or 1, q_len, kv_len], computed on the device.

        Args:
            heads: number of query heads.
            q_start: position of the first query, if no positions are given.
        """
        counted = jnp.arange(self.q_len)[None] + q_start
        q = counted if self.q_positions is None else jnp.asarray(self.q_positions)
        kv = jnp.arange(self.kv_len)[None]
        kv = kv if self.kv_positions is None else jnp.asarray(self.kv_positions)
        q, kv = q[:, :, None], kv[:, None, :]
        allowed = (q >= 0) & (kv >= 0) & (q != PADDING) & (kv != PADDING)
        if self.causal:
            allowed &= kv <= q
        left, right = self.window or (None, None)
        if left is not None:
            allowed &= kv >= q - left
        if right is not None:
            allowed &= kv - right <= q
        if self.chunk is not None:
            allowed &= q // self.chunk == kv // self.chunk
        mask = allowed[:, None]
        if self.dense is not None:
            mask &= jnp.asarray(self.dense)
        return mask if self.builder is None else mask & self._built(heads)

    def _built(self, heads: int) -> npt.NDArray[np.bool_]:
        from maskc.expr import MultiHead
        from maskc.request import CompileRequest

        several = isinstance(self.builder, MultiHead)
        request = CompileRequest(
            self.builder,  # type: ignore[arg-type]
            q_len=self.q_len,
            kv_len=self.kv_len,
            heads=heads if several else 1,
            splash=False,
        )
        from maskc.compile import compile_request

        plan = compile_request(request)
        return np.stack([plan.to_dense(head) for head in range(heads if several else 1)])[None]


def _rows(values: Array | None) -> list[Any]:
    """The batch rows of an array that is known, as numpy; [None] if there is none."""
    return [None] if values is None else list(np.asarray(values))
