import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Full, MultiHead
from maskc_kernels import BlockTable
from maskc_kernels.xla.tiles import Tiling, dot, take


def tiling(mask, heads=4, kv_heads=2):
    plan = compile_mask(mask, q_len=11, kv_len=7, heads=heads, block_q=4, block_kv=3)
    q, k = jnp.zeros((2, heads, 11, 5)), jnp.zeros((2, kv_heads, 7, 5))
    return Tiling.of(q, k, BlockTable.from_lists(plan.fwd), rows="q")


ONE, MANY = Causal(), MultiHead((Causal(), Full(), Full(), Causal()))


def test_one_mask_folds_heads_and_many_masks_get_lanes():
    one, many = tiling(ONE), tiling(MANY)
    assert (one.q_lanes, one.kv_lanes, one.group, one.members) == (1, 1, 2, 1)
    assert (many.q_lanes, many.kv_lanes, many.group, many.members) == (4, 2, 1, 2)
    assert (one.nq, one.nk) == (3, 3)


def test_rows_decide_how_many_masks_the_lists_hold():
    plan = compile_mask(ONE, q_len=12, kv_len=3, block_q=3, block_kv=3)
    q, k = jnp.zeros((1, 1, 12, 2)), jnp.zeros((1, 1, 3, 2))
    assert Tiling.of(q, k, BlockTable.from_lists(plan.dkv), rows="kv").q_lanes == 1


@pytest.mark.parametrize("mask", [ONE, MANY])
def test_cut_and_join_are_inverse_on_ragged_lengths(mask):
    cut = tiling(mask)
    q = jnp.arange(2 * 4 * 11 * 5).reshape(2, 4, 11, 5)
    kv = jnp.arange(2 * 2 * 7 * 5).reshape(2, 2, 7, 5)
    np.testing.assert_array_equal(cut.join_q(cut.cut_q(q)), q)
    np.testing.assert_array_equal(cut.join_kv(cut.cut_kv(kv)), kv)


def test_a_q_tile_holds_one_block_of_every_query_head_of_a_kv_head():
    q = jnp.arange(2 * 4 * 11 * 5).reshape(2, 4, 11, 5)
    tiles = tiling(ONE).cut_q(q)
    assert tiles.shape == (3, 2 * 2, 2 * 4, 5)
    np.testing.assert_array_equal(tiles[1, 3, :4], q[1, 2, 4:8])
    np.testing.assert_array_equal(tiles[1, 3, 4:], q[1, 3, 4:8])
    assert not tiles[2, :, 3].any()  # position 11 lies beyond the length


def test_a_lane_tile_holds_one_block_of_one_head():
    q = jnp.arange(2 * 4 * 11 * 5).reshape(2, 4, 11, 5)
    tiles = tiling(MANY).cut_q(q)
    assert tiles.shape == (4 * 3, 2, 4, 5)
    np.testing.assert_array_equal(tiles[2 * 3 + 1, 1], q[1, 2, 4:8])


@pytest.mark.parametrize(
    ("contract", "formula"),
    [((2, 2), "nab,ncb->nac"), ((2, 1), "nab,nbc->nac"), ((1, 1), "nab,nac->nbc")],
)
def test_dot_contracts_the_named_axes(contract, formula):
    rng = np.random.default_rng(0)
    sizes = {"n": 3, "a": 4, "b": 5, "c": 6}
    x, y = (
        rng.standard_normal([sizes[letter] for letter in term]).astype(np.float32)
        for term in formula.split("->")[0].split(",")
    )
    np.testing.assert_allclose(
        dot(jnp.asarray(x), jnp.asarray(y), contract), np.einsum(formula, x, y), atol=1e-5
    )


def test_take_picks_one_entry():
    np.testing.assert_array_equal(take(jnp.arange(12).reshape(4, 3), jnp.int32(2)), [6, 7, 8])
