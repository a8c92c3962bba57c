import jax.numpy as jnp
import numpy as np

from maskc.compile import compile_mask
from maskc.expr import Causal, Full, MultiHead
from maskc_kernels.xla import forward


def test_scores_far_beyond_the_range_of_exp_stay_exact(tables_of, draw_inputs, near):
    plan = compile_mask(Causal(), q_len=16, block_q=8, block_kv=4)
    tables = tables_of(plan)
    q, k, v, _ = draw_inputs(0, 1, 1, 1, 16, 16, 4, 4)
    out, lse = forward(q, k, v, jnp.float32(1e4), tables.head_mask, tables.fwd)
    scores = np.einsum("qd,kd->qk", q[0, 0].astype(float), k[0, 0].astype(float)) * 1e4
    scores[~plan.to_dense()] = -np.inf
    near(lse[0, 0], scores.max(-1), 1e-6)  # one key takes all the weight
    near(out[0, 0], v[0, 0, scores.argmax(-1)].astype(float), 1e-5)


def test_heads_pick_their_mask_by_number(tables_of, draw_inputs):
    q, k, v, _ = draw_inputs(0, 1, 1, 1, 16, 16, 4, 4)
    q = np.repeat(q, 3, 1)
    plan = compile_mask(MultiHead((Causal(), Full(), Causal())), q_len=16, block_q=8, block_kv=8)
    tables = tables_of(plan)
    out, _ = forward(q, k, v, jnp.float32(1), tables.head_mask, tables.fwd)
    np.testing.assert_array_equal(out[:, 0], out[:, 2])
    assert not np.allclose(out[:, 0], out[:, 1])
