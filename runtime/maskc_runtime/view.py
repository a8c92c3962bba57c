"""A plan as JAX sees it: a pytree with a static identity and arrays as leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax

from maskc_cache.errors import PlanError
from maskc_cache.plan import BlockLists, Direction, Plan, RowBounds, SplashTables
from maskc_kernels.tables import AttentionTables, BlockTable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PlanFacts", "PlanView"]

Leaf: TypeAlias = Any
"""A table: numpy as loaded; a JAX array, tracer or placeholder once JAX has had it."""

_LIST_ARRAYS = tuple(entry.name for entry in fields(BlockLists)[2:])
_DIRECTIONS: tuple[Direction, ...] = ("fwd", "dq", "dkv")


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """The static part of a plan. Two of them are equal exactly if their digests are.

    Attributes:
        digest: 32 hex digits over the plan's content.
        key: its cache key, 32 hex digits; plans of equal content may have different keys.
        q_len: queries that the plan covers.
        kv_len: keys that it covers.
        heads: number of query heads.
        masks: number of unique masks among them; 1 if all heads share one.
        head_shards: over how many devices the splash tables split the heads.
        q_seq_shards: over how many devices they split the queries.
        blocks: `(block_q, block_kv)` of the fwd, dq and dkv passes.
        row_intervals: most intervals of one query and of one key; None without row bounds.
        names: name of every leaf, in order.
        wiring: for each pass, which leaf is which array of its block lists.
    """

    digest: str
    key: str = field(compare=False)
    q_len: int = field(compare=False)
    kv_len: int = field(compare=False)
    heads: int = field(compare=False)
    masks: int = field(compare=False)
    head_shards: int = field(compare=False)
    q_seq_shards: int = field(compare=False)
    blocks: tuple[tuple[int, int], ...] = field(compare=False)
    row_intervals: tuple[int, int] | None = field(compare=False)
    names: tuple[str, ...] = field(compare=False)
    wiring: tuple[tuple[int, ...], ...] = field(compare=False)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlanView:
    """A plan for use under `jax.jit`: closed over, passed as an argument, or static.

    As a pytree its static part is `facts` and its leaves are `arrays`, each array once even where
    several passes share it. Views compare and hash by the plan's digest, so a view can be a static
    argument; replacing leaves (`jax.tree.map`) is for moving them, `jax.device_put(view)`, and
    must keep their values.

    Attributes:
        facts: the static part.
        arrays: the tables, in the order of `facts.names`: numpy as loaded, whatever JAX puts
            there afterwards.
    """

    facts: PlanFacts
    arrays: tuple[Leaf, ...]

    @classmethod
    def from_plan(cls, plan: Plan) -> PlanView:
        """The view of a plan; its arrays are shared, not copied."""
        names, arrays = zip(*plan.arrays(), strict=True)
        number = {id(array): index for index, array in enumerate(arrays)}
        lists = [plan.lists(direction) for direction in _DIRECTIONS]
        facts = PlanFacts(
            digest=plan.digest,
            key=plan.key,
            q_len=plan.q_len,
            kv_len=plan.kv_len,
            heads=plan.heads,
            masks=plan.masks,
            head_shards=plan.head_shards,
            q_seq_shards=plan.q_seq_shards,
            blocks=tuple(entry.blocks for entry in lists),
            row_intervals=plan.row_intervals,
            names=names,
            wiring=tuple(
                tuple(number[id(getattr(entry, name))] for name in _LIST_ARRAYS) for entry in lists
            ),
        )
        return cls(facts, arrays)

    @property
    def digest(self) -> str:
        """32 hex digits over the plan's content."""
        return self.facts.digest

    @property
    def key(self) -> str:
        """The plan's cache key, 32 hex digits."""
        return self.facts.key

    @property
    def name(self) -> str:
        """What error messages call it: how its key begins."""
        return self.key[:12]

    @property
    def q_len(self) -> int:
        """Queries that the plan covers."""
        return self.facts.q_len

    @property
    def kv_len(self) -> int:
        """Keys that the plan covers."""
        return self.facts.kv_len

    @property
    def heads(self) -> int:
        """Query heads that the plan covers."""
        return self.facts.heads

    @property
    def masks(self) -> int:
        """Unique masks among the heads."""
        return self.facts.masks

    @property
    def head_mask(self) -> Leaf:
        """Int32 [heads], which unique mask each head uses."""
        return self._leaves()["head_mask"]

    @property
    def row_bounds(self) -> RowBounds | None:
        """The intervals of each row, over the same leaves; None if the plan leaves them out."""
        if self.facts.row_intervals is None:
            return None
        leaves = self._leaves()
        sides = (leaves.get(f"row_bounds.{side}") for side in ("q", "kv"))
        return RowBounds(*self.facts.row_intervals, *sides)

    @property
    def tables(self) -> AttentionTables:
        """What the kernels read, over the same leaves."""
        leaves = self._leaves()
        return AttentionTables(
            self.head_mask,
            self.lists("fwd"),
            self.lists("dq"),
            self.lists("dkv"),
            leaves.get("row_bounds.q"),
            leaves.get("row_bounds.kv"),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all leaves together."""
        return sum(array.nbytes for array in self.arrays)

    def lists(self, direction: Direction) -> BlockTable:
        """The block lists of one pass.

        Args:
            direction: "fwd", "dq" or "dkv".

        Raises:
            ValueError: another direction.
        """
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction: expected 'fwd', 'dq' or 'dkv', got {direction!r}")
        number = _DIRECTIONS.index(direction)
        leaves = (self.arrays[index] for index in self.facts.wiring[number])
        return BlockTable(*self.facts.blocks[number], *leaves)

    def splash(self, direction: Literal["fwd", "dkv"] = "fwd") -> SplashTables:
        """Splash attention's small tables, over the same leaves.

        Args:
            direction: "fwd" or "dkv".

        Raises:
            PlanError: the plan was compiled without them.
            ValueError: another direction.
        """
        if direction not in {"fwd", "dkv"}:
            raise ValueError(f"direction: expected 'fwd' or 'dkv', got {direction!r}")
        prefix = f"splash_{direction}."
        if prefix + "block_mask" not in self.facts.names:
            raise PlanError(
                f"plan {self.key[:12]} has no splash tables; compile it with splash=True"
            )
        leaves = self._leaves()
        return SplashTables(
            data_next=leaves[prefix + "data_next"],
            mask_next=leaves.get(prefix + "mask_next"),
            block_mask=leaves[prefix + "block_mask"],
        )

    def tree_flatten(self) -> tuple[tuple[Leaf, ...], PlanFacts]:
        """The leaves and the static part."""
        return self.arrays, self.facts

    def tree_flatten_with_keys(
        self,
    ) -> tuple[tuple[tuple[Any, Leaf], ...], PlanFacts]:
        """The leaves by name and the static part."""
        keys = map(jax.tree_util.GetAttrKey, self.facts.names)
        return tuple(zip(keys, self.arrays, strict=True)), self.facts

    @classmethod
    def tree_unflatten(cls, facts: PlanFacts, arrays: Iterable[Leaf]) -> PlanView:
        """The inverse of `tree_flatten`."""
        return cls(facts, tuple(arrays))

    def _leaves(self) -> dict[str, Leaf]:
        return dict(zip(self.facts.names, self.arrays, strict=True))

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, PlanView) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        block_q, block_kv = self.facts.blocks[0]
        return (
            f"<PlanView {self.key[:12]} q_len={self.q_len} kv_len={self.kv_len} "
            f"heads={self.heads} masks={self.masks} block_q={block_q} block_kv={block_kv}>"
        )
