"""Programs for a GPU, made on a machine without one."""

import jax
import jax.numpy as jnp
import pytest
from gpu_attention import bounded
from gpus import CAN_LOWER, NEEDED, text_for_cuda

from maskc.compile import compile_mask
from maskc.expr import Causal, Local

pytestmark = pytest.mark.skipif(not CAN_LOWER, reason=NEEDED)


def gradients(tables, **options):
    from maskc_kernels.gpu.attention import block_sparse_attention

    def total(q, k, v, tables):
        out, lse = block_sparse_attention(q, k, v, jnp.float32(1), tables, **options)
        return out.astype(jnp.float32).sum() + lse.sum()

    return jax.grad(total, (0, 1, 2)), tables


def shapes(dtype="bfloat16", length=512):
    q, k = (jax.ShapeDtypeStruct((1, heads, length, 64), dtype) for heads in (4, 2))
    return q, k, k


@pytest.mark.parametrize(
    ("kind", "architecture", "row_bounds"), [("NVIDIA A100", 80, False), ("NVIDIA H100", 90, True)]
)
def test_export_for_a_gpu_that_is_not_here(kind, architecture, row_bounds, tables_of):
    from maskc_kernels.gpu import architecture as found
    from maskc_kernels.gpu.compat import CUSTOM_CALL
    from maskc_kernels.gpu.offline import device

    plan = compile_mask(
        Causal(), q_len=512, heads=4, block_q=128, block_kv=128, row_bounds=row_bounds
    )
    function, tables = gradients(bounded(plan, tables_of(plan)))
    arrays, structure = jax.tree.flatten(tables)
    with device(kind):
        assert found() == architecture
        exported = jax.export.export(
            jax.jit(lambda q, k, v, *arrays: function(q, k, v, structure.unflatten(arrays))),
            platforms=["cuda"],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(CUSTOM_CALL)],
        )(*shapes(), *arrays)
    text = exported.mlir_module()
    assert text.count(f"@{CUSTOM_CALL}(") == 4  # forward, delta, dq, dkv
    assert "callback" not in text
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("cuda",)
    assert [x.shape for x in again.out_avals] == [(1, n, 512, 64) for n in (4, 2, 2)]


def test_a_new_mask_is_new_data_for_the_same_program(tables_of):
    """Same shapes of lists: the same text of the program, with its kernels and constants."""
    from maskc_kernels.gpu.offline import device

    texts = []
    for mask in (Causal(), Local(left=77, right=5)):
        plan = compile_mask(mask, q_len=256, heads=4, block_q=64, block_kv=64)
        function, tables = gradients(tables_of(plan, roomy=True))
        with device("NVIDIA H100"):
            texts.append(text_for_cuda(function, *shapes(length=256), tables))
    assert texts[0] == texts[1]
