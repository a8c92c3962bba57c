"""The class itself, put together from its parts."""

from __future__ import annotations

import jax

from maskc_runtime.mask_info.constructors import Constructors
from maskc_runtime.mask_info.operations import Operations
from maskc_runtime.mask_info.planning import Planning
from maskc_runtime.mask_info.views import Views

__all__ = ["MaskInfo"]


@jax.tree_util.register_pytree_with_keys_class
class MaskInfo(Constructors, Views, Operations, Planning):
    """Which queries may attend which keys, of a batch: symbolic, immutable, a pytree.

    ejKernel's class of this name, with its fields, methods and signatures. It holds segment ids,
    positions and conditions and makes a dense mask only for those who ask for one. Arrays may be
    traced; objects of known values compare and hash by them.

    A pair may attend if its segment ids are equal and not negative, and the explicit mask and every
    applied condition allow it. Queries and keys are counted from 0, and conditions like
    `apply_causal` compare these numbers, not the positions, which are for positional embeddings.
    """

    __hash__ = Constructors.__hash__
