import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Full, Keys, Local, MultiHead
from maskc_cache.errors import PlanError
from maskc_runtime import PlanView, attention


def compiled(mask, **blocks):
    return compile_mask(mask, q_len=24, heads=2, **{"block_q": 8, "block_kv": 8, **blocks})


PLANS = {
    "one mask": compiled(Causal()),
    "two masks": compiled(MultiHead((Causal(), Full()))),
    "dkv blocks of its own": compiled(Causal(), block_q_dkv=12),
    "dq and dkv alike": compiled(
        Causal(), block_q_dkv=12, block_kv_dkv=6, block_q_dq=12, block_kv_dq=6
    ),
    "no splash tables": compiled(Causal(), splash=False),
    "row bounds": compiled(MultiHead((Causal(), Keys([0, 9]))), row_bounds=True),
    "bounds of one side": compiled(Keys([0, 4, 9]), row_bounds=True),
}


@pytest.fixture(params=PLANS.values(), ids=PLANS.keys())
def plan(request):
    return request.param


def test_a_view_states_what_the_plan_states(plan):
    view = PlanView.from_plan(plan)
    for name in ("digest", "key", "q_len", "kv_len", "heads", "masks"):
        assert getattr(view, name) == getattr(plan, name)
    assert view.head_mask is plan.head_mask
    assert view.nbytes == sum(array.nbytes for _, array in plan.arrays())


@pytest.mark.parametrize("direction", ["fwd", "dq", "dkv"])
def test_lists_are_the_plans_arrays(plan, direction):
    table, lists = PlanView.from_plan(plan).lists(direction), plan.lists(direction)
    assert (table.block_q, table.block_kv) == lists.blocks
    for name in ("full_ptr", "full_idx", "partial_ptr", "partial_idx", "partial_id"):
        assert getattr(table, name) is getattr(lists, name)
    assert table.partial_blocks is lists.partial_blocks


def test_a_shared_array_is_one_leaf(plan):
    leaves = jax.tree.leaves(PlanView.from_plan(plan))
    assert len({id(leaf) for leaf in leaves}) == len(leaves)
    assert len(leaves) == len(list(plan.arrays()))
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)


def test_flatten_and_unflatten_keep_everything(plan):
    view = PlanView.from_plan(plan)
    paths, structure = jax.tree_util.tree_flatten_with_path(view)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    assert names == ["." + name for name, _ in plan.arrays()]
    again = jax.tree.unflatten(structure, [leaf for _, leaf in paths])
    assert again == view
    assert again.facts == view.facts
    for left, right in zip(
        jax.tree.leaves(again.tables), jax.tree.leaves(view.tables), strict=True
    ):
        assert left is right


def test_device_put_moves_every_leaf():
    view = jax.device_put(PlanView.from_plan(PLANS["two masks"]))
    assert all(isinstance(leaf, jax.Array) for leaf in view.arrays)
    np.testing.assert_array_equal(view.lists("dkv").full_idx, PLANS["two masks"].dkv.full_idx)


def test_equal_content_is_equal_and_hashes_alike():
    view, same = (PlanView.from_plan(compiled(Local(left=9, right=0))) for _ in range(2))
    written_otherwise = Dense(PLANS["one mask"].to_dense())
    other_key = PlanView.from_plan(compiled(written_otherwise))
    causal = PlanView.from_plan(PLANS["one mask"])
    assert (view, hash(view)) == (same, hash(same))
    assert view != causal
    assert causal != PLANS["one mask"]
    assert (other_key.key == causal.key, other_key == causal) == (False, True)
    assert jax.tree.structure(other_key) == jax.tree.structure(causal)
    assert jax.tree.structure(view) != jax.tree.structure(causal)


@pytest.mark.parametrize("direction", ["fwd", "dkv"])
def test_splash_tables_are_the_plans(direction):
    plan = PLANS["two masks"]
    tables, expected = PlanView.from_plan(plan).splash(direction), plan.splash(direction)
    assert tables.data_next is expected.data_next
    assert tables.mask_next is expected.mask_next
    assert tables.block_mask is expected.block_mask


def test_splash_tables_of_a_mask_with_nothing_partial_have_no_mask_next():
    assert PlanView.from_plan(compiled(Full())).splash().mask_next is None


