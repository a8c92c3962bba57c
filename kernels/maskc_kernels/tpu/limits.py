"""What the kernels do not take, said in one sentence before anything is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskc_kernels.tpu.config import DTYPES, LANES

if TYPE_CHECKING:
    import jax

    from maskc_kernels.tables import AttentionTables
    from maskc_kernels.tpu.config import KernelConfig

__all__ = ["MOST", "refusal"]

MOST = 2048
"""Positions per block; the buffers of larger ones do not fit VMEM beside their scores."""


def refusal(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tables: AttentionTables,
    *,
    q_segment_ids: jax.Array | None = None,
    kv_segment_ids: jax.Array | None = None,
    logits_soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    bias: jax.Array | None = None,
    config: KernelConfig | None = None,
) -> str | None:
    """Why the TPU kernels cannot run this call; None if they can.

    Looks at shapes and dtypes only. The arguments are those of `block_sparse_attention`.
    """
    del q_segment_ids, kv_segment_ids, logits_soft_cap, sinks, config  # all are taken
    if bias is not None:
        return (
            "bias: the TPU kernels add no bias to the scores; leave it away, or use the XLA kernels"
        )
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.dtype.name not in DTYPES or array.dtype != q.dtype:
            return (
                f"{name}: the TPU kernels take {' or '.join(DTYPES)}, one for q, k and v; got "
                f"{array.dtype.name} of shape {array.shape}"
            )
    for name, table in (("fwd", tables.fwd), ("dq", tables.dq), ("dkv", tables.dkv)):
        for side in ("block_q", "block_kv"):
            block = getattr(table, side)
            if block % LANES or block > MOST:
                return (
                    f"{side}: the TPU kernels take multiples of {LANES} up to {MOST}, got {block} "
                    f"for the {name} pass; compile the plan with such blocks"
                )
    return None
