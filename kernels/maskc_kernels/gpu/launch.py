"""The one place where a kernel meets jax-triton."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, TypeAlias

import jax

from maskc_kernels.errors import KernelUnavailableError
from maskc_kernels.gpu.target import architecture, installed

__all__ = ["OPTIONS", "Launch", "launch", "shaped", "using"]


def _options() -> dict[str, Any]:
    # A default that Triton is about to turn off; exp2 needs it.
    options: dict[str, Any] = {"enable_fp_fusion": True}
    major, minor = metadata.version("triton").split(".")[:2] if installed() else ("0", "0")
    if (int(major), int(minor)) >= (3, 8):
        options["ptx_version"] = 88  # what CUDA 12.9's assembler reads; 3.9 would write 9.4
    return options


OPTIONS = _options()
"""Of the compiler, for every kernel."""


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


Launcher: TypeAlias = Callable[[Launch], tuple[jax.Array, ...]]
"""Runs a launch, or adds it to the program that is being traced; returns its outputs."""


def _call(what: Launch) -> tuple[jax.Array, ...]:
    """Hand a launch to jax-triton."""
    try:
        from maskc_kernels.gpu.compat import triton_call
    except ImportError as error:
        raise KernelUnavailableError(
            f"jax-triton cannot be loaded ({error}); install JAX for CUDA: "
            "pip install 'jax[cuda13]'"
        ) from error

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


_LAUNCHER: ContextVar[Launcher] = ContextVar("launcher", default=_call)


@contextlib.contextmanager
def using(launcher: Launcher) -> Iterator[None]:
    """A context in which kernels go to another launcher: an interpreter, or one that records."""
    token = _LAUNCHER.set(launcher)
    try:
        yield
    finally:
        _LAUNCHER.reset(token)


def launch(what: Launch) -> tuple[jax.Array, ...]:
    """Add a kernel to the program that is being traced; returns its outputs.

    Under `vmap` it becomes a loop of launches.
    """

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return _LAUNCHER.get()(replace(what, operands=arrays))

    looped: Callable[..., tuple[jax.Array, ...]]
    looped = jax.custom_batching.sequential_vmap(run)  # type: ignore[no-untyped-call]
    return looped(*what.operands)
