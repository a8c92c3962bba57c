"""Versions of jax-triton made alike; nothing else is patched.

0.4 needs Python 3.12. For Python 3.11 there is 0.3.1, whose Triton must be older than 3.9: it
cannot say which PTX version to write, and 3.9 writes one that CUDA 13.0 does not read. 0.4 with
Triton 3.6 misses a constant of Triton's driver, and then does without its CUDA backend.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
from jax._src.interpreters import partial_eval
from triton.backends.nvidia import driver

if not hasattr(driver, "TMA_TF32"):
    driver.TMA_TF32 = 11

import jax_triton
from jax_triton import triton_lib

__all__ = ["CUSTOM_CALL", "triton_call"]

_OLD = not hasattr(jax_triton, "CUSTOM_CALL_TARGET_NAME")

CUSTOM_CALL: str = getattr(jax_triton, "CUSTOM_CALL_TARGET_NAME", "triton_kernel_call")
"""Name of the custom call in the program."""


def triton_call(
    *arrays: jax.Array,
    out_type: tuple[jax.ShapeDtypeStruct, ...],
    backend_options: dict[str, Any],
    **options: Any,
) -> tuple[jax.Array, ...]:
    """`jax_triton.triton_call`, as version 0.4.1 has it."""
    _repair_dce_rule()
    if _OLD:
        options |= {"out_shape": out_type, "enable_fp_fusion": backend_options["enable_fp_fusion"]}
    else:
        options |= {"out_type": out_type, "backend_options": backend_options}
    outputs: tuple[jax.Array, ...] = jax_triton.triton_call(*arrays, **options)
    return outputs


@functools.cache
def _repair_dce_rule() -> None:
    """jax-triton 0.4.1 on jax 0.12: dead code elimination hands its rule one argument more."""
    primitive = triton_lib.triton_kernel_call_p
    rules: dict[Any, Any] = partial_eval.dce_rules
    if _OLD or jax.__version_info__ < (0, 12):
        return
    rule = rules[primitive]
    if len(inspect.signature(rule).parameters) != 2:
        return

    def repaired(used: list[bool], _live: Any, eqn: Any) -> Any:
        return rule(used, eqn)

    rules[primitive] = repaired
