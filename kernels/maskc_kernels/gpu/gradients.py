"""The kernels joined into one function that JAX can differentiate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp

from maskc_kernels.gpu.dbias import dbias_kernel
from maskc_kernels.gpu.delta import delta_kernel
from maskc_kernels.gpu.dkv import dkv_kernel
from maskc_kernels.gpu.dq import dq_kernel
from maskc_kernels.gpu.forward import forward_kernel
from maskc_kernels.gpu.launch import launch, shaped
from maskc_kernels.gpu.passes import Operands, Pass, bias_lanes

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
    sinks = operands.sinks
    what = call.launch(forward_kernel, (sinks,), out_type, has_sinks=sinks is not None)
    out, lse = launch(what)
    return (out, lse), (operands, tables, out, lse)


def _bwd(
    static: Static,
    residuals: tuple[Any, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[Operands, None]:
    operands, tables, out, lse = residuals
    q, k, v, _, sinks, bias, *_ = operands
    dout, dlse = gradients
    call = Pass.of(operands, tables, "dq", *static)
    out_type = tuple(shaped(x.shape, x.dtype) for x in (dout, lse, lse))
    extra = launch(call.launch_rows(delta_kernel, (out, lse, dout, dlse), out_type))

    out_type = (shaped(q.shape, q.dtype), shaped(q.shape[:-1], jnp.float32))
    dq, dscale = launch(call.launch(dq_kernel, extra, out_type))

    call = Pass.of(operands, tables, "dkv", *static)
    out_type = (shaped(k.shape, k.dtype), shaped(v.shape, v.dtype))
    dk, dv = launch(call.launch(dkv_kernel, extra, out_type))

    dsinks = None
    if sinks is not None:
        _, lse, delta = extra
        share = jnp.exp(sinks[None, :, None] - lse)
        dsinks = -(share * delta).sum((0, 2))
    dbias = None
    if bias is not None:
        lanes = bias_lanes(bias.shape, q.shape)
        what = call.launch(dbias_kernel, extra, (shaped(bias.shape, jnp.float32),), lanes=lanes)
        dbias = launch(what)[0].astype(bias.dtype)
    return Operands(dq, dk, dv, dscale.sum(), dsinks, dbias, None, None), None


attend.defvjp(_fwd, _bwd)
