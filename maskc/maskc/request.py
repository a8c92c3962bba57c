"""What decides a plan: a mask bound to lengths, heads, blocks and shards; the key of all that."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from maskc import checks
from maskc.blocking import BlockGrid
from maskc.canonical import canonical, encode
from maskc.emit import Prefetch, SplashLayout
from maskc.errors import MaskArgumentError
from maskc.expr import Mask, MultiHead
from maskc_cache.plan import key_of, pack

__all__ = ["COMPILER_EPOCH", "CompileRequest"]

COMPILER_EPOCH = 3
"""Part of every key. Raise it whenever the same request would compile to other content, or its
canonical form be written otherwise."""

DEFAULT_BLOCK = 512
"""Default block size: the one that splash attention's and tokamax's users measured best."""


@dataclass(frozen=True)
class CompileRequest:
    """One plan to compile.

    Attributes:
        mask: a mask of a single head, or a `MultiHead`.
        q_len: number of queries.
        kv_len: number of keys; None is `q_len`.
        heads: number of query heads; None is one per mask of a `MultiHead`, else 1.
        block_q: queries per block of the forward pass, default 512 or the length if shorter.
        block_kv: keys per block of the forward pass, likewise.
        block_q_dq: queries per block of the dq pass; None is `block_q`.
        block_kv_dq: keys per block of the dq pass; None is `block_kv`.
        block_q_dkv: queries per block of the dkv pass; None is `block_q`.
        block_kv_dkv: keys per block of the dkv pass; None is `block_kv`.
        head_shards: over how many devices the splash tables split the heads.
        q_seq_shards: over how many devices they split the queries.
        splash: write splash attention's tables into the plan.
        shrink_grid: drop empty blocks from the splash tables, where JAX does.
        downcast_smem_data: the smallest integer dtype for each splash table.
        prefetch: the padding of shrunk splash tables: "jax" is JAX's zeros, "keep" repeats the next
            value that the kernel needs, so that it fetches nothing twice.
        row_bounds: write the intervals of each row into the plan, for kernels that apply partial
            masks without stored blocks: 8 bytes for each query and each key, mask and interval.
            A side on which some row has more than two intervals has none.

    Raises:
        MaskArgumentError: an argument is out of range or does not fit another one.
    """

    mask: Mask
    q_len: int
    # None only asks for the default: once built, each of these is an int
    kv_len: int = None  # type: ignore[assignment]
    heads: int = None  # type: ignore[assignment]
    block_q: int = None  # type: ignore[assignment]
    block_kv: int = None  # type: ignore[assignment]
    block_q_dq: int = None  # type: ignore[assignment]
    block_kv_dq: int = None  # type: ignore[assignment]
    block_q_dkv: int = None  # type: ignore[assignment]
    block_kv_dkv: int = None  # type: ignore[assignment]
    head_shards: int = 1
    q_seq_shards: int = 1
    splash: bool = True
    shrink_grid: bool = True
    downcast_smem_data: bool = True
    prefetch: Prefetch = "jax"
    row_bounds: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.mask, Mask):
            raise checks.fail("mask", "a mask expression", self.mask)
        checks.at_least("q_len", self.q_len, 1)
        self._default("kv_len", self.q_len)
        per_head = len(self.mask.masks) if isinstance(self.mask, MultiHead) else None
        self._default("heads", per_head or 1)
        self._default("block_q", min(DEFAULT_BLOCK, self.q_len))
        self._default("block_kv", min(DEFAULT_BLOCK, checks.at_least("kv_len", self.kv_len, 1)))
        for name, forward in _FOLLOWING:
            self._default(name, getattr(self, forward))
        for name in _INTEGERS:
            given = getattr(self, name)
            if type(given) is not int or given < 1:  # asked here, for it is asked very often
                object.__setattr__(self, name, checks.at_least(name, given, 1))
        for name in _BOOLS:
            if not isinstance(getattr(self, name), bool):
                raise checks.fail(name, "True or False", getattr(self, name))
        checks.choice("prefetch", self.prefetch, get_args(Prefetch))
        if per_head not in {None, self.heads}:
            raise MaskArgumentError(
                f"heads: expected {per_head}, one for each mask of the MultiHead, got {self.heads}"
            )
        self._check_shards()

    def _default(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def _check_shards(self) -> None:
        if self.heads % self.head_shards:
            raise MaskArgumentError(
                f"head_shards: expected a divisor of heads={self.heads}, got {self.head_shards}"
            )
        if self.q_seq_shards == 1:
            return
        for name, blocking in (("block_q", self.fwd_grid), ("block_q_dkv", self.dkv_grid)):
            block = blocking.block_q
            if self.q_len % (block * self.q_seq_shards):
                raise MaskArgumentError(
                    f"q_seq_shards: expected whole blocks in every shard, got q_len={self.q_len} "
                    f"in {self.q_seq_shards} shards of {name}={block}"
                )

    @property
    def fwd_grid(self) -> BlockGrid:
        """The blocking of the forward pass."""
        return BlockGrid(self.q_len, self.kv_len, self.block_q, self.block_kv)

    @property
    def dq_grid(self) -> BlockGrid:
        """The blocking of the dq pass."""
        return BlockGrid(self.q_len, self.kv_len, self.block_q_dq, self.block_kv_dq)

    @property
    def dkv_grid(self) -> BlockGrid:
        """The blocking of the dkv pass."""
        return BlockGrid(self.q_len, self.kv_len, self.block_q_dkv, self.block_kv_dkv)

    @property
    def layout(self) -> SplashLayout:
        """How the splash tables are cut and packed."""
        return SplashLayout(
            self.head_shards,
            self.q_seq_shards,
            self.shrink_grid,
            self.downcast_smem_data,
            self.prefetch,
        )

    @functools.cached_property
    def unique_masks(self) -> tuple[tuple[Mask, ...], npt.NDArray[np.int32]]:
        """The distinct canonical masks by first use, and which one each head uses."""
        if not isinstance(self.mask, MultiHead):
            form = canonical(self.mask, self.q_len, self.kv_len)
            return (form,), np.zeros(self.heads, np.int32)
        names = [id(mask) for mask in self.mask.masks]  # one object may serve many heads
        numbers: dict[Mask, int] = {}  # by canonical form
        given: dict[Mask, int] = {}
        same = dict(zip(names, self.mask.masks, strict=True))
        for mask in same.values():
            if mask not in given:
                form = canonical(mask, self.q_len, self.kv_len)
                given[mask] = numbers.setdefault(form, len(numbers))
        by_name = {name: given[mask] for name, mask in same.items()}
        heads = [by_name[name] for name in names]
        return tuple(numbers), np.array(heads, np.int32)

    @functools.cached_property
    def canonical(self) -> bytes:
        """Bytes that are equal exactly when two requests ask for the same plan."""
        masks, head_mask = self.unique_masks
        names, values = _PARAMETERS if self.splash else _WITHOUT_SPLASH
        document = {
            "epoch": COMPILER_EPOCH,
            "head_mask": head_mask.tobytes(),
            "masks": [encode(mask) for mask in masks],
            "parameters": dict(zip(names, values(self), strict=True)),
        }
        return pack(document)

    @functools.cached_property
    def key(self) -> str:
        """The cache key: 32 hex digits, the XXH3-128 of `canonical`."""
        return key_of(self.canonical)


_FOLLOWING = tuple(
    (f"{name}_{direction}", name) for name in ("block_q", "block_kv") for direction in ("dq", "dkv")
)
"""What the other passes take from the forward one."""
_INTEGERS = tuple(field.name for field in fields(CompileRequest) if field.type == "int")
_BOOLS = tuple(field.name for field in fields(CompileRequest) if field.type == "bool")
_NAMES = tuple(sorted(field.name for field in fields(CompileRequest) if field.name != "mask"))
_SPLASH_ONLY = {"shrink_grid", "downcast_smem_data", "prefetch"}
_PARAMETERS, _WITHOUT_SPLASH = (
    (names, operator.attrgetter(*names))
    for names in (_NAMES, tuple(name for name in _NAMES if name not in _SPLASH_ONLY))
)
