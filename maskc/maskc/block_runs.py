"""The non-empty blocks of one mask, as runs along its rows of blocks: what lowering finds.

A row of causal is two runs however long it is, so everything that follows (lists, their
transposition, tables) costs its output and little more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FULL", "MaskBlocks"]

FULL = -1
"""The number of a run of full blocks, where partial ones have that of their bits."""


@dataclass(frozen=True, slots=True)
class MaskBlocks:
    """The blocks of one mask in one blocking.

    Attributes:
        ptr: int64 [rows of blocks + 1], where each row's runs begin.
        runs: int32 [runs, 3], (start, stop, number): the block columns start to stop - 1, all of
            them full where the number is `FULL`, else all of them the partial block `number`.
            Within a row ascending, apart or of different numbers, never empty.
        bits: uint8 [unique, block_q, ceil(block_kv / 8)], each distinct partial block once, least
            significant bit first, numbered by first appearance (row by row, left to right).
    """

    ptr: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int32]
    bits: npt.NDArray[Any]
