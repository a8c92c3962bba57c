"""The bank of partial blocks: contents decide, whatever the hashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskc.block_bank import EMPTY, BlockBank
from maskc.block_runs import FULL
from maskc.blocking import BlockGrid


def taken_up(bank, blocks):
    bank.room(len(blocks))[...] = np.packbits(blocks, axis=2, bitorder="little")
    return bank.number(len(blocks)).tolist()


class Colliding(BlockBank):
    """Every block has the same hash."""

    def _hashes(self, blocks):
        return [0] * len(blocks)


@pytest.mark.parametrize("kind", [BlockBank, Colliding])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    batches=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), max_size=6),
)
def test_equal_blocks_have_one_number(kind, shape, batches):
    bank = kind(BlockGrid(100, 100, *shape))
    random = np.random.default_rng(0)
    kinds = [np.zeros(shape, bool), np.ones(shape, bool), *(random.random((6, *shape)) < 0.5)]
    known = {kinds[0].tobytes(): EMPTY, kinds[1].tobytes(): FULL}
    partial = []
    for batch in batches:
        blocks = np.array([kinds[i] for i in batch])
        expected = []
        for block in blocks:
            if block.tobytes() not in known:
                known[block.tobytes()] = len(partial)
                partial.append(block)
            expected.append(known[block.tobytes()])
        assert taken_up(bank, blocks) == expected
    drawn = np.array(partial, bool).reshape(-1, *shape)
    np.testing.assert_array_equal(bank.blocks(), np.packbits(drawn, axis=2, bitorder="little"))


def test_bits_beyond_a_blocks_keys_do_not_count():
    bank = BlockBank(BlockGrid(8, 8, 1, 3))
    bank.room(3)[...] = np.array([0b11111111, 0b10101000, 0b01010010]).reshape(3, 1, 1)
    assert bank.number(3).tolist() == [FULL, EMPTY, 0]
    assert bank.blocks().tolist() == [[[0b010]]]


def test_flipping_the_highest_bits_of_two_words_changes_the_hash():
    """Without folding, both would add half of 2**64, and their sum nothing."""
    bank = BlockBank(BlockGrid(64, 256, 1, 256))
    blocks = np.zeros((2, 4), np.uint64)
    blocks[1, 1:3] = 1 << 63
    one, other = bank._hashes(blocks)
    assert one != other
