"""The kernels joined into one function that JAX can differentiate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.dbias import dbias_kernel
from maskc_kernels.gpu.dkv import dkv_kernel
from maskc_kernels.gpu.dq import dq_kernel
from maskc_kernels.gpu.forward import forward_kernel
from maskc_kernels.gpu.launch import launch, shaped
from maskc_kernels.gpu.passes import Operands, Pass, bias_lanes
from maskc_kernels.xla.backward import row_gradients

if TYPE_CHECKING:
    from maskc_kernels.gpu.config import Tiles
    from maskc_kernels.tables import AttentionTables

__all__ = ["attend"]

Static: TypeAlias = "tuple[float | None, Tiles | None]"
"""Soft cap and tiles."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    static: Static, operands: Operands, tables: AttentionTables
) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp, as `block_sparse_attention` returns them."""
    return _fwd(static, operands, tables)[0]


def _fwd(
    static: Static, operands: Operands, tables: AttentionTables
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    q, v = operands.q, operands.v
    call = Pass.of(operands, tables, "fwd", *static)
    out_type = (
        shaped((*q.shape[:-1], v.shape[-1]), q.dtype),
        shaped(q.shape[:-1], jnp.float32),
    )
    constants = {"has_sinks": operands.sinks is not None}
    out, lse = launch(call.launch(forward_kernel, (operands.sinks,), out_type, constants))
    return (out, lse), (operands, tables, out, lse)


def _bwd(
    static: Static,
    residuals: tuple[Any, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[Operands, None]:
    operands, tables, out, lse = residuals
    q, k, v, _, sinks, bias, *_ = operands
    rows = row_gradients(out, lse, *gradients)
    lse, delta = rows.lse[..., 0], rows.delta[..., 0]
    extra = (rows.dout, lse, delta)

    call = Pass.of(operands, tables, "dq", *static)
    out_type = (shaped(q.shape, q.dtype), shaped(q.shape[:-1], jnp.float32))
    dq, dscale = launch(call.launch(dq_kernel, extra, out_type))

    call = Pass.of(operands, tables, "dkv", *static)
    out_type = (shaped(k.shape, k.dtype), shaped(v.shape, v.dtype))
    dk, dv = launch(call.launch(dkv_kernel, extra, out_type))

    dsinks = None
    if sinks is not None:
        share = jnp.exp(sinks[None, :, None] - lse)
        dsinks = -(share * delta).sum((0, 2))
    dbias = None
    if bias is not None:
        lanes = bias_lanes(bias.shape, q.shape)
        what = call.launch(dbias_kernel, extra, (shaped(bias.shape, jnp.float32),), lanes=lanes)
        dbias = launch(what)[0].astype(bias.dtype)
    return Operands(dq, dk, dv, dscale.sum(), dsinks, dbias, None, None), None


attend.defvjp(_fwd, _bwd)
