import functools

import jax
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Empty, Full, Local, MultiHead, Prefix
from maskc_kernels import AttentionTables
from maskc_runtime import (
    ArgumentShapeError,
    ArgumentValueError,
    TracedPlan,
    attention,
    load_plan,
    shard_plan,
    stack_plans,
)

N, HEADS = 32, 4
RANDOM = Dense(np.random.default_rng(0).random((N, N)) < 0.3)
MASKS = [Causal(), Empty(), MultiHead([Causal(), RANDOM, Local(3, 1), RANDOM]), Full()]


def plan_of(mask, **parameters):
    blocks = {"block_q": 8, "block_kv": 6, "block_q_dq": 4, "block_q_dkv": 16} | parameters
    return compile_mask(mask, q_len=N, heads=HEADS, **blocks)


EQUAL = {"block_q": 8, "block_kv": 8, "block_q_dq": 8, "block_q_dkv": 8}
PLANS = [plan_of(mask) for mask in MASKS]


def dense(tables: AttentionTables, q_len, direction):
    """The masks [heads, q_len, N] of one plan's tables, read back by the definition."""
    table = getattr(tables, direction)
    nq, nk = -(-q_len // table.block_q), -(-N // table.block_kv)
    rows, columns = (nk, nq) if direction == "dkv" else (nq, nk)
    bits = np.unpackbits(table.partial_blocks, axis=2, count=table.block_kv, bitorder="little")
    out = np.zeros((len(tables.head_mask), nq * table.block_q, nk * table.block_kv), bool)
    for head, mask in enumerate(tables.head_mask):
        for row in range(rows):
            at = mask * rows + row
            full, partial = (
                slice(*ptr[at : at + 2]) for ptr in (table.full_ptr, table.partial_ptr)
            )
            blocks = [(j, True) for j in table.full_idx[full]]
            blocks += zip(table.partial_idx[partial], bits[table.partial_id[partial]], strict=True)
            for j, block in blocks:
                assert 0 <= j < columns
                i, k = (j, row) if direction == "dkv" else (row, j)
                i, k = i * table.block_q, k * table.block_kv
                assert not out[head, i : i + table.block_q, k : k + table.block_kv].any()
                out[head, i : i + table.block_q, k : k + table.block_kv] = block
    return out[:, :q_len, :N]


def truth(plan):
    return np.stack([plan.to_dense(head) for head in range(HEADS)])


@pytest.mark.parametrize("direction", ["fwd", "dq", "dkv"])
def test_a_stack_holds_every_mask(direction):
    stack = stack_plans(PLANS)
    assert stack.stacked == (len(PLANS),)
    for number, plan in enumerate(PLANS):
        tables = jax.tree.map(lambda leaf, number=number: leaf[number], stack.tables)
        np.testing.assert_array_equal(dense(tables, N, direction), truth(plan))


@pytest.mark.parametrize("direction", ["fwd", "dq", "dkv"])
@pytest.mark.parametrize("shards", [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_a_shard_holds_its_part_of_the_mask(direction, shards):
    for plan in PLANS:
        parts = shard_plan(plan, *shards)
        assert (parts.stacked, parts.heads, parts.q_len) == (
            shards,
            HEADS // shards[0],
            N // shards[1],
        )
        split = truth(plan).reshape(shards[0], parts.heads, shards[1], parts.q_len, N)
        for h, s in np.ndindex(shards):
            tables = jax.tree.map(lambda leaf, at=(h, s): leaf[at], parts.tables)
            np.testing.assert_array_equal(dense(tables, parts.q_len, direction), split[h, :, s])


def test_a_shard_holds_only_the_partial_blocks_that_it_needs():
    plan, whole = plan_of(Causal(), **EQUAL), plan_of(RANDOM, **EQUAL)
    assert shard_plan(plan, 1, 4).tables.fwd.partial_blocks.shape[2] == 1
    assert len(whole.fwd.partial_blocks) == 16
    assert shard_plan(whole, 1, 4).tables.fwd.partial_blocks.shape[2] == 4


def test_what_passes_share_is_held_once():
    """A plan of one block size has one copy of its bits, also cut, stacked or moved to a device."""
    plan = plan_of(RANDOM, **EQUAL)
    cut, stack = shard_plan(plan, 2, 2), stack_plans([plan, plan_of(Causal(), **EQUAL)])
    for traced in (cut, stack, jax.device_put(stack), jax.jit(lambda x: x)(cut)):
        tables = traced.tables
        assert tables.fwd.partial_blocks is tables.dq.partial_blocks is tables.dkv.partial_blocks
        assert tables.fwd.full_idx is tables.dq.full_idx is not tables.dkv.full_idx
        assert traced.nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(traced))
    assert sum(leaf.dtype == np.uint8 for leaf in jax.tree.leaves(stack)) == 1


def test_layers_of_alternating_plans_in_one_scan(draw_qkv):
    """One trace and one loop body; the same as one layer after the other."""
    q, k, v = draw_qkv((1, HEADS, N, 8), (1, 2, N, 8))
    stack = stack_plans(PLANS)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def scanned(q, k, v, stack):
        layer = jax.checkpoint(lambda x, plan: (x + attention(x, k, v, plan), None))
        return (jax.lax.scan(layer, q, stack)[0] ** 2).sum()

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def unrolled(q, k, v):
        for plan in PLANS:
            q += attention(q, k, v, plan)
        return (q**2).sum()

    near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
    jax.tree.map(near, scanned(q, k, v, stack), unrolled(q, k, v))


def test_plans_that_cannot_be_stacked():
    with pytest.raises(ArgumentValueError, match="plans: expected one plan or more, got none"):
        stack_plans([])
    other = compile_mask(Causal(), q_len=N, kv_len=40, heads=HEADS)
    with pytest.raises(ArgumentValueError, match="got kv_len=40 in plan 1, 32 in plan 0"):
        stack_plans([PLANS[0], other])
    with pytest.raises(ArgumentValueError, match=r"expected equal blocks, .* in plan 1, .* plan 0"):
        stack_plans([PLANS[0], plan_of(Prefix(3), block_q=16)])


def test_a_stack_is_no_plan():
    stack = stack_plans(PLANS)
    assert isinstance(stack, TracedPlan)
    assert repr(stack) == "<TracedPlan 4 plans: q_len=32 kv_len=32 heads=4 stacked=[4]>"
    assert repr(stack[0]) == "<TracedPlan 4 plans: q_len=32 kv_len=32 heads=4>"
    q = np.zeros((1, HEADS, N, 8), np.float32)
    with pytest.raises(ArgumentShapeError, match=r"plan: 4 plans is a stack of shape \[4\]; give"):
        attention(q, q, q, stack)
    with pytest.raises(
        ArgumentShapeError, match="plan 4 plans was compiled for 4 heads of 32 quer"
    ):
        attention(q[:, :2], q[:, :2], q[:, :2], stack[0])


def test_plans_are_whatever_load_plan_takes():
    stack = stack_plans([PLANS[0], load_plan(PLANS[3])])
    np.testing.assert_array_equal(stack.tables.head_mask, np.zeros((2, HEADS)))
