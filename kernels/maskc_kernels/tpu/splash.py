"""The same plan for those who keep JAX's splash attention or tokamax's: their kernels, our tables.

Neither compiles a mask then. Both are imported when asked for; tokamax is an extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable

    from maskc_cache.plan import Plan

__all__ = ["TokamaxTables", "splash_kernel", "tokamax_kernel"]

_COMPUTE = 512  # keys per matrix product, as in KernelConfig


class TokamaxTables(Protocol):
    """What `maskc.export.tokamax.mask_info` gives."""

    def __iter__(self) -> Any:
        """The fields, in tokamax's order."""
        ...


class _Blocks(NamedTuple):
    q: int
    kv: int
    q_dkv: int
    kv_dkv: int


def _blocks(plan: Plan) -> _Blocks:
    fwd, dq, dkv = plan.fwd, plan.dq, plan.dkv
    if (dq.block_q, dq.block_kv) != (fwd.block_q, fwd.block_kv):
        raise ValueError(
            f"plan: splash's dq pass takes the tables of the forward pass, so their blocks must be "
            f"equal; got {dq.block_q} x {dq.block_kv} and {fwd.block_q} x {fwd.block_kv}"
        )
    return _Blocks(fwd.block_q, fwd.block_kv, dkv.block_q, dkv.block_kv)


def splash_kernel(
    plan: Plan,
    *,
    save_residuals: bool = False,
    logits_soft_cap: float | None = None,
    interpret: bool = False,
) -> Callable[..., Any]:
    """JAX's splash attention under a plan's mask, as its `make_splash_mha` returns it.

    Args:
        plan: blocks of multiples of 128 that divide the lengths; the same ones for forward and dq.
        save_residuals: return the log-sum-exp too; then it has no gradients.
        logits_soft_cap: c turns a score x into `c * tanh(x / c)`.
        interpret: run without a TPU.

    Returns:
        (q [heads, q_len, head_dim], k, v [kv_heads, kv_len, head_dim]) -> output; q is scaled by
        the caller. A query that attends nothing gets junk: that is splash's way.

    Raises:
        ValueError: the blocks of forward and dq differ.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask_info as info,
    )

    blocks = _blocks(plan)
    sizes = kernels.BlockSizes(
        block_q=blocks.q, block_kv=blocks.kv, block_kv_compute=min(_COMPUTE, blocks.kv),
        block_q_dq=blocks.q, block_kv_dq=blocks.kv,
        block_q_dkv=blocks.q_dkv, block_kv_dkv=blocks.kv_dkv,
        block_kv_dkv_compute=min(_COMPUTE, blocks.kv_dkv),
    )  # fmt: skip
    fwd, dkv = (
        jax.tree.map(jnp.asarray, info.MaskInfo(*plan.splash(direction)))
        for direction in ("fwd", "dkv")
    )
    kernel: Callable[..., Any] = kernels.SplashAttentionKernel(
        fwd, fwd, dkv,
        block_sizes=sizes, is_mqa=False, save_residuals=save_residuals,
        mask_value=kernels.DEFAULT_MASK_VALUE, attn_logits_soft_cap=logits_soft_cap,
        residual_checkpoint_name=None, mask_function=None, interpret=interpret,
    )  # fmt: skip
    return kernel


def tokamax_kernel(
    plan: Plan,
    fwd: TokamaxTables,
    dkv: TokamaxTables | None = None,
    *,
    interpret: bool = False,
    **config: Any,
) -> Callable[..., Any]:
    """Tokamax's splash attention under a plan's mask, as its `make_splash_mha` returns it.

    Args:
        plan: blocks of multiples of 128 that divide the lengths; all heads have one mask.
        fwd: `maskc.export.tokamax.mask_info(plan, "fwd")`.
        dkv: `mask_info(plan, "dkv", dynamic_grid=False)`, for gradients; with
            `dq_reduction_steps=3` in `config`, the one with a dynamic grid.
        interpret: run without a TPU.
        **config: more fields of tokamax's `SplashConfig`.

    Returns:
        (q [heads, q_len, head_dim], k, v [kv_heads, kv_len, head_dim]) -> output; q is scaled by
        the caller.

    Raises:
        ValueError: the blocks of forward and dq differ.
    """
    package = "tokamax._src.ops.experimental.tpu.splash_attention"
    kernels = importlib.import_module(f"{package}.splash_attention_kernel")
    info = importlib.import_module(f"{package}.splash_attention_mask_info")

    blocks = _blocks(plan)
    sizes = {"block_q": blocks.q, "block_kv": blocks.kv}
    sizes["block_kv_compute"] = min(_COMPUTE, blocks.kv)
    if dkv is not None:
        sizes |= {"block_q_dkv": blocks.q_dkv, "block_kv_dkv": blocks.kv_dkv}
        sizes["block_kv_dkv_compute"] = min(_COMPUTE, blocks.kv_dkv)
    tables = [
        None if part is None else jax.tree.map(jnp.asarray, info.MaskInfo(*part))
        for part in (fwd, dkv)
    ]
    share = [_share(plan.fwd.partial_ptr, plan.fwd.full_ptr, plan.grid("fwd"))]
    share.append(_share(plan.dkv.partial_ptr, plan.dkv.full_ptr, plan.grid("dkv")))
    kernel: Callable[..., Any] = kernels.SplashAttentionKernel(
        *tables,
        config=kernels.SplashConfig(interpret=interpret, **sizes, **config),
        is_mqa=False, save_residuals=False, mask_value=kernels.base.DEFAULT_MASK_VALUE,
        mask_function=None, fwd_mask_sparsity=share[0], dkv_mask_sparsity=share[1],
    )  # fmt: skip
    return kernel


def _share(partial_ptr: Any, full_ptr: Any, grid: tuple[int, int]) -> float:
    """How many of the blocks are not empty; tokamax estimates costs with it."""
    return float(partial_ptr[-1] + full_ptr[-1]) / (grid[0] * grid[1])
