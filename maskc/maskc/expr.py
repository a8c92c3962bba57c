"""The mask language: a shape-free tree of frozen leaves and operators.

True means "query q may attend key kv". A tree is bound to lengths only when it is compiled, so one
tree serves every length. Leaves are combined with `&`, `|`, `^`, `~` and `-`; nodes compare and
hash by content, alike in every process, and print as the Python that builds them.
"""

from __future__ import annotations

from maskc.algebra import And, Mask, MultiHead, Not, Or, Xor, per_batch
from maskc.array_leaves import (
    Blocks,
    Dense,
    Diagonals,
    Documents,
    Intervals,
    Keys,
    Queries,
    Segments,
)
from maskc.combinators import Kron, Remap, Shift, Transpose
from maskc.leaves import (
    Causal,
    Chunked,
    ChunkedCausal,
    Empty,
    Full,
    Local,
    Neighborhood,
    Prefix,
    Random,
    Rectangle,
    Strided,
)

__all__ = [
    "And",
    "Blocks",
    "Causal",
    "Chunked",
    "ChunkedCausal",
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
    "MultiHead",
    "Neighborhood",
    "Node",
    "Not",
    "Or",
    "Prefix",
    "Queries",
    "Random",
    "Rectangle",
    "Remap",
    "Segments",
    "Shift",
    "Strided",
    "Transpose",
    "Xor",
    "per_batch",
]

Node = (
    Full
    | Empty
    | Causal
    | Local
    | ChunkedCausal
    | Prefix
    | Rectangle
    | Segments
    | Documents
    | Dense
    | Blocks
    | Random
    | Chunked
    | Strided
    | Neighborhood
    | Intervals
    | Queries
    | Keys
    | Diagonals
    | Shift
    | Transpose
    | Remap
    | Kron
    | Not
    | And
    | Or
    | Xor
)
"""Every node of a single head's mask, for `match` statements that must not forget one."""
