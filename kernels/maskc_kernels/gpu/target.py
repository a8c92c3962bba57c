"""Which GPU a program is traced for. Imports no Triton, so that anybody may ask."""

from __future__ import annotations

import importlib.util

import jax

__all__ = ["architecture", "installed"]

_KINDS = {"A100": 80, "A30": 80, "H100": 90, "H200": 90, "GH200": 90, "B200": 100, "B300": 103}
"""Parts of the device kinds that a program is likely to be compiled for elsewhere."""


def installed() -> bool:
    """Whether Triton and jax-triton can be imported."""
    return all(importlib.util.find_spec(name) for name in ("triton", "jax_triton"))


def architecture() -> int | None:
    """Compute capability times 10 of the GPU that is compiled for; None if none is in sight.

    That is the device of the abstract mesh in use, if it names a GPU, else the first GPU here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = "" if device is None else device.device_kind
    named = next((number for name, number in _KINDS.items() if name in kind), None)
    if named is not None:
        return named
    try:
        return round(10 * float(jax.devices("cuda")[0].compute_capability))
    except RuntimeError:  # no such platform
        return None
