"""Block-sparse attention in Triton, called through jax-triton, for NVIDIA GPUs.

Importing this package imports no Triton; `maskc_kernels.gpu.attention` does, and needs the `gpu`
extra.
"""
