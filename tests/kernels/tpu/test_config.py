import dataclasses

import jax.numpy as jnp
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels.tpu import KernelConfig, block_sparse_attention


@pytest.mark.parametrize(
    ("compute", "block", "width"),
    [(None, 128, 128), (None, 1024, 512), (None, 768, 384), (256, 1024, 256), (300, 512, 256)],
)
def test_compute_width_divides_the_block(compute, block, width):
    assert KernelConfig(compute=compute).compute_width(block) == width


def test_blocks_that_do_not_fit_registers_are_refused(tables_of):
    plan = compile_mask(Causal(), q_len=256, block_q=128, block_kv=64)
    x = jnp.zeros((1, 1, 256, 8))
    with pytest.raises(ValueError, match="block_kv: the TPU kernels take multiples of 128, got 64"):
        block_sparse_attention(x, x, x, jnp.float32(1), tables_of(plan))


def test_only_what_the_matrix_unit_takes(tables_of):
    tables = tables_of(compile_mask(Causal(), q_len=256, block_q=128, block_kv=128))
    x = jnp.zeros((1, 1, 256, 8))
    half = x.astype(jnp.float16)
    with pytest.raises(ValueError, match=r"q: the TPU kernels take bfloat16 or float32, .*float16"):
        block_sparse_attention(half, half, half, jnp.float32(1), tables)
    with pytest.raises(ValueError, match=r"v: .* one for q, k and v; got bfloat16"):
        block_sparse_attention(x, x, x.astype(jnp.bfloat16), jnp.float32(1), tables)


def test_configs_are_static():
    assert hash(KernelConfig()) == hash(KernelConfig())
    assert dataclasses.replace(KernelConfig(), chunk=8) != KernelConfig()
