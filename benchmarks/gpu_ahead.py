"""Compile a whole attention program, gradient included, for a GPU that is not here.

    pip install 'maskc[gpu]' && pip install --no-deps jax-cuda13-plugin==V jax-cuda13-pjrt==V
    python benchmarks/gpu_ahead.py --device "NVIDIA H100"

V is the version of jaxlib. The program is compiled by XLA's own CUDA compiler and Triton's, to
machine code; the assembler is the one that Triton brings.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = ""
os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import click
import jax
import jax.numpy as jnp
import triton
from jax.experimental import serialize_executable, topologies

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels import AttentionTables, BlockTable
from maskc_kernels.gpu import block_sparse_attention
from maskc_kernels.gpu.offline import device

TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {core} threads_per_core_limit: 2048 core_count: {cores}
  fpus_per_core: {fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {l2}
  clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {optin}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ {capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""
"""XLA's description of a GPU; numbers are those of NVIDIA's data sheets."""

DEVICES: dict[str, dict[str, Any]] = {
    "NVIDIA A100": {
        "core": 167936, "cores": 108, "fpus": 64, "bandwidth": 2_039_000_000_000,
        "l2": 41_943_040, "clock": 1.41, "memory": 85_899_345_920, "optin": 166912,
        "capability": "major: 8", "name": "NVIDIA A100-SXM4-80GB",
    },
    "NVIDIA H100": {
        "core": 233472, "cores": 132, "fpus": 128, "bandwidth": 3_352_320_000_000,
        "l2": 52_428_800, "clock": 1.98, "memory": 84_929_347_584, "optin": 232448,
        "capability": "major: 9 feature_extension: ACCELERATED_FEATURES",
        "name": "NVIDIA H100 80GB HBM3",
    },
}  # fmt: skip


def use_triton_s_assembler(folder: Path) -> None:
    """Lay out what Triton brings as a CUDA toolkit; XLA looks for ptxas there and on PATH."""
    brought = Path(str(triton.__file__)).parent / "backends" / "nvidia"
    for name, source in (
        ("bin/ptxas", "bin/ptxas"),
        ("nvvm/libdevice/libdevice.10.bc", "lib/libdevice.10.bc"),
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).symlink_to(brought / source)
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_cuda_data_dir={folder}"


@click.command()
@click.option("--device", "kind", type=click.Choice(sorted(DEVICES)), default="NVIDIA H100")
@click.option("--length", default=4096, show_default=True)
@click.option("--write", type=click.Path(path_type=Path), help="Where to put the executable.")
def main(kind: str, length: int, write: Path | None) -> None:
    """Trace, lower, compile; print how long it took and what came out."""
    use_triton_s_assembler(Path(tempfile.mkdtemp()))
    plan = compile_mask(Causal(), q_len=length, heads=8, block_q=128, block_kv=128)
    lists = (BlockTable.from_lists(plan.lists(name)) for name in ("fwd", "dq", "dkv"))
    tables = AttentionTables(plan.head_mask, *lists)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out, _ = block_sparse_attention(q, k, v, jnp.float32(0.125), tables)
        return out.astype(jnp.float32).sum()

    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="described",
        target_config=TARGET.format(**DEVICES[kind]),
        topology="1x1x1",
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    q, k = (
        jax.ShapeDtypeStruct((1, heads, length, 64), jnp.bfloat16, sharding=sharding)
        for heads in (8, 2)
    )
    started = time.perf_counter()
    with device(kind):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k).lower(
            lowering_platforms=("cuda",)
        )  # fmt: skip
    compiling = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    payload, _, _ = serialize_executable.serialize(program)
    print(
        f"{kind}: lowered in {compiling - started:.1f} s, compiled in {done - compiling:.1f} s, "
        f"{len(payload):,} bytes, temporaries of "
        f"{program.memory_analysis().temp_size_in_bytes:,} bytes"
    )
    if write:
        write.write_bytes(payload)


if __name__ == "__main__":
    main()
