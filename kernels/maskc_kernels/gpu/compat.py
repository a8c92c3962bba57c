"""Repairs of what we build on, each with the versions that need it; nothing else is patched."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
from jax._src.interpreters import partial_eval
from jax_triton import triton_lib

__all__ = ["repair_dce_rule"]


@functools.cache
def repair_dce_rule() -> None:
    """jax-triton 0.4.1 on jax 0.12: dead code elimination hands its rule one argument more."""
    primitive = triton_lib.triton_kernel_call_p
    rules: dict[Any, Any] = partial_eval.dce_rules
    rule = rules[primitive]
    if jax.__version_info__ < (0, 12) or len(inspect.signature(rule).parameters) != 2:
        return

    def repaired(used: list[bool], _live: Any, eqn: Any) -> Any:
        return rule(used, eqn)

    rules[primitive] = repaired
