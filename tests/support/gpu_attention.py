"""The GPU kernels in Triton's interpreter, under `jax.jit`, next to the dense float64 oracle."""

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np

from maskc.compile import compile_mask
from maskc.expr import MultiHead
from maskc_kernels.gpu import block_sparse_attention, passes
from maskc_kernels.gpu.launch import using

FP32 = 1e-5  # of the scale of the values
RESULTS = ("out", "lse", "dq", "dk", "dv", "dscale", "dsinks", "dbias")


@dataclasses.dataclass(frozen=True)
class Shape:
    q_len: int = 64
    kv_len: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 16
    v_head_dim: int = 16
    blocks: dict = dataclasses.field(default_factory=lambda: {"block_q": 32, "block_kv": 32})
    pattern: tuple = ()  # which mask each head has, if there are several
    batch: int = 1

    def compile(self, *masks):
        mask = MultiHead(tuple(masks[i] for i in self.pattern)) if self.pattern else masks[0]
        return compile_mask(
            mask, q_len=self.q_len, kv_len=self.kv_len, heads=self.heads, **self.blocks
        )

    @property
    def inputs(self):
        return (
            self.batch, self.heads, self.kv_heads, self.q_len, self.kv_len,
            self.head_dim, self.v_head_dim,
        )  # fmt: skip


def bounded(plan, tables):
    """The tables with the plan's row bounds, if it has any."""
    if plan.row_bounds is None:
        return tables
    return tables._replace(q_bounds=plan.row_bounds.q, kv_bounds=plan.row_bounds.kv)


@functools.cache
def compiled(soft_cap, architecture):
    """Output, log-sum-exp and gradients, in the tiles of an architecture."""

    import triton_interpreter

    def run(q, k, v, sm_scale, sinks, bias, dout, dlse, q_ids, kv_ids, tables):
        def attend(q, k, v, sm_scale, sinks, bias):
            return block_sparse_attention(
                q, k, v, sm_scale, tables, q_segment_ids=q_ids, kv_segment_ids=kv_ids,
                logits_soft_cap=soft_cap, sinks=sinks, bias=bias,
            )  # fmt: skip

        with (
            using(triton_interpreter.call),
            mock.patch.object(passes, "architecture", return_value=architecture),
        ):
            (out, lse), pullback = jax.vjp(attend, q, k, v, sm_scale, sinks, bias)
            return out, lse, *pullback((dout, dlse))

    # The kernels are interpreted; of the rest, compiling it costs more than running it.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


class Check:
    """Runs one case and compares it."""

    def __init__(self, oracle, near, draw_inputs):
        self.oracle, self.near, self.draw_inputs = oracle, near, draw_inputs

    def __call__(
        self, shape, plan, tables, seed=0, *, tolerance=FP32, dtype="float32", sm_scale=0.4,
        soft_cap=None, sinks=False, segments=None, magnitude=1, bias=None, architecture=90,
    ):  # fmt: skip
        rng = np.random.default_rng(seed + 1)
        q, k, v, dout = self.draw_inputs(seed, *shape.inputs, dtype=dtype)
        q = (q * magnitude).astype(q.dtype)
        dlse = rng.standard_normal(q.shape[:3]).astype(np.float32)
        sink = rng.standard_normal(shape.heads).astype(np.float32) if sinks else None
        ids = (None, None) if segments is None else segments
        results = compiled(soft_cap, architecture)(
            q, k, v, np.float32(sm_scale), sink, bias, dout, dlse, *ids, tables
        )
        mask = np.stack([plan.to_dense(head) for head in range(shape.heads)])[None]
        if segments is not None:
            same = (ids[0][:, :, None] == ids[1][:, None]) & (ids[0][:, :, None] >= 0)
            mask = mask & same[:, None]
        expected = self.oracle(
            q, k, v, mask, np.float32(sm_scale), dout, np.where(mask.any(-1), dlse, 0),
            soft_cap=soft_cap, sinks=sink, bias=bias,
        )  # fmt: skip
        assert [x.dtype.name for x in results[:5]] == [dtype, "float32", dtype, dtype, dtype]
        for name, result in zip(RESULTS, results, strict=True):
            if result is None:
                continue
            if name == "dbias":
                assert result.dtype == bias.dtype
            # One number that sums terms of both signs can be no nearer than the terms are.
            scale = getattr(expected, f"{name}_terms", 1.0)
            self.near(result, np.asarray(getattr(expected, name)), tolerance, name, scale)


def segment_ids(seed, batch, q_len, kv_len):
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        drawn = rng.integers(-2, 3, (batch, q_len)), rng.integers(-2, 3, (batch, kv_len))
    else:
        drawn = [np.sort(rng.integers(0, 4, (batch, n)), axis=1) for n in (q_len, kv_len)]
        drawn[1][:, kv_len - rng.integers(kv_len) :] = -1
    return [ids.astype(np.int32) for ids in drawn]
