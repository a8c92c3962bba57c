"""Compile attention ahead of time for a TPU that is not there; a process of its own per topology.

    python tpu_compile.py TOPOLOGY < cases.json

Reads a list of cases (see `Case`), prints one line of JSON per case: size of the program's text, a
digest of it without its kernels and with all numbers alike, and for every kernel the bytes of VMEM
and SMEM that it allocates.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration: a causal plan and shapes."""

    name: str
    length: int = 4096
    block_q: int = 512
    block_kv: int = 512
    batch: int = 1
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 128
    v_head_dim: int = 128
    dtype: str = "bfloat16"
    soft_cap: float | None = None
    sinks: bool = False
    masks: int = 1
    segments: bool = False
    row_bounds: bool = False
    backward: tuple[str, ...] = ("fused", "apart")  # ways to gradients, all in one program
    compile: bool = True
    sparse_core: bool = True  # let XLA give scatters to the sparse core


def main(topology, cases):
    with tempfile.TemporaryDirectory(prefix="tpu_compile_") as dump:
        compile_all(topology, cases, Path(dump))


def compile_all(topology, cases, dump):
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "JAX_PLATFORMS": "cpu",
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=.*original.*",
    }
    from jax.experimental import topologies

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    for case in cases:
        result = {"name": case.name} | compiled(case, device, dump)
        sys.stdout.write(f"RESULT {json.dumps(result)}\n")


def compiled(case, device, dump):
    """Lower and compile one case."""
    import jax

    function, args = program(case)
    place = jax.sharding.SingleDeviceSharding(device)
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)
    # Lowering rules that ask for the TPU's generation look at the mesh.
    kind = jax.sharding.AbstractDevice(device.device_kind, device.num_cores, device.platform)
    mesh = jax.sharding.AbstractMesh((1,), ("_",), abstract_device=kind)
    for path in dump.iterdir():
        path.unlink()
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",))
    if case.compile:
        offload = "xla_tpu_enable_offloading_scatter_to_sparsecore"
        lowered.compile(None if case.sparse_core else {offload: False})
    # The mesh writes a line of its own after every operation, and where every argument is; without
    # it, they are not there.
    placed = re.sub(
        r" \{sdy\.sharding = #sdy\.sharding<@empty_mesh, \[[^\]]*\]>\}", "", lowered.as_text()
    )
    lines = [line for line in placed.splitlines() if "sdy.sharding_constraint" not in line]
    frame = re.sub(r"\d+", "0", "\n".join(line for line in lines if "tpu_custom_call" not in line))
    return {
        "text": len("\n".join(lines)),
        "frame": hashlib.sha256(frame.encode()).hexdigest(),
        "kernels": allocations(dump),
    }


def program(case):
    """Attention under a causal plan, with gradients if any, and arguments to trace it with."""
    import jax
    import jax.numpy as jnp

    from maskc.compile import compile_mask
    from maskc.expr import Causal, Full, MultiHead
    from maskc_kernels import AttentionTables, BlockTable
    from maskc_kernels.tpu import KernelConfig, block_sparse_attention

    mask = Causal() if case.masks == 1 else MultiHead((Causal(), Full()) * (case.heads // 2))
    plan = compile_mask(
        mask, q_len=case.length, heads=case.heads, block_q=case.block_q, block_kv=case.block_kv,
        row_bounds=case.row_bounds,
    )  # fmt: skip
    lists = (plan.fwd, plan.dq, plan.dkv)
    bounds = (plan.row_bounds.q, plan.row_bounds.kv) if case.row_bounds else ()
    tables = AttentionTables(plan.head_mask, *map(BlockTable.from_lists, lists), *bounds)

    def array(heads, dim, dtype=case.dtype):
        return jax.ShapeDtypeStruct((case.batch, heads, case.length, dim), jnp.dtype(dtype))

    q, k = array(case.heads, case.head_dim), array(case.kv_heads, case.head_dim)
    v, dout = array(case.kv_heads, case.v_head_dim), array(case.heads, case.v_head_dim)
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    sinks = jax.ShapeDtypeStruct((case.heads,), jnp.float32) if case.sinks else None

    ids = (jax.ShapeDtypeStruct((case.batch, case.length), jnp.int32),) * 2 if case.segments else ()

    def attention(q, k, v, scale, sinks, tables, ids, fused=None):
        q_ids, kv_ids = ids or (None, None)
        return block_sparse_attention(
            q, k, v, scale, tables, logits_soft_cap=case.soft_cap, sinks=sinks,
            q_segment_ids=q_ids, kv_segment_ids=kv_ids, config=KernelConfig(fused_backward=fused),
        )  # fmt: skip

    def gradients(q, k, v, scale, sinks, tables, ids, dout):
        found = []
        for way in case.backward:  # the lines of both are the same, and so is their forward kernel
            forward = functools.partial(attention, tables=tables, ids=ids, fused=way == "fused")
            _, pull = jax.vjp(forward, q, k, v, scale, sinks)
            found.append(pull((dout, jnp.zeros(dout.shape[:3], jnp.float32))))
        return found

    args = (q, k, v, scale, sinks, tables, ids)
    return (gradients, (*args, dout)) if case.backward else (attention, args)


def allocations(dump):
    """Bytes per memory of every kernel, from the compiler's first dump of it."""
    found = {}
    for path in dump.glob("*maskc_*-original.txt"):
        kernel = re.search(r"(maskc_\w+?)_*(?:\.\d+)?-\d+-original", path.name)[1]
        pattern = r"#allocation\d+ \[shape = '[^']*', space=(\w+), size = (0x[0-9a-f]+)"
        sizes = {"vmem": 0, "smem": 0}
        for space, size in re.findall(pattern, path.read_text()):
            if space in sizes:
                sizes[space] += int(size, 16)
        found[kernel] = sizes
    return found


if __name__ == "__main__":
    main(sys.argv[1], [Case(**case) for case in json.load(sys.stdin)])
