import jax.numpy as jnp
import numpy as np

from maskc.compile import compile_mask
from maskc.expr import Causal, Local
from maskc_kernels.xla import backward_dkv, backward_dq, forward
from maskc_kernels.xla.backward import row_gradients


def test_row_gradients_are_safe_where_nothing_was_attended():
    lse = jnp.asarray([[[0.5, -np.inf]]])
    out = jnp.ones((1, 1, 2, 3))
    dout = jnp.asarray([[[[1.0, 2, 3], [np.nan, np.inf, 0]]]])
    rows = row_gradients(out, lse, dout, jnp.asarray([[[0.25, np.nan]]]))
    np.testing.assert_array_equal(rows.lse[0, 0, :, 0], [0.5, np.inf])
    np.testing.assert_array_equal(rows.delta[0, 0, :, 0], [6 - 0.25, 0])
    np.testing.assert_array_equal(rows.dout[0, 0], [[1, 2, 3], [0, 0, 0]])


def test_each_pass_follows_its_own_lists(tables_of, draw_inputs, oracle, near):
    """The lists of the three passes are of different masks: each result shows its own."""
    masks = {"fwd": Causal(), "dq": Local(left=3, right=0), "dkv": Local(left=6, right=0)}
    plans = {
        name: compile_mask(mask, q_len=16, block_q=8, block_kv=8) for name, mask in masks.items()
    }
    q, k, v, dout = draw_inputs(0, 1, 1, 1, 16, 16, 4, 4)
    scale, heads = jnp.float32(0.5), plans["fwd"].head_mask
    tables = {name: getattr(tables_of(plan), name) for name, plan in plans.items()}
    out, lse = forward(q, k, v, scale, heads, tables["fwd"])
    rows = row_gradients(out, lse, jnp.asarray(dout), jnp.zeros_like(lse))
    dq, _ = backward_dq(q, k, v, scale, rows, heads, tables["dq"])
    dk, dv = backward_dkv(q, k, v, scale, rows, heads, tables["dkv"])

    expected = oracle(q, k, v, plans["fwd"].to_dense(), 0.5)
    raw = 0.5 * np.einsum("bhqd,bhkd->bhqk", q.astype(float), k)
    p = np.exp(raw - expected.lse[..., None])
    dp = np.einsum("bhqd,bhkd->bhqk", dout.astype(float), v)
    ds = p * (dp - (dout * expected.out).sum(-1, keepdims=True))
    near(dq, 0.5 * np.where(plans["dq"].to_dense(), ds, 0) @ k, 1e-5, "dq")
    turned = np.where(plans["dkv"].to_dense(), ds, 0).swapaxes(2, 3)
    near(dk, 0.5 * turned @ q, 1e-5, "dk")
    near(dv, np.where(plans["dkv"].to_dense(), p, 0).swapaxes(2, 3) @ dout, 1e-5, "dv")
