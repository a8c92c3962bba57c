"""Which programs for CUDA hold the Triton kernels. They are lowered only: no GPU is needed."""

import jax
import jax.numpy as jnp
import pytest
from gpus import CAN_LOWER, NEEDED, on, text_for_cuda

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_runtime import attention, load_plan

pytestmark = pytest.mark.skipif(not CAN_LOWER, reason=NEEDED)

KERNEL = "triton_kernel_call"


def program(block=64, dtype="bfloat16", transform=lambda function: function, batch=(2,)):
    plan = load_plan(compile_mask(Causal(), q_len=128, heads=2, block_q=block, block_kv=block))
    q = jax.ShapeDtypeStruct((*batch, 2, 128, 64), dtype)
    return text_for_cuda(transform(lambda *qkv: attention(*qkv, plan)), q, q, q)


def gradient(function):
    return jax.grad(lambda *qkv: function(*qkv).astype(jnp.float32).sum(), (0, 1, 2))


def test_attention_for_a_gpu_in_sight_is_one_kernel_and_its_gradient_three():
    with on("NVIDIA H100"):
        assert program().count(f"@{KERNEL}") == 1
        assert program(transform=gradient).count(f"@{KERNEL}") == 3


def test_under_vmap_too():
    with on("NVIDIA H100"):
        text = program(transform=lambda f: jax.vmap(gradient(f)), batch=(3, 2))
    assert text.count(f"@{KERNEL}") == 3


def test_without_a_gpu_in_sight_the_program_is_plain_xla():
    assert KERNEL not in program()


@pytest.mark.parametrize("options", [{"block": 24}, {"dtype": "float64"}])
def test_what_the_kernels_refuse_is_plain_xla(options):
    with on("NVIDIA H100"), jax.enable_x64(True):
        text = program(**options)
    assert KERNEL not in text
    assert "stablehlo.while" in text
