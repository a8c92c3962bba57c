"""Pictures of block grids."""

import numpy as np
from hypothesis import given

from maskc import Causal, Full, Local, MultiHead, compile_mask, compile_request, strategies
from maskc.blockmap import LEGEND, block_shares, render_block_map


@given(strategies.requests(max_length=40))
def test_shares_are_the_counts_of_the_states(request):
    plan = compile_request(request)
    for head in range(plan.heads):
        full, partial = block_shares(plan, head, width=10**6, height=10**6)
        state = plan.fwd.states(*plan.grid("fwd"))[0][plan.head_mask[head]]
        np.testing.assert_array_equal(full, state == 2)
        np.testing.assert_array_equal(partial, state == 1)
        small = block_shares(plan, head, width=3, height=2)
        assert small[0].shape[0] <= 2
        assert small[0].shape[1] <= 3
        assert (small[0] + small[1] <= 1).all()
        assert (small[0].sum() + small[1].sum() > 0) == bool(state.any())


def test_a_large_grid_is_reduced():
    plan = compile_mask(Causal(), q_len=4096, block_q=32, block_kv=32)
    rows = render_block_map(plan, width=4, height=4).splitlines()
    assert rows == ["▓···", "█▓··", "██▓·", "███▓"]


def test_each_head_has_its_map():
    plan = compile_mask(MultiHead([Full(), Local(0, 0)]), q_len=32, block_q=16, block_kv=16)
    assert render_block_map(plan, 0) == "██\n██"
    assert render_block_map(plan, 1) == "▚·\n·▚"
    assert set("·▚█") <= set(LEGEND)
