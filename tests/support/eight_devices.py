"""Attention over meshes of eight forced host devices; prints what each check found, as JSON.

A process of its own, because the number of devices is fixed when JAX starts.
"""

import functools
import json
import os
import traceback

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # each program runs once

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from maskc import expr
from maskc.compile import compile_mask
from maskc_kernels.tpu import KernelConfig
from maskc_runtime import (
    SegmentIds,
    attention,
    blocksparse_attention,
    shard_plan,
    sharded_attention,
)

BATCH, HEADS, N = 2, 4, 32
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def qkv(kv_heads):
    return (
        draw(BATCH, HEADS, N, 8),
        draw(BATCH, kv_heads, N, 8, seed=1),
        draw(BATCH, kv_heads, N, 6, seed=2),
    )


def plan_of(mask):
    return compile_mask(mask, q_len=N, heads=HEADS, block_q=8, block_kv=8, block_kv_dkv=16)


ONE = plan_of(expr.Local(9, 2) | expr.Prefix(3))
MANY = plan_of(
    expr.MultiHead(
        [expr.Causal(), expr.Full(), expr.Random(0.5), expr.Local(5, 0) & expr.Chunked(11)]
    )
)
IDS = SegmentIds(np.arange(N)[None] * [[3], [2]] // N, np.arange(N)[None] * [[3], [2]] // N)
SMALL = {"fwd_params": {"q_blocksize": 8, "kv_blocksize": 8}}
OPTIONS = {
    "segment_ids": IDS,
    "logits_soft_cap": 2.0,
    "sinks": draw(HEADS, seed=3),
    "bias": draw(1, HEADS, N, N, seed=4),
}


def mesh_of(*axes, kind=AxisType.Auto):
    sizes, names = zip(*axes, strict=True)
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(names), devices=devices)


def results(attend, arrays, *rest):
    """Jitted: output, log-sum-exp and gradients, of a loss that weighs every output differently."""
    weights = draw(BATCH, HEADS, N, 6, seed=5), draw(BATCH, HEADS, N, seed=6)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(arrays, *rest):
        out, lse = attend(arrays, *rest)
        finite = jax.numpy.where(lse == -np.inf, 0, lse)
        return (out * weights[0]).sum() + (finite * weights[1]).sum(), (out, lse)

    return run(arrays, *rest)


def close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected
    )


def attend(arrays, plan, function=attention, **options):
    q, k, v, *extra = arrays
    named = dict(zip(("sinks", "bias"), extra, strict=False))
    return function(q, k, v, plan, **options, **named, return_lse=True)


@functools.cache
def alone(number, kv_heads, *, options=False):
    """On one device."""
    given = dict(OPTIONS) if options else {}
    arrays = (*qkv(kv_heads), *(given.pop(name) for name in ("sinks", "bias") if name in given))
    return arrays, given, results(lambda a: attend(a, (ONE, MANY)[number], **given), arrays)


def over(mesh, number, kv_heads, *, options=False, **axes):
    arrays, given, expected = alone(number, kv_heads, options=options)
    function = functools.partial(sharded_attention, mesh=mesh, **axes)
    run = lambda a: attend(a, (ONE, MANY)[number], function, **given)  # noqa: E731
    close(results(run, arrays), expected)


@check
def batch_heads_and_queries():
    mesh = mesh_of((2, "data"), (2, "model"), (2, "sequence"))
    axes = {"batch_axis": "data", "head_axis": "model", "q_seq_axis": "sequence"}
    over(mesh, 1, 2, options=True, **axes)


@check
def two_axes_for_the_queries_on_a_mesh_of_explicit_axes():
    mesh = mesh_of((1, "a"), (2, "b"), (2, "c"), kind=AxisType.Explicit)
    over(mesh, 0, 2, batch_axis="a", q_seq_axis=("b", "c"))


@check
def fewer_kv_heads_than_devices():
    over(mesh_of((4, "model"), (2, "data")), 1, 2, head_axis="model", batch_axis="data")


@check
def arrays_that_lie_split_already():
    """The results are split like q, and the compiled program gathers no queries."""
    mesh = mesh_of((2, "data"), (2, "sequence"))
    axes = {"batch_axis": "data", "q_seq_axis": "sequence"}
    spec = NamedSharding(mesh, P("data", None, "sequence"))
    q, k, v = qkv(2)
    q = jax.device_put(q, spec)
    k, v = (jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (k, v))
    run = jax.jit(lambda q, k, v: sharded_attention(q, k, v, ONE, mesh, **axes)).lower(q, k, v)
    program = run.compile()
    assert program(q, k, v).sharding.is_equivalent_to(spec, 4)
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in program.as_text(), word


