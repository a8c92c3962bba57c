"""Block-sparse attention in plain JAX: loops over block lists, for any XLA backend."""

from maskc_kernels.xla.attention import block_sparse_attention, refusal
from maskc_kernels.xla.backward import backward_dkv, backward_dq
from maskc_kernels.xla.forward import forward

__all__ = ["backward_dkv", "backward_dq", "block_sparse_attention", "forward", "refusal"]
