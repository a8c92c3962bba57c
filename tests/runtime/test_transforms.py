"""What JAX's transformations may do with attention: checkpoint policies, export."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal, Local
from maskc_runtime import PlanView, attention, stack_plans

HEADS, N = 4, 24
PLAN = PlanView.from_plan(compile_mask(Causal(), q_len=N, heads=HEADS, block_q=8, block_kv=8))
IDS = np.repeat(np.arange(3), 8).astype(np.int32)


@pytest.fixture
def qkv(draw_qkv):
    return draw_qkv((2, HEADS, N, 8), (2, 2, N, 8))


def near(actual, expected):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, actual, expected)


def loss(wrap, q, k, v):
    attend = wrap(lambda q, k, v: attention(q, k, v, PLAN, segment_ids=IDS))
    return (jnp.sin(attend(q * 2, k, v)) ** 2).sum()


POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "everything": jax.checkpoint_policies.everything_saveable,
}


@pytest.mark.parametrize("policy", ["nothing", "dots"])
def test_checkpoint_policies_give_the_same(qkv, policy):
    wrap = functools.partial(jax.checkpoint, policy=POLICIES[policy])
    grads = [
        jax.jit(jax.grad(functools.partial(loss, w), (0, 1, 2)))(*qkv) for w in (wrap, lambda f: f)
    ]
    near(*grads)


def forward_passes(wrap, qkv):
    """How many times the program walks the forward lists."""
    jaxpr = str(jax.make_jaxpr(jax.grad(functools.partial(loss, wrap), (0, 1, 2)))(*qkv))
    return jaxpr.count("name=forward")


def test_a_policy_decides_whether_the_forward_pass_runs_again(qkv):
    """With everything saved it runs once; with nothing saved once more in the backward pass."""
    again, saved = (
        forward_passes(functools.partial(jax.checkpoint, policy=POLICIES[name]), qkv)
        for name in ("nothing", "everything")
    )
    assert saved == forward_passes(lambda f: f, qkv) == 1
    assert again == 2


@pytest.mark.parametrize("form", ["closure", "argument", "stack"])
def test_an_exported_program(qkv, form):
    """A program with its gradient, written and read."""
    other = compile_mask(Local(3, 0), q_len=N, heads=HEADS, block_q=8, block_kv=8)
    plan = stack_plans([other, PLAN]) if form == "stack" else PLAN

    def run(q, k, v, given):
        own = PLAN if form == "closure" else given[1] if form == "stack" else given
        attend = lambda q: (attention(q, k, v, own) ** 2).sum()  # noqa: E731
        return jax.value_and_grad(attend)(q)

    arguments = (*qkv, None if form == "closure" else plan)
    exported = jax.export.export(jax.jit(run))(*arguments)
    near(jax.export.deserialize(exported.serialize()).call(*arguments), run(*arguments))


def test_jit_with_the_options_traced_compiles_once(qkv):
    traces = []

    @jax.jit
    def run(q, k, v, ids, sinks, bias, scale):
        traces.append(1)
        return attention(q, k, v, PLAN, segment_ids=ids, sinks=sinks, bias=bias, sm_scale=scale)

    for shift in range(2):
        ids, sinks = np.roll(IDS, shift), jnp.full(HEADS, shift, jnp.float32)
        bias = jnp.full((1, HEADS, 1, N), shift, jnp.float32)
        scale = jnp.float32(0.3 + shift)
        expected = attention(*qkv, PLAN, segment_ids=ids, sinks=sinks, bias=bias, sm_scale=scale)
        near(run(*qkv, ids, sinks, bias, scale), expected)
    assert len(traces) == 1
