"""Forward and backward joined into one function that JAX can differentiate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from maskc_kernels.xla.backward import backward_dkv, backward_dq, row_gradients
from maskc_kernels.xla.forward import forward

if TYPE_CHECKING:
    from maskc_kernels.tables import AttentionTables

__all__ = ["block_sparse_attention"]


@jax.custom_vjp
def block_sparse_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, sm_scale: jax.Array, tables: AttentionTables
) -> tuple[jax.Array, jax.Array]:
    """Attention over the non-empty blocks of a mask, on any XLA backend.

    Nothing of size q_len x kv_len is made, and the program is the same for every mask. Reverse
    mode only, in q, k, v and sm_scale, through both outputs.

    Args:
        q: [batch, heads, q_len, head_dim].
        k: [batch, kv_heads, kv_len, head_dim]; kv_heads divides heads, and query head h uses kv
            head `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        sm_scale: [], factor on the scores q . k.
        tables: compiled for these heads and lengths; the caller has checked that.

    Returns:
        The output [batch, heads, q_len, v_head_dim] in q's dtype, and the log-sum-exp
        [batch, heads, q_len] in float32 (float64 for float64 inputs). Sums are kept in that dtype
        too. A query that attends nothing has output 0, log-sum-exp -inf and zero gradients.
    """
    return _fwd(q, k, v, sm_scale, tables)[0]


def _fwd(
    q: jax.Array, k: jax.Array, v: jax.Array, sm_scale: jax.Array, tables: AttentionTables
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    out, lse = forward(q, k, v, sm_scale, tables.head_mask, tables.fwd)
    return (out, lse), (q, k, v, sm_scale, tables, out, lse)


def _bwd(residuals: tuple[Any, ...], gradients: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    q, k, v, sm_scale, tables, out, lse = residuals
    rows = row_gradients(out, lse, *gradients)
    dq, dscale = backward_dq(q, k, v, sm_scale, rows, tables.head_mask, tables.dq)
    dk, dv = backward_dkv(q, k, v, sm_scale, rows, tables.head_mask, tables.dkv)
    return dq, dk, dv, dscale, None


block_sparse_attention.defvjp(_fwd, _bwd)