@check
def shards_as_an_argument():
    """A plan that was cut beforehand, with its tables on the devices that use them."""
    mesh = mesh_of((2, "model"), (2, "sequence"))
    axes = {"head_axis": "model", "q_seq_axis": "sequence"}
    arrays, _, expected = alone(1, 2)
    shards = jax.device_put(shard_plan(MANY, 2, 2), NamedSharding(mesh, P("model", "sequence")))
    run = functools.partial(
        attend, function=functools.partial(sharded_attention, mesh=mesh, **axes)
    )
    close(results(run, arrays, shards), expected)


@check
def inside_a_users_shard_map():
    """With JAX's check of what varies over which axes, gradients of what does not included."""
    mesh = mesh_of((2, "data"), (2, "sequence"))
    arrays, _, expected = alone(0, 2)
    rows, split = P("data"), P("data", None, "sequence")
    local = lambda q, k, v, plan: attention(q, k, v, plan[0, 0], return_lse=True)  # noqa: E731
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(split, rows, rows, P(None, "sequence")),
        out_specs=(split, split),
    )
    close(results(lambda a, plan: mapped(*a, plan), arrays, shard_plan(ONE, 1, 2)), expected)


def sequence_parallel(arguments, specs, blocks=SMALL, **static):
    mesh = mesh_of((4, "sp"))
    split = P(None, None, "sp")

    def local(q, k, v, given):
        return blocksparse_attention(
            q, k, v, **given, **static, **blocks, return_lse=True,
            sequence_parallelism_mesh_axis_name="sp",
        )  # fmt: skip

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(split, split, split, specs), out_specs=(split, split)
    )
    whole = functools.partial(
        blocksparse_attention, **arguments, **static, **blocks, return_lse=True
    )
    arrays = qkv(2)
    close(results(lambda a: mapped(*a, arguments), arrays), results(lambda a: whole(*a), arrays))


@check
def a_sequence_axis_and_rules():
    ids = {"q_segment_ids": IDS.q, "kv_segment_ids": IDS.kv}
    sequence_parallel(ids, dict.fromkeys(ids, P(None, "sp")), sliding_window=(6, 0))


@check
def a_sequence_axis_and_zig_zag_positions():
    order = np.arange(N).reshape(8, -1)[[0, 7, 1, 6, 2, 5, 3, 4]].reshape(1, -1)
    arguments = {"q_positions": order, "kv_positions": order}
    sequence_parallel(arguments, dict.fromkeys(arguments, P(None, "sp")), chunk_size=20)


@check
def a_sequence_axis_and_a_builder():
    sequence_parallel({}, {}, blocks={}, mask_builder=lambda: expr.Local(7, 1) | expr.Prefix(2))


@check
def a_sequence_axis_on_the_tpu_kernels():
    """Whole blocks of 128 queries on each of two devices, in the order of a zig-zag."""
    length, split = 256, P(None, None, "sp")
    shapes = (1, 2, length, 8), (1, 1, length, 8), (1, 1, length, 8)
    arrays = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    order = np.arange(length).reshape(4, -1)[[0, 3, 1, 2]].reshape(1, -1)

    def attend(q, k, v, order, **options):
        positions = {"q_positions": order, "kv_positions": order}
        return blocksparse_attention(q, k, v, **positions, sliding_window=(70, 0), **options)

    kernels = {"backend": "tpu", "config": KernelConfig(interpret=True)}
    mapped = jax.shard_map(
        functools.partial(attend, sequence_parallelism_mesh_axis_name="sp", **kernels),
        mesh=mesh_of((2, "sp")),
        in_specs=(split, split, split, P(None, "sp")),
        out_specs=split,
        check_vma=False,  # JAX's TPU kernels do not say over which axes they vary
    )
    close(jax.jit(mapped)(*arrays, order), attend(*arrays, order))


def main():
    found = {}
    for name, function in CHECKS.items():
        try:
            function()
            found[name] = "passed"
        except Exception:  # every check is to have its say
            found[name] = traceback.format_exc(limit=-6)
    print(json.dumps(found))  # noqa: T201  # its only output


if __name__ == "__main__":
    main()
