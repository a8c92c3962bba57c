"""The plan artefact and where it lives: records, file format, store. Needs only numpy and friends.

Importing it imports none of jax, numba, yaml and click.
"""

from maskc_cache.check import check_ranges, verify
from maskc_cache.entry import Collected, Entry
from maskc_cache.errors import (
    MaskcError,
    NotAPlanError,
    PlanCorruptError,
    PlanError,
    PlanVersionError,
    StoreError,
)
from maskc_cache.format import decode, encode, read_plan, write_plan
from maskc_cache.plan import (
    BlockLists,
    BlockState,
    Plan,
    RowBounds,
    SplashMaskInfo,
    SplashTables,
    blocks_along,
    key_of,
    smallest_dtype,
)
from maskc_cache.remote import ObjectStore
from maskc_cache.store import Store, default_root
from maskc_cache.tiers import Tier, Tiers, open_tiers

__all__ = [
    "BlockLists",
    "BlockState",
    "Collected",
    "Entry",
    "MaskcError",
    "NotAPlanError",
    "ObjectStore",
    "Plan",
    "PlanCorruptError",
    "PlanError",
    "PlanVersionError",
    "RowBounds",
    "SplashMaskInfo",
    "SplashTables",
    "Store",
    "StoreError",
    "Tier",
    "Tiers",
    "blocks_along",
    "check_ranges",
    "decode",
    "default_root",
    "encode",
    "key_of",
    "open_tiers",
    "read_plan",
    "smallest_dtype",
    "verify",
    "write_plan",
]
