"""maskc: the mask compiler for block-sparse attention in JAX.

Importing it imports neither jax nor numba; `maskc.runtime` and `maskc.kernels` bring jax.
"""

from maskc.compile import compile_cached, compile_mask, compile_request
from maskc.errors import MaskArgumentError, SpecError
from maskc.expr import (
    And,
    Blocks,
    Causal,
    ChunkedCausal,
    Dense,
    Documents,
    Empty,
    Full,
    Local,
    Mask,
    MultiHead,
    Not,
    Or,
    Prefix,
    Random,
    Rectangle,
    Segments,
    Xor,
)
from maskc.request import CompileRequest
from maskc.spec import load_spec
from maskc.version import __version__
from maskc_cache.errors import MaskcError
from maskc_cache.plan import Plan

__all__ = [
    "And",
    "Blocks",
    "Causal",
    "ChunkedCausal",
    "CompileRequest",
    "Dense",
    "Documents",
    "Empty",
    "Full",
    "Local",
    "Mask",
    "MaskArgumentError",
    "MaskcError",
    "MultiHead",
    "Not",
    "Or",
    "Plan",
    "Prefix",
    "Random",
    "Rectangle",
    "Segments",
    "SpecError",
    "Xor",
    "__version__",
    "compile_cached",
    "compile_mask",
    "compile_request",
    "load_spec",
]
