"""The one place where a kernel meets jax-triton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from maskc_kernels.gpu.target import architecture

__all__ = ["OPTIONS", "Launch", "call", "launch", "shaped"]

OPTIONS = {
    "enable_fp_fusion": True,  # a default that Triton is about to turn off; exp2 needs it
    "ptx_version": 88,  # what CUDA 12.9's assembler reads; Triton 3.9 would write 9.4
}


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel and all that it is launched with.

    Attributes:
        kernel: under `triton.jit`; its parameters are the operands, the outputs, the constants.
        operands: arrays.
        out_type: shapes and dtypes of the outputs.
        programs: how many programs run.
        warps: warps per program.
        stages: stages of the software pipeline.
        constants: by name.
    """

    kernel: Any
    operands: tuple[jax.Array, ...]
    out_type: tuple[jax.ShapeDtypeStruct, ...]
    programs: int
    warps: int
    stages: int
    constants: dict[str, Any]


def shaped(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    """What an output looks like."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def launch(what: Launch) -> tuple[jax.Array, ...]:
    """Add a kernel to the program that is being traced; returns its outputs.

    Under `vmap` it becomes a loop of launches.
    """

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return call(replace(what, operands=arrays))

    looped: Callable[..., tuple[jax.Array, ...]]
    looped = jax.custom_batching.sequential_vmap(run)  # type: ignore[no-untyped-call]
    return looped(*what.operands)


def call(what: Launch) -> tuple[jax.Array, ...]:
    """Hand a launch to jax-triton."""
    from maskc_kernels.gpu.compat import triton_call

    return triton_call(
        *what.operands,
        kernel=what.kernel,
        out_type=what.out_type,
        grid=(what.programs,),
        num_warps=what.warps,
        num_stages=what.stages,
        compute_capability=architecture(),
        backend_options=OPTIONS,
        **what.constants,
    )
