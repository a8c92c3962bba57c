"""Segment ids of queries and keys, in the pair that splash attention knows."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["SegmentIds"]


class SegmentIds(NamedTuple):
    """The segment of every token: a query attends only keys of its own id.

    Attributes:
        q: int [batch, q_len]; negative is padding, which attends nothing and which nobody attends.
            `runtime.attention` also takes [q_len], for all batch rows.
        kv: int [batch, kv_len], likewise.
    """

    q: Any
    kv: Any
