"""Blocks of strip forms, found without drawing them, against blocks of dense masks."""

import numpy as np
import pytest
from dense_blocks import assert_blocks
from hypothesis import given
from hypothesis import strategies as st
from strip_strategies import SHAPES, arrays, read

from maskc import Causal, Chunked, ChunkedCausal, Documents, Local, Prefix
from maskc.canonical import canonical
from maskc.strip_blocks import find_blocks
from maskc.strips import normal

pytestmark = pytest.mark.usefixtures("loops")


@given(st.data())
def test_blocks_are_found_and_drawn(data):
    shape = data.draw(SHAPES)
    masks = [data.draw(arrays(shape)) for _ in range(data.draw(st.integers(1, 3)))]
    block = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 18))
    assert_blocks(find_blocks([read(mask) for mask in masks], *block), masks, *block)


@pytest.mark.parametrize("block", [(16, 16), (24, 40), (64, 8), (150, 7)])
def test_long_masks(block):
    """Ends that move through several blocks, documents that end inside them, ragged edges."""
    q, kv = np.arange(400)[:, None], np.arange(300)
    ids = np.repeat(np.arange(5), [70, 13, 100, 3, 214])
    causal, near = q >= kv, abs(q - kv) <= 37
    same = ids[q] == ids[kv]
    documents = Documents([0, 70, 83, 183, 186, 400], [0, 70, 83, 183, 186, 300])
    cases = {
        Causal(): causal,
        Local(37, 37): near,
        Causal() & documents: causal & same,
        Local(37, 37) | Prefix(5): near | (kv < 5),
        Local(90, -70) | Prefix(9): ((q - kv <= 90) & (q - kv >= 70)) | (kv < 9),
    }
    forms = [canonical(mask, 400, 300) for mask in cases]
    dense = [np.broadcast_to(mask, (400, 300)) for mask in cases.values()]
    assert_blocks(find_blocks(forms, *block), dense, *block)


def test_a_bank_that_outgrows_its_first_room_keeps_its_numbers():
    random = np.random.default_rng(0)
    mask = np.arange(900) < random.integers(0, 900, (900, 1))
    assert_blocks(find_blocks([read(mask)], 5, 9), [mask], 5, 9)


def repeated(rows, down, right, times, kv_len):
    """Rows that repeat themselves `down` further down and `right` further to the right."""
    dense = np.zeros((down * times, kv_len), bool)
    for k in range(times):
        moved = rows[:, : max(kv_len - k * right, 0)]
        dense[k * down : k * down + len(rows), k * right : k * right + moved.shape[1]] = moved
    return dense


@given(st.data())
def test_strips_that_repeat_themselves_are_bands(data):
    """Cycles of strips, some of them cut off at either end, in blocks that need not fit them."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    down, right = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 6))
    rows = random.random((down, 9)) < data.draw(st.sampled_from([0.3, 0.9]))
    times = data.draw(st.integers(1, 40))
    kv_len = data.draw(st.integers(9, 9 + right * times + 1))
    dense = repeated(rows, down, right, times, kv_len)
    first = data.draw(st.integers(0, len(dense) - 1))
    masks = [dense[first:], dense[: len(dense) - first]]
    block = data.draw(st.sampled_from([(1, 1), (2, 2), (3, 2), (4, 4), (2, 3), (6, 6)]))
    blocks = find_blocks([read(mask) for mask in masks], *block)
    assert_blocks(blocks, masks, *block)


@pytest.mark.parametrize(
    ("mask", "bands"),
    {
        Local(7, 0): [(0, 0, 2, 1, 0, 0), (2, 2, 1, 62, 1, 0)],
        Local(7, 7): [(0, 0, 2, 1, 0, 0), (2, 2, 1, 60, 1, 0), (62, 3, 2, 1, 0, 0)],
        ChunkedCausal(16): [(0, 0, 4, 16, 4, 0)],
        ChunkedCausal(16) & Local(5): [(0, 0, 4, 16, 4, 0)],
        Chunked(2): [(0, 0, 1, 64, 1, 0)],
        Prefix(64): [(0, 0, 1, 64, 0, 0)],
        Documents([0, 128, 256]) & ~Causal(-1): [(0, 0, 64, 1, 0, 0)],
        Prefix(9) | Local(7, 0): [(0, 0, 6, 1, 0, 0), (6, 6, 1, 58, 1, 2)],
    }.items(),
)
def test_bands(mask, bands):
    form = canonical(mask, 256, 256)
    assert find_blocks([form], 4, 4).bands.tolist() == [list(band) for band in bands]


def test_strips_of_other_slopes_are_no_cycle():
    """Only their slopes tell these apart; every third is the same again."""
    slopes = [(1, 1), (0, 1), (0, 1)] * 8
    ends = [(16 * k, 16 * k + 4, *slope) for k, slope in enumerate(slopes)]
    form = normal(400, 8 * np.arange(25), np.arange(25), np.array(ends))
    dense = form.at(np.arange(192)[:, None], np.arange(400))
    for block, period in ((2, 12), (4, 6), (8, 3)):
        blocks = find_blocks([form], block, block)
        assert [period, 8] in blocks.bands[:, 2:4].tolist()
        assert_blocks(blocks, [dense], block, block)
