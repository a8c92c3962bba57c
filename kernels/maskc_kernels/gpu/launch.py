"""The one place where a kernel meets jax-triton, and the machine that it is compiled for."""

from __future__ import annotations

from typing import Any

import jax
import jax_triton

from maskc_kernels.gpu.compat import repair_dce_rule

__all__ = ["architecture", "launch"]

_OPTIONS = {
    "enable_fp_fusion": True,  # a default that Triton is about to turn off; exp2 needs it
    "ptx_version": 88,  # what CUDA 12.9's assembler reads; Triton 3.9 would write 9.4
}


def launch(
    kernel: Any,
    operands: tuple[jax.Array | None, ...],
    out_type: tuple[jax.ShapeDtypeStruct, ...],
    *,
    programs: int,
    warps: int,
    stages: int,
    constants: dict[str, Any],
) -> tuple[jax.Array, ...]:
    """Add a kernel to the program that is being traced.

    Args:
        kernel: under `triton.jit`; its parameters are the operands, the outputs, the constants.
        operands: arrays; None for one that the constants leave without use.
        out_type: shapes and dtypes of the outputs.
        programs: how many programs run.
        warps: warps per program.
        stages: stages of the software pipeline.
        constants: by name.
    """
    repair_dce_rule()
    outputs: tuple[jax.Array, ...] = jax_triton.triton_call(
        *operands,
        kernel=kernel,
        out_type=out_type,
        grid=(programs,),
        num_warps=warps,
        num_stages=stages,
        backend_options=_OPTIONS,
        **constants,
    )
    return outputs


def architecture() -> int:
    """Compute capability times 10 of the GPU that is compiled for, as jax-triton decides it.

    That is the first GPU here, else the device of the abstract mesh in use. Without either, the
    newest architecture of the tile table: such a program can be traced but not compiled.
    """
    try:
        return round(10 * float(jax.devices("cuda")[0].compute_capability))
    except RuntimeError:  # no such platform
        pass
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = "" if device is None else device.device_kind
    return next((number for name, number in _KINDS.items() if name in kind), 90)


_KINDS = {"A100": 80, "A30": 80, "H100": 90, "H200": 90, "GH200": 90, "B200": 100, "B300": 103}
"""Parts of the device kinds that a program is likely to be compiled for elsewhere."""
