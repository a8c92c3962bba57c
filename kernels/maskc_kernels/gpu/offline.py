"""What a kernel compiles to, read without a GPU: registers, spills, and the length of its loops.

Instruction counts are static and say nothing of latencies; they compare kernels of one style.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import triton
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maskc_kernels.gpu.launch import OPTIONS, using

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maskc_kernels.gpu.launch import Launch

__all__ = ["Report", "compile_offline", "device", "launches", "loops"]

DEVICES = {80: "NVIDIA A100", 90: "NVIDIA H100", 100: "NVIDIA B200"}
"""A device of each architecture, by name."""

TENSOR_CORE = ("HGMMA", "HMMA", "UTCHMMA")
"""Opcodes that multiply matrices: on sm_90, on sm_80, on sm_100."""

_TYPES = {
    "bfloat16": "bf16", "float16": "fp16", "float32": "fp32",
    "int8": "i8", "int16": "i16", "int32": "i32", "uint32": "u32",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """One compiled kernel.

    Attributes:
        registers: per thread.
        spills: bytes stored to and loaded from local memory because registers ran out.
        spills_in_loops: instructions that do so in the loops below.
        stack: bytes of local memory per thread.
        shared: bytes of shared memory per program.
        loops: instructions of the innermost loops that multiply matrices, in program order.
        tensor_core: matrix instructions in those loops.
        warnings: what the assembler had to say.
    """

    registers: int
    spills: int
    spills_in_loops: int
    stack: int
    shared: int
    loops: tuple[int, ...]
    tensor_core: int
    warnings: tuple[str, ...]


def device(kind: str) -> contextlib.AbstractContextManager[Any]:
    """A context in which programs are traced for a device that need not be here.

    Args:
        kind: as JAX names it, such as "NVIDIA H100".
    """
    described = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=described)
    context: contextlib.AbstractContextManager[Any] = jax.sharding.use_abstract_mesh(mesh)
    return context


def launches(architecture: int, function: Callable[..., Any], *shapes: Any) -> dict[str, Launch]:
    """The kernels that a function launches, by name: "fwd", "dq", "dkv", "dbias".

    Args:
        architecture: one of `DEVICES`.
        function: is traced, not run.
        shapes: of its arguments, as `jax.eval_shape` takes them.
    """
    found: dict[str, Launch] = {}

    def take(what: Launch) -> tuple[jax.Array, ...]:
        name = what.kernel.fn.__name__.removesuffix("_kernel")
        found["fwd" if name == "forward" else name] = what
        return tuple(jnp.zeros(x.shape, x.dtype) for x in what.out_type)

    with using(take), device(DEVICES[architecture]):
        jax.eval_shape(functools.partial(function), *shapes)  # a new function is not cached
    return found


def compile_offline(launch: Launch, architecture: int) -> Report:
    """Compile one launch as jax-triton would, and read the machine code.

    Args:
        launch: what `launch` was called with.
        architecture: compute capability times 10: 80, 90, ...
    """
    kernel = launch.kernel
    arrays: list[jax.Array | jax.ShapeDtypeStruct] = [*launch.operands, *launch.out_type]
    names = [name for name in kernel.arg_names if name not in launch.constants]
    types = dict(zip(names, map(_pointer, arrays), strict=True))
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    places = {name: (index,) for index, name in enumerate(signature)}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={places[name]: value for name, value in launch.constants.items()},
        attrs={
            places[name]: [["tt.divisibility", 16]]
            for name, kind in signature.items()
            if kind != "constexpr"
        },
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages, **OPTIONS}
    log = io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope():
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True  # a cached kernel has no log
        with contextlib.redirect_stdout(log):
            compiled = triton.compile(
                source, target=GPUTarget("cuda", architecture, 32), options=options
            )
    return _report(log.getvalue(), compiled.metadata.shared, _sass(compiled.asm["cubin"]))


def _pointer(array: jax.Array | jax.ShapeDtypeStruct) -> str:
    return f"*{_TYPES[array.dtype.name]}"


def _report(log: str, shared: int, sass: Sequence[str]) -> Report:
    def number(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, log)))

    bodies = loops(sass)
    return Report(
        registers=number(r"Used (\d+) registers"),
        spills=number(r"(\d+) bytes spill"),
        spills_in_loops=sum(line.startswith(("LDL", "STL")) for body in bodies for line in body),
        stack=number(r"(\d+) bytes stack frame"),
        shared=shared,
        loops=tuple(len(body) for body in bodies),
        tensor_core=sum(line.startswith(TENSOR_CORE) for body in bodies for line in body),
        warnings=tuple(line for line in log.splitlines() if "C75" in line or "warning" in line),
    )


def _sass(cubin: bytes) -> list[str]:
    """Instructions without predicates; a label stands on a line of its own, ending in a colon."""
    tools = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        done = subprocess.run(  # noqa: S603  # a tool of the package, on our own file
            [tools / "nvdisasm", "-c", path], capture_output=True, text=True, check=True
        )
    lines = []
    for line in done.stdout.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            lines.append(f"{label[1]}:")
        elif code := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?(.*?);", line):
            lines.append(code[1].strip())
    return lines


def loops(sass: Sequence[str]) -> list[list[str]]:
    """The innermost loops that multiply matrices, on tensor cores if any loop does.

    A loop is what lies between a label and a later branch back to it.
    """
    labels = {line[:-1]: index for index, line in enumerate(sass) if line.endswith(":")}
    spans = []
    for index, line in enumerate(sass):
        target = re.search(r"\.L_x_\d+", line)
        if line.startswith("BRA") and target and labels.get(target[0], index) < index:
            spans.append((labels[target[0]], index))
    bodies = [
        [line for line in sass[start : stop + 1] if not line.endswith(":")]
        for start, stop in spans
        if not any(start <= a and b <= stop and (a, b) != (start, stop) for a, b in spans)
    ]
    matrix = [body for body in bodies if any(line.startswith(TENSOR_CORE) for line in body)]
    return matrix or [body for body in bodies if any(line.startswith("FFMA") for line in body)]
