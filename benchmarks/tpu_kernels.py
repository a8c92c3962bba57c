"""Attention kernels to compile for a TPU: ours, JAX splash's and tokamax's, on the same blocks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

from maskc_kernels.tpu.backward import Operands, backward_dkv, backward_dq
from maskc_kernels.tpu.bits import word_rows
from maskc_kernels.tpu.bounds import NUMBERS, Bounds
from maskc_kernels.tpu.config import KernelConfig
from maskc_kernels.tpu.forward import forward
from maskc_kernels.tpu.paths import Paths
from maskc_kernels.tpu.sizes import Sizes
from maskc_kernels.tpu.worklist import EntryForm, WorkList

LENGTH, HEADS = 4096, 2
"""Costs per block do not depend on either."""


class Blocks(NamedTuple):
    """Sizes of one block: queries, keys and head_dim; splash's sub-blocks hold 512 keys."""

    q: int
    kv: int
    head_dim: int


class Program(NamedTuple):
    """A function and the arrays to trace it with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def _array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def ours(
    blocks: Blocks, *, backward: bool, bounded: bool = False, fused: bool = False
) -> list[Program]:
    """Forward; or dq and dkv, or all in one; any mask, or one whose rows have bounds."""
    sizes = Sizes(1, HEADS, HEADS, LENGTH, LENGTH, blocks.q, blocks.kv)
    config, form = KernelConfig(), EntryForm(8, 1, KernelConfig().chunk)
    x = _array(HEADS, LENGTH, blocks.head_dim)
    head_mask, ptr, entries = (_array(n, dtype=jnp.int32) for n in (HEADS, 2, 8 * form.chunk))
    words = _array(4, word_rows(blocks.q), blocks.kv, dtype=jnp.int32)
    turned = _array(4, word_rows(blocks.kv), blocks.q, dtype=jnp.int32)
    if bounded:
        words = turned = Bounds(_array(1, NUMBERS, LENGTH, dtype=jnp.int32))  # type: ignore[arg-type]
    if not backward:

        def run(q: Any, k: Any, v: Any, head_mask: Any, ptr: Any, entries: Any, words: Any) -> Any:
            paths = None if bounded else Paths.of(config.order.parts, blocks.q, blocks.kv)
            tiles = 0 if paths is None else paths.tiles
            work = WorkList(replace(form, tiles=tiles), 1, ptr, entries)
            options = {"sizes": sizes, "config": config, "residuals": False}
            return forward(q, k, v, head_mask, work, words, **options)  # type: ignore[arg-type]

        return [Program(run, (x, x, x, head_mask, ptr, entries, words))]
    rows, scale = _array(HEADS, 2, LENGTH, dtype=jnp.float32), _array(1, dtype=jnp.float32)
    operands = Operands(x, x, x, x, rows)  # type: ignore[arg-type]

    def dq(operands: Any, scale: Any, head_mask: Any, ptr: Any, entries: Any, words: Any) -> Any:
        work = WorkList(form, 1, ptr, entries)
        return backward_dq(operands, scale, head_mask, work, words, sizes=sizes, config=config)

    def dkv(operands: Any, head_mask: Any, ptr: Any, entries: Any, words: Any) -> Any:
        work = WorkList(form, 1, ptr, entries)
        options = {"sizes": sizes, "config": config, "with_dq": fused}
        return backward_dkv(operands, head_mask, work, words, **options)  # type: ignore[arg-type]

    by_queries = Program(dq, (operands, scale, head_mask, ptr, entries, words))
    by_keys = Program(dkv, (operands, head_mask, ptr, entries, turned))
    return [by_keys] if fused else [by_queries, by_keys]


def _program(kernel: Any, blocks: Blocks, *, backward: bool) -> list[Program]:
    x = _array(HEADS, LENGTH, blocks.head_dim)

    def gradients(q: Any, k: Any, v: Any, dout: Any) -> Any:
        return jax.vjp(kernel, q, k, v)[1](dout)

    return [Program(gradients, (x,) * 4) if backward else Program(kernel, (x,) * 3)]


def jax_splash(
    blocks: Blocks, *, backward: bool, stored: bool = False, fused: bool = False
) -> list[Program]:
    """JAX's splash attention under a causal mask.

    Args:
        blocks: sizes.
        backward: the forward pass with residuals and the gradients.
        stored: blocks of the mask are stored, as for any mask but the simplest; else they are
            computed from positions.
        fused: one kernel for all gradients.
    """
    causal = splash_mask.CausalMask((LENGTH, LENGTH))
    mask = splash_mask.NumpyMask(np.tri(LENGTH, dtype=bool)) if stored else causal
    compute = min(512, blocks.kv)
    sizes = splash.BlockSizes(
        block_q=blocks.q, block_kv=blocks.kv, block_kv_compute=compute,
        block_q_dkv=blocks.q, block_kv_dkv=blocks.kv, block_kv_dkv_compute=compute,
        block_q_dq=None if fused else blocks.q, block_kv_dq=None if fused else blocks.kv,
        use_fused_bwd_kernel=fused,
    )  # fmt: skip
    kernel = splash.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * HEADS), block_sizes=sizes, head_shards=1, q_seq_shards=1
    )
    return _program(kernel, blocks, backward=backward)


def tokamax_splash(blocks: Blocks, *, backward: bool, stored: bool = False) -> list[Program]:
    """Tokamax's splash attention, likewise; its gradients are one kernel."""
    from tokamax._src.ops.experimental.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks

    causal = masks.CausalMask((LENGTH, LENGTH))
    mask = masks.NumpyMask(np.tri(LENGTH, dtype=bool)) if stored else causal
    compute = min(512, blocks.kv)
    config = kernels.SplashConfig(
        block_q=blocks.q, block_kv=blocks.kv, block_kv_compute=compute,
        block_q_dkv=blocks.q, block_kv_dkv=blocks.kv, block_kv_dkv_compute=compute,
    )  # fmt: skip
    kernel = kernels.make_splash_mha(mask, config=config, q_seq_shards=1)
    return _program(kernel, blocks, backward=backward)
