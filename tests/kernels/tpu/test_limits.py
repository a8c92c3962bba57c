"""Every refusal is said by `refusal` and raised by the call, in the same words."""

import jax
import jax.numpy as jnp
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels.tpu import block_sparse_attention, refusal


def both(q, k, v, tables, **options):
    reason = refusal(q, k, v, tables, **options)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        block_sparse_attention(q, k, v, jnp.float32(1), tables, **options)
    assert str(error.value) == reason
    return reason


@pytest.fixture(scope="module")
def tables(tables_of):
    return tables_of(compile_mask(Causal(), q_len=256, block_q=128, block_kv=128))


X = jnp.zeros((1, 1, 256, 8))


def test_what_is_taken_is_not_refused(tables):
    sinks, ids = jnp.zeros(1), jnp.zeros((1, 256), jnp.int32)
    options = {"sinks": sinks, "q_segment_ids": ids, "kv_segment_ids": ids, "logits_soft_cap": 9.0}
    assert refusal(X, X, X, tables, **options) is None


def test_shapes_are_enough(tables):
    x = jax.ShapeDtypeStruct(X.shape, "float16")
    assert refusal(x, x, x, tables).startswith("q: the TPU kernels take bfloat16 or float32")


@pytest.mark.parametrize(("block", "length"), [(64, 256), (4096, 8192)])
def test_blocks_that_do_not_fit(block, length, tables_of):
    plan = compile_mask(Causal(), q_len=length, block_q=128, block_kv=block)
    x = jnp.zeros((1, 1, length, 8))
    reason = both(x, x, x, tables_of(plan))
    assert f"block_kv: the TPU kernels take multiples of 128 up to 2048, got {block}" in reason


def test_only_what_the_matrix_unit_takes(tables):
    half = X.astype(jnp.float16)
    assert "q: the TPU kernels take bfloat16 or float32" in both(half, half, half, tables)
    assert "got bfloat16" in both(X, X, X.astype(jnp.bfloat16), tables)


def test_bias_is_not_added(tables):
    assert "bias: the TPU kernels add no bias" in both(X, X, X, tables, bias=jnp.zeros((1,) * 4))


def test_ids_of_one_side_only(tables):
    with pytest.raises(ValueError, match="go together, got one"):
        block_sparse_attention(
            X, X, X, jnp.float32(1), tables, q_segment_ids=jnp.zeros((1, 256), jnp.int32)
        )
