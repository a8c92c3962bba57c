"""Blocks of strip forms, found without drawing them, against blocks of dense masks."""

import numpy as np
import pytest
from dense_blocks import assert_blocks
from hypothesis import given
from hypothesis import strategies as st
from strip_strategies import SHAPES, arrays, read

from maskc import Causal, Documents, Local, Prefix
from maskc.canonical import canonical
from maskc.strip_blocks import find_blocks

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
