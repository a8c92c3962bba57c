"""What a `MaskInfo` costs: packed documents made causal, and segment ids out of a dense mask.

    python benchmarks/mask_info.py --lengths 8192,16384,32768 --dense-lengths 2048,4096
    python benchmarks/mask_info.py --ejkernel PYTHON   # another Python, which has ejkernel

Every row is a process of its own: the fastest of some repeats, the first call, which imports and
compiles what it needs, and by how much the process grew at its peak.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import click
import jax
from tabulate import tabulate

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, resource, sys, time
import jax, jax.numpy as jnp, numpy as np
{imports}
length, repeats = int(sys.argv[1]), int(sys.argv[2])
ids = np.repeat(np.arange(16), -(-length // 16))[None, :length]
{prepare}
def run():
{body}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, times = peak(), []
for _ in range(1 + repeats):
    started = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - started)
print(json.dumps([times[0], min(times[1:]), peak() - before]))
"""

OURS = "from maskc_runtime import MaskInfo, mask_to_segment_ids"
THEIRS = "from ejkernel.types.mask import MaskInfo, mask_to_segment_ids"
PACKED = "    info = MaskInfo.from_segments(jnp.asarray(ids)).apply_causal()\n"
DENSE = "mask = jnp.asarray(ids[0][:, None] == ids[0][None, :])[None]"

CASES = [
    # name, system, of long lengths or of dense ones, imports, prepare, body
    ("segments, causal", "maskc", 1, OURS, "", PACKED + "    return info.q_segment_ids"),
    ("the same, plan", "maskc", 1, OURS, "", PACKED + "    return info.plan(heads=8) and None"),
    ("segments, causal", "ejkernel", 1, THEIRS, "", PACKED + "    return info.attention_mask"),
    ("ids of a mask", "maskc", 0, OURS, DENSE, "    return mask_to_segment_ids(mask)"),
    (
        "ids of a mask",
        "ejkernel",
        0,
        THEIRS,
        DENSE + "\nfind = jax.jit(mask_to_segment_ids)",
        "    return find(mask)",
    ),
]


def measure(
    python: str, imports: str, prepare: str, body: str, length: int, repeats: int
) -> tuple[float, float, float]:
    """Seconds of the first call, of the fastest one, and bytes by which the process grew."""
    program = PROGRAM.format(imports=imports, prepare=prepare, body=body)
    folders = [str(ROOT / name) for name in ("maskc", "runtime", "kernels", "cache")]
    done = subprocess.run(
        [python, "-c", program, str(length), str(repeats)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(done.stderr)
    first, fastest, grown = json.loads(done.stdout.splitlines()[-1])
    return first, fastest, grown


@click.command()
@click.option("--lengths", default="8192,16384,32768", show_default=True, help="Packed tokens.")
@click.option("--dense-lengths", default="2048,4096", show_default=True, help="Of dense masks.")
@click.option("--repeats", default=3, show_default=True, help="The fastest counts.")
@click.option("--ejkernel", help="A Python that has ejkernel, to measure it too.")
def main(lengths: str, dense_lengths: str, repeats: int, ejkernel: str | None) -> None:
    """Measure and print one table."""
    print(f"$ python {shlex.join([sys.argv[0], *sys.argv[1:]])}")
    print(
        f"{platform.machine()} cpu, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, jax {jax.__version__}\n"
    )
    rows = []
    for name, system, packed, imports, prepare, body in CASES:
        python = sys.executable if system == "maskc" else ejkernel
        for length in map(int, (lengths if packed else dense_lengths).split(",")):
            if python is not None:
                found = measure(python, imports, prepare, body, length, repeats)
                rows.append((name, length, system, found[0], found[1], found[2] / 1e6))
    rows.sort(key=lambda row: [case[0] for case in CASES].index(row[0]))
    headers = ["what", "tokens", "system", "first s", "fastest s", "grown MB"]
    formats = ("", ",", "", ".3f", ".4f", ",.0f")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=formats, intfmt=","))


if __name__ == "__main__":
    main()
