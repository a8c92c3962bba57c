"""maskc: the mask compiler for block-sparse attention in JAX.

Importing it imports neither jax nor numba; `maskc.runtime` and `maskc.kernels` bring jax. The names
below are imported when they are first used, so that the command answers a cache hit at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from maskc.version import __version__

if TYPE_CHECKING:
    from maskc.compile import compile_cached, compile_mask, compile_request
    from maskc.errors import MaskArgumentError, SpecError
    from maskc.expr import (
        And,
        Blocks,
        Causal,
        Chunked,
        ChunkedCausal,
        Dense,
        Diagonals,
        Documents,
        Empty,
        Full,
        Intervals,
        Keys,
        Kron,
        Local,
        Mask,
        MultiHead,
        Neighborhood,
        Not,
        Or,
        Prefix,
        Queries,
        Random,
        Rectangle,
        Remap,
        Segments,
        Shift,
        Strided,
        Transpose,
        Xor,
        per_batch,
    )
    from maskc.request import CompileRequest
    from maskc.spec import load_spec
    from maskc_cache.errors import MaskcError
    from maskc_cache.plan import Plan

__all__ = [
    "And",
    "Blocks",
    "Causal",
    "Chunked",
    "ChunkedCausal",
    "CompileRequest",
    "Dense",
    "Diagonals",
    "Documents",
    "Empty",
    "Full",
    "Intervals",
    "Keys",
    "Kron",
    "Local",
    "Mask",
    "MaskArgumentError",
    "MaskcError",
    "MultiHead",
    "Neighborhood",
    "Not",
    "Or",
    "Plan",
    "Prefix",
    "Queries",
    "Random",
    "Rectangle",
    "Remap",
    "Segments",
    "Shift",
    "SpecError",
    "Strided",
    "Transpose",
    "Xor",
    "__version__",
    "compile_cached",
    "compile_mask",
    "compile_request",
    "load_spec",
    "per_batch",
]

_HOMES = (
    "maskc_cache.errors",
    "maskc_cache.plan",
    "maskc.errors",
    "maskc.expr",
    "maskc.request",
    "maskc.spec",
    "maskc.compile",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in map(importlib.import_module, _HOMES):
            if name in home.__all__:
                value = globals()[name] = getattr(home, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
