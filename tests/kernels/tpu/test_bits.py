import jax
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Dense, Full
from maskc_kernels import BlockTable
from maskc_kernels.tpu.bits import mask_words, unpack_words, word_rows


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("block_q", "block_kv"), [(128, 256), (384, 128), (8, 1024)])
def test_words_give_back_the_blocks(block_q, block_kv, transposed):
    allowed = np.random.default_rng(0).random((block_q, 2 * block_kv)) < 0.5
    plan = compile_mask(
        Dense(allowed), q_len=block_q, kv_len=2 * block_kv, block_q=block_q, block_kv=block_kv
    )
    words = jax.jit(lambda table: mask_words(table, transposed=transposed))(
        BlockTable.from_lists(plan.fwd)
    )
    blocks = allowed.reshape(block_q, 2, block_kv).transpose(1, 2, 0) if transposed else (
        allowed.reshape(block_q, 2, block_kv).swapaxes(0, 1)
    )  # fmt: skip
    rows, columns = blocks.shape[1:]
    assert words.shape == (2, word_rows(rows), columns)
    for block, packed in zip(blocks, words, strict=True):
        np.testing.assert_array_equal(unpack_words(packed, rows), block)


def test_a_bit_costs_a_bit():
    assert word_rows(512) * 512 * 4 == 512 * 512 // 8


def test_there_is_an_operand_without_partial_blocks_too():
    plan = compile_mask(Full(), q_len=256, block_q=128, block_kv=256)
    table = BlockTable.from_lists(plan.fwd)
    assert mask_words(table).shape == (1, word_rows(128), 256)
    assert mask_words(table, transposed=True).shape == (1, word_rows(256), 128)
