"""Foreign kernels over our tables give the oracle's numbers, forward and backward."""

import importlib.util

import jax
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.export.tokamax import mask_info
from maskc.expr import Causal, Documents, Full, Local, MultiHead, Prefix
from maskc_kernels.tpu.splash import splash_kernel, tokamax_kernel

LENGTH, HEADS, DIM = 384, 2, 128
MASKS = {
    "documents": Documents((0, 100, 300, 384)) & Causal(),
    "window or prefix": Local(left=90, right=0) | Prefix(64),
    "full": Full(),
    "two masks": MultiHead((Causal(), Local(left=130, right=60))),
}


def compile_plan(name, **more):
    return compile_mask(MASKS[name], q_len=LENGTH, heads=HEADS, block_q=128, block_kv=128, **more)


@pytest.fixture
def check(oracle, near, draw_inputs):
    def against_oracle(kernel, plan):
        q, k, v, dout = draw_inputs(0, 1, HEADS, HEADS, LENGTH, LENGTH, DIM, DIM)
        scale = np.float32(DIM**-0.5)
        run = jax.jit(lambda q, k, v: kernel(q * scale, k, v))
        out, pull = jax.vjp(run, q[0], k[0], v[0])
        results = (out, *pull(dout[0]))
        mask = np.stack([plan.to_dense(head) for head in range(HEADS)])
        expected = oracle(q, k, v, mask, scale, dout)
        for name, result in zip(("out", "dq", "dk", "dv"), results, strict=True):
            near(result, getattr(expected, name)[0], 1e-5, name)

    return against_oracle


@pytest.mark.parametrize("name", ["documents", "full", "two masks"])
def test_jax_splash_runs_our_tables(name, check):
    plan = compile_plan(name)
    check(splash_kernel(plan, interpret=True), plan)


def test_blocks_of_dq_must_be_those_of_the_forward_pass():
    plan = compile_plan("full", block_q_dq=384)
    with pytest.raises(ValueError, match="must be equal; got 384 x 128 and 128 x 128"):
        splash_kernel(plan)


@pytest.mark.skipif(
    importlib.util.find_spec("tokamax") is None, reason="tokamax is not installed (Python >= 3.12)"
)
def test_tokamax_runs_our_tables(check):
    plan = compile_plan("window or prefix")
    tables = mask_info(plan, "fwd"), mask_info(plan, "dkv", dynamic_grid=False)
    check(tokamax_kernel(plan, *tables, interpret=True), plan)
