"""maskc: the mask compiler for block-sparse attention in JAX.

Importing it imports neither jax nor numba; `maskc.runtime` and `maskc.kernels` bring jax.
"""

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
from maskc.version import __version__
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
