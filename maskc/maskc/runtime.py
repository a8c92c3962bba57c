"""`from maskc import runtime`: what programs call, under jit and outside it."""

from maskc_runtime import *  # noqa: F403
from maskc_runtime import __all__ as __all__  # noqa: PLC0414