@pytest.mark.parametrize("name", ["row bounds", "bounds of one side"])
def test_row_bounds_are_the_plans(name):
    plan = PLANS[name]
    bounds, expected = PlanView.from_plan(plan).row_bounds, plan.row_bounds
    assert (bounds.q_intervals, bounds.kv_intervals) == plan.row_intervals
    assert bounds.q is expected.q
    assert bounds.kv is expected.kv
    tables = PlanView.from_plan(plan).tables
    assert (tables.q_bounds is expected.q, tables.kv_bounds is expected.kv) == (True, True)
    assert PlanView.from_plan(PLANS["one mask"]).row_bounds is None


def test_row_bounds_are_operands():
    """Bounds of equal shapes come in as arguments of one program; equal plans trace once."""

    def attended(view):
        low, high = view.row_bounds.q[0]
        return (high - low).sum()

    traced, traces = counting(attended)
    causal, window = (
        PlanView.from_plan(compiled(mask, row_bounds=True)) for mask in (Causal(), Local(3, 0))
    )
    count = jax.jit(traced)
    assert [int(count(view)) for view in (causal, causal, window)] == [300, 300, 90]
    assert len(traces) == 2
    again = PlanView.from_plan(compiled(Causal(), row_bounds=True))
    assert int(count(jax.device_put(again))) == 300
    assert len(traces) == 2
    texts = {jax.jit(attended).lower(view).as_text() for view in (causal, window)}
    assert len(texts) == 1


def test_asking_for_what_is_not_there():
    view = PlanView.from_plan(PLANS["no splash tables"])
    with pytest.raises(PlanError, match=f"plan {view.key[:12]} has no splash tables; compile it"):
        view.splash()
    with pytest.raises(ValueError, match="direction: expected 'fwd' or 'dkv', got 'dq'"):
        view.splash("dq")
    with pytest.raises(ValueError, match="direction: expected 'fwd', 'dq' or 'dkv', got 'bwd'"):
        view.lists("bwd")


def test_repr_is_one_short_line():
    view = PlanView.from_plan(PLANS["two masks"])
    assert repr(view) == (
        f"<PlanView {view.key[:12]} q_len=24 kv_len=24 heads=2 masks=2 block_q=8 block_kv=8>"
    )


def counting(function):
    traces = []

    def traced(*args):
        traces.append(1)
        return function(*args)

    return traced, traces


@pytest.mark.parametrize("form", ["argument", "static"])
def test_an_equal_plan_does_not_trace_again(form, draw_qkv):
    traced, traces = counting(attention)
    attend = jax.jit(traced, static_argnums=(3,) if form == "static" else ())
    qkv = draw_qkv((1, 2, 24, 4), (1, 1, 24, 4))
    first = attend(*qkv, PlanView.from_plan(compiled(Causal())))
    again = attend(*qkv, PlanView.from_plan(compiled(Causal())))
    assert len(traces) == 1
    np.testing.assert_array_equal(first, again)
    other = attend(*qkv, PlanView.from_plan(compiled(Local(left=2, right=0))))
    assert len(traces) == 2
    assert not np.allclose(first, other)


def test_as_an_argument_plans_of_equal_shapes_share_one_program():
    block = np.eye(8, dtype=bool)
    masks = [Dense(np.kron(np.eye(3, dtype=bool), tile)) for tile in (block, block[::-1])]
    views = [PlanView.from_plan(compiled(mask)) for mask in masks]
    qkv = [jax.ShapeDtypeStruct((1, 2, 24, 4), jnp.float32)] * 3
    first, second = (jax.jit(attention).lower(*qkv, view).as_text() for view in views)
    assert views[0] != views[1]
    assert first == second


def test_as_an_argument_the_program_holds_no_tables_and_closed_over_it_does():
    rng = np.random.default_rng(0)
    mask = Dense(rng.random((4096, 4096)) < 0.5)
    view = PlanView.from_plan(compile_mask(mask, q_len=4096, block_q=256, block_kv=256))
    assert view.nbytes > 2_000_000
    qkv = [jax.ShapeDtypeStruct((1, 1, 4096, 8), jnp.float32)] * 3

    def grads(q, k, v, plan):
        return jax.grad(lambda *qkv: attention(*qkv, plan).sum(), (0, 1, 2))(q, k, v)

    argument = jax.jit(grads).lower(*qkv, view).as_text()
    static = jax.jit(grads, static_argnums=3).lower(*qkv, view).as_text()
    closure = jax.jit(lambda *qkv: grads(*qkv, view)).lower(*qkv).as_text()
    assert len(argument) < 100_000
    assert len(closure) > 2 * view.lists("fwd").partial_blocks.nbytes
    assert abs(len(static) - len(closure)) < 1000
    # The partial blocks are shared by the three passes, and are written once.
    assert len(re.findall(r"dense<\"0x[^\"]{1000000,}\"", closure)) == 1
