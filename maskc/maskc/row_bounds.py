"""Row bounds: the intervals of each query and each key, as arrays for kernels.

A mask in strip form has them written down already, strip by strip; those of any other mask are
read back from its block lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskc.expr import Empty, Full, Mask
from maskc.strip_leaves import strips_of
from maskc.strips import Strips, transposed
from maskc_cache.plan import MAX_INTERVALS, Plan, RowBounds
from maskc_cache.row_ends import most_intervals, read_bounds

__all__ = ["row_bounds"]

_Bounds = npt.NDArray[np.int32]


def row_bounds(masks: Sequence[Mask], plan: Plan) -> RowBounds:
    """The row bounds of a plan.

    Args:
        masks: its unique canonical masks.
        plan: the plan, complete but for them.
    """
    rows = [_form(mask, (plan.q_len, plan.kv_len)) for mask in masks]
    columns = [None if form is None else transposed(form) for form in rows]
    q_most, q = _side(rows, plan, "fwd")
    kv_most, kv = _side(columns, plan, "dkv")
    return RowBounds(q_most, kv_most, q, kv)


def _form(mask: Mask, shape: tuple[int, int]) -> Strips | None:
    """The strip form of a canonical mask, among which the constants have names of their own."""
    match mask:
        case Strips():
            return mask
        case Full() | Empty():
            return strips_of(mask, shape)
        case _:
            return None


def _side(
    forms: Sequence[Strips | None], plan: Plan, direction: Literal["fwd", "dkv"]
) -> tuple[int, _Bounds | None]:
    """The most intervals of a row, and the bounds if they are few enough."""
    known = [form for form in forms if form is not None]
    if len(known) == len(forms):
        most = max(form.widest for form in known)
        return most, _written(known, most) if most <= MAX_INTERVALS else None
    most = most_intervals(plan, direction)
    return most, read_bounds(plan, direction, most) if most <= MAX_INTERVALS else None


def _written(forms: Sequence[Strips], most: int) -> _Bounds:
    """Int32 [masks, 2 * max(most, 1), rows] of masks with up to `most` intervals per row."""
    bounds = np.zeros((len(forms), 2 * max(most, 1), forms[0].q_len), np.int32)
    for mask, form in enumerate(forms):
        rows, ptr, ends = form.fine.arrays
        heights = np.diff(rows)
        for i in range(form.widest):
            has = np.flatnonzero(np.diff(ptr) > i)
            chosen = ends[ptr[has] + i]
            for side in (0, 1):
                at, slope = np.zeros((2, len(heights)), np.int32)
                at[has], slope[has] = chosen[:, side], chosen[:, 2 + side]
                steps = np.repeat(slope, heights)  # from the row above, and at a strip's first row
                last = at + slope * (heights - 1)
                steps[rows[:-1]] = at - np.append(0, last[:-1])
                np.cumsum(steps, out=bounds[mask, 2 * i + side])
    return bounds
