"""The one place where a kernel meets jax-triton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax_triton

from maskc_kernels.gpu.compat import repair_dce_rule

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
        operands: arrays; None for one that the constants leave without use.
        out_type: shapes and dtypes of the outputs.
        programs: how many programs run.
        warps: warps per program.
        stages: stages of the software pipeline.
        constants: by name.
    """

    kernel: Any
    operands: tuple[jax.Array | None, ...]
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
    present = [x is not None for x in what.operands]

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        given = iter(arrays)
        return call(replace(what, operands=tuple(next(given) if x else None for x in present)))

    looped: Callable[..., tuple[jax.Array, ...]]
    looped = jax.custom_batching.sequential_vmap(run)  # type: ignore[no-untyped-call]
    return looped(*(x for x in what.operands if x is not None))


def call(what: Launch) -> tuple[jax.Array, ...]:
    """Hand a launch to jax-triton."""
    repair_dce_rule()
    outputs: tuple[jax.Array, ...] = jax_triton.triton_call(
        *what.operands,
        kernel=what.kernel,
        out_type=what.out_type,
        grid=(what.programs,),
        num_warps=what.warps,
        num_stages=what.stages,
        backend_options=OPTIONS,
        **what.constants,
    )
    return outputs
