"""`from maskc import kernels`: attention over plan arrays, one backend each."""

from maskc_kernels import *  # noqa: F403
from maskc_kernels import __all__ as __all__  # noqa: PLC0414
