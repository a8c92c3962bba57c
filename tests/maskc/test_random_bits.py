"""Random elements: their definition, and that they look independent."""

import numpy as np
import pytest
from dense_oracle import random_element
from hypothesis import given
from hypothesis import strategies as st

from maskc import Random
from maskc.random_bits import random_elements, random_words

SIZE = 2048


def sample(sparsity, seed=0, top=0):
    words = random_words(sparsity, seed, np.arange(top, top + SIZE)[:, None], np.arange(SIZE // 64))
    return np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little").view(bool)


@given(
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
)
def test_elements_are_what_their_definition_says(sparsity, seed, q, kv):
    found = random_elements(sparsity, seed, np.array([q]), np.array([kv]))
    assert found.tolist() == [random_element(Random(sparsity, seed), q, kv)]
    word = random_words(sparsity, seed, np.array([q]), np.array([kv >> 6]))
    assert int(word[0]) >> (kv & 63) & 1 == found[0]


@pytest.mark.parametrize("sparsity", [0.5, 0.25, 0.9, 1 / 3, 0.97])
def test_shares_and_neighbors_look_independent(sparsity):
    """Within five standard deviations: the share, rows, columns, and pairs at many distances."""
    mask = sample(sparsity)
    share = 1 - sparsity
    deviation = np.sqrt(share * sparsity)
    assert abs(mask.mean() - share) < 5 * deviation / SIZE
    for axis in (0, 1):
        assert np.abs(mask.mean(axis=axis) - share).max() < 5.5 * deviation / np.sqrt(SIZE) + 1e-9
    centred = mask - share
    for down, right in [(0, 1), (1, 0), (1, 1), (0, 63), (0, 64), (64, 0), (1, -1), (7, 128)]:
        other = np.roll(centred, (down, right), axis=(0, 1))
        assert abs((centred * other).mean()) < 5 * deviation**2 / SIZE


def test_seeds_are_not_shifts_of_one_another():
    """Row q of one seed is not row q + 1 of the one before, as adding the two would make it."""
    one, following, below = sample(0.5, 7), sample(0.5, 8), sample(0.5, 7, top=1)
    assert abs((one == following).mean() - 0.5) < 5 * 0.5 / SIZE
    assert abs((below == following).mean() - 0.5) < 5 * 0.5 / SIZE


@pytest.mark.parametrize("sparsity", [0.5, 0.3])
def test_bits_of_a_row_are_uniform_together(sparsity):
    """Chi-squared of four neighbors at once; the 99.99% point for 15 degrees of freedom is 44."""
    mask = sample(sparsity).reshape(-1, 4)
    seen = np.bincount(mask @ [1, 2, 4, 8], minlength=16)
    trues = np.array([i.bit_count() for i in range(16)])
    expected = len(mask) * (1 - sparsity) ** trues * sparsity ** (4 - trues)
    assert ((seen - expected) ** 2 / expected).sum() < 44
