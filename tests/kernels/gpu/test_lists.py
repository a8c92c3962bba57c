"""Words, transposed words and the order of work, against numpy."""

import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Empty, Full, Local
from maskc_kernels import BlockTable
from maskc_kernels.gpu.lists import longest_first, mask_words, row_lists, transposed_words


def unpacked(words):
    octets = np.ascontiguousarray(np.asarray(words)).astype("<u4").view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little").astype(bool)


@pytest.mark.parametrize(
    ("unique", "q", "kv"), [(0, 16, 48), (1, 1, 1), (3, 32, 64), (2, 70, 9), (2, 24, 100)]
)
def test_words_hold_the_bits_and_transposed_words_the_transposed_bits(unique, q, kv):
    blocks = np.random.default_rng(0).random((unique, q, kv)) < 0.5
    words = mask_words(np.packbits(blocks, axis=2, bitorder="little"))
    assert words.shape == (unique, q, -(-kv // 32))
    np.testing.assert_array_equal(unpacked(words)[..., :kv], blocks)
    assert not unpacked(words)[..., kv:].any()
    turned = transposed_words(words)
    assert turned.shape == (unique, words.shape[2] * 32, -(-q // 32))
    np.testing.assert_array_equal(unpacked(turned)[:, :kv, :q], blocks.swapaxes(1, 2))
    assert not unpacked(turned)[..., q:].any()
    assert not unpacked(turned)[:, kv:].any()


def test_longest_rows_come_first_and_a_partial_block_costs_more():
    full, partial = np.array([1, 0, 2, 0, 5, 0]), np.array([0, 1, 0, 3, 0, 4])
    ptr = [np.append(0, np.cumsum(counts)).astype(np.int32) for counts in (full, partial)]
    assert longest_first(*ptr, 3).tolist() == [2, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("transposed", [False, True])
def test_lists_are_the_plans_own(transposed):
    plan = compile_mask(Local(left=20, right=3), q_len=100, block_q=32, block_kv=16)
    table = BlockTable.from_lists(plan.lists("dkv" if transposed else "fwd"))
    lists = row_lists(table, plan.grid("dkv" if transposed else "fwd")[0], transposed=transposed)
    for name in ("full_ptr", "partial_ptr", "partial_idx", "partial_id"):
        np.testing.assert_array_equal(getattr(lists, name), getattr(table, name))
        assert getattr(lists, name).dtype == getattr(table, name).dtype
    bits = unpacked(lists.words)
    bits = bits[:, :16, :32].swapaxes(1, 2) if transposed else bits[:, :32, :16]
    np.testing.assert_array_equal(bits, plan.fwd.unpacked_blocks())


@pytest.mark.parametrize("mask", [Full(), Empty(), Causal(offset=-200)])
def test_an_empty_list_still_has_an_address(mask):
    plan = compile_mask(mask, q_len=64, block_q=32, block_kv=32)
    lists = row_lists(BlockTable.from_lists(plan.fwd), 2)
    assert lists.bounds is None
    assert all(array.size for array in lists[:-1])


def test_bounds_stand_for_words():
    plan = compile_mask(Causal(), q_len=64, block_q=32, block_kv=32, row_bounds=True)
    lists = row_lists(BlockTable.from_lists(plan.fwd), 2, plan.row_bounds.q)
    np.testing.assert_array_equal(lists.bounds, plan.row_bounds.q)
    assert lists.words is lists.partial_id is None


def test_kernels_know_no_size_of_a_list(recorded):
    """Another mask is no other kernel, whatever its lists: same constants, same types."""
    found = []
    for mask in (Causal(), Local(left=300, right=5)):
        plan = compile_mask(mask, q_len=512, heads=4, block_q=64, block_kv=64)
        launches = recorded(90, plan, *((1, heads, 512, 64) for heads in (4, 2, 2)))
        found.append(
            {name: (x.constants, [y.dtype for y in x.operands]) for name, x in launches.items()}
        )
        found[-1]["sizes"] = {x.size for launch in launches.values() for x in launch.operands}
    sizes = [kernels.pop("sizes") for kernels in found]
    assert sizes[0] != sizes[1]
    assert found[0] == found[1]
