"""`from maskc import cache`: the plan artefact, its file format and the store."""

from maskc_cache import *  # noqa: F403
from maskc_cache import __all__ as __all__  # noqa: PLC0414
