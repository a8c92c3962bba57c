"""Sizes and compiler settings of the TPU kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.errors import KernelUnavailableError

__all__ = [
    "DTYPES",
    "LANES",
    "LN2",
    "LOG2E",
    "MASKED",
    "ORDERS",
    "Cut",
    "KernelConfig",
    "Order",
    "Span",
    "Tile",
]

LANES = 128
"""Columns of a vector register; blocks are multiples of it."""

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453

DTYPES = ("bfloat16", "float32")
"""Dtypes of q, k and v."""

VMEM = 32 * 2**20
"""Bytes that a kernel may use: v6e's own default, twice that of v5e; all have more."""

MASKED = -0.7 * 3.4028234663852886e38
"""Score of a pair that may not attend: finite, so that no difference of two is NaN."""


_MANY = 2
"""Pieces of a block: see `Cut.masked`."""

Span: TypeAlias = slice | pl.Slice
"""Which rows or columns: a slice, or `pl.ds` where the kernel finds out which."""


class Tile(NamedTuple):
    """Part of a block of scores.

    Attributes:
        rows: its rows.
        columns: its columns.
    """

    rows: Span
    columns: Span


def _divisor(length: int, most: int, unit: int) -> int:
    """The largest multiple of `unit` up to `most` that divides `length`; `length` if none does."""
    fits = (size for size in range(min(most, length) // unit * unit, 0, -unit))
    return next((size for size in fits if length % size == 0), length)


class Cut(NamedTuple):
    """In what pieces a block of scores is worked on.

    Attributes:
        columns: most columns of scores per matrix product.
        rows: most rows.
        ahead: how many pieces' products are asked for before the softmax of the first.
        linear: most scores of a bfloat16 block that the compiler's linear scheduler orders well.
        whole: rows and columns of a bfloat16 block that is one piece after all.
        free: columns that a product with values takes in any case. If the values leave some of
            them, the forward pass sums its weights there.
        unit: rows and columns of the matrix unit. Where head_dim does not fill them, the sums of
            the pass over keys have keys as their last axis.
        board: write scores to VMEM before the softmax, and masks into them.
    """

    columns: int
    rows: int
    ahead: int
    linear: int = 0
    whole: tuple[int, int] | None = None
    free: int = 0
    unit: int = 1
    board: bool = False

    def exact(self) -> Cut:
        """The same for float32, whose products take six times as long."""
        return self._replace(linear=0, whole=None)

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the pieces of a block of scores."""
        if (rows, columns) == self.whole:
            return rows, columns
        return _divisor(rows, self.rows, LANES), _divisor(columns, self.columns, LANES)

    def early(self, rows: int, columns: int) -> int:
        """How many pieces of a block are asked for early: scores of `ahead` whole pieces."""
        height, width = self.shape(rows, columns)
        pieces = rows // height * (columns // width)
        return min(pieces - 1, self.ahead * self.rows * self.columns // (height * width))

    def tiles(self, rows: int, columns: int) -> list[Tile]:
        """A block of scores in pieces, in the order of work."""
        height, width = self.shape(rows, columns)
        return [
            Tile(slice(top, top + height), slice(left, left + width))
            for left in range(0, columns, width)
            for top in range(0, rows, height)
        ]

    def masked(self, rows: int, columns: int) -> Cut:
        """The same for a block under a mask: large pieces, if there were many.

        Every piece is written out in the program, once per path, which blocks of 1024 x 1024 made
        a third longer. On v6e a masked one takes 4,323 cycles (4,252) in the fused pass, 3,776
        (3,670) in dkv and 3,501 (3,337) in dq.
        """
        if len(self.tiles(rows, columns)) <= _MANY:
            return self
        high = self._replace(rows=rows, ahead=min(self.ahead, 1))
        return high if len(high.tiles(rows, columns)) <= _MANY else high._replace(columns=512)


class Order(NamedTuple):
    """In what pieces a chip works best; see `ORDERS`.

    Attributes:
        forward: of the forward pass.
        parts: of it, where it computes some pieces of a block only.
        dq: of the dq pass.
        dkv: of the dkv pass.
        fused: of the one pass for all gradients.
    """

    forward: Cut
    parts: Cut
    dq: Cut
    dkv: Cut
    fused: Cut


ORDERS = {
    5: Order(
        forward=Cut(512, 512, 0),
        parts=Cut(512, 256, 1),
        dq=Cut(512, 512, 0),
        dkv=Cut(512, 512, 0, unit=128),
        fused=Cut(512, 512, 0, unit=128),
    ),
    6: Order(
        forward=Cut(1024, 256, 1, linear=2**18, whole=(512, 512), free=256, unit=256, board=True),
        parts=Cut(512, 256, 2, board=True),
        dq=Cut(256, 512, 1),
        dkv=Cut(512, 256, 2, unit=256),
        fused=Cut(512, 256, 2, unit=256),
    ),
    7: Order(
        forward=Cut(1024, 256, 1, board=True),
        parts=Cut(512, 256, 2, board=True),
        dq=Cut(256, 512, 1),
        dkv=Cut(512, 256, 2, unit=256),
        fused=Cut(512, 256, 2, unit=256),
    ),
}
"""By generation: v5e and v5p (and older ones), v6e, tpu7x (and later ones).

The matrix unit of v6e and tpu7x, 256 wide, is done with a product before the vector units are with
its softmax, so the next product is asked for early and hides behind it. With one of 128 the product
takes longer than the softmax, and asking early costs registers only. Measured with libtpu 0.0.52
and jax 0.12 (`benchmarks/tpu.py`), head_dim 128, cycles of a full and of a partial block:

- forward, weights summed by the matrix unit or by the vector units: v6e 512x512 940 and 986, or 960
  and 1,032; tpu7x 1,094 and 1,206, or 1,004 and 1,073;
- forward, v6e 512x512, one piece or two of 256 rows: head_dim 128 929 and 968, or 934 and 969;
- forward, v6e 512x512, head_dim 256, where no column is left, weights summed by the unit across
  lanes or by the vector units: 1,013 and 1,060, or 1,028 and 1,093 (512x1024 1,661 and 1,817, or
  1,537 and 1,667); values multiplied by 256 keys at a time besides: 1,010 and 1,059;
- forward, v6e 512x512, float32, with the linear scheduler or without: 3,872 and 3,889, or 3,455 and
  3,545;
- forward, v6e, XLA having turned the keys: 512x512 901 and 936, where 934 and 969; 1024x1024 2,387
  and 2,548, where 2,409 and 2,546. Turning costs HBM as much as that saves where a block of keys
  serves 9 or 25 blocks of queries, so keys stay as they are;
- forward, v6e, scores and masks stored by the kernel, or spilled by the compiler and masks
  selected, in the same pieces: 512x512 937 and 967, or 940 and 988; before, in pieces of 256 x 512
  with two ahead, 512x1024 1,413 and 1,536, 1024x1024 2,481 and 2,702;
- forward, v6e, partial blocks, bits of complemented words shifted to the sign, or ANDs that are 0:
  512x512 972 or 968, 512x1024 1,437 or 1,444, 1024x1024 2,540 or 2,546; 512x1024, head_dim 256,
  1,657 or 1,667;
- forward, v6e, pieces of 256 rows one ahead or of 128 rows three ahead: 512x1024 1,364 and 1,443,
  or 1,381 and 1,437; 1024x1024 2,414 and 2,546, or 2,498 and 2,577; tpu7x 1,487 and 1,593, or
  1,464 and 1,604; 2,592 and 2,845, or 2,500 and 2,779 (in programs beyond 100,000 characters);
- forward, v6e 1024x1024, one or two ahead: 2,414 and 2,546, or 2,390 and 2,588;
- parts, v5e 1024x1024, in turn or one ahead, 2, 4 and 6 tiles: 1,266, 2,345 and 3,416, or 1,272,
  2,299 and 3,319; with stored masks 1,526, 2,612 and 3,670;
- forward, v5e 512x1024, in turn or one ahead: 2,261 or 2,465;
- forward, with the compiler's linear scheduler or without: v6e 512x512 940 and 986, or 962 and 996;
  1024x512 1,504 and 1,585, or 1,416 and 1,534; v5e 512x512 1,235 and 1,250, or 1,226 and 1,227;
- dq, likewise: v6e 512x1024 1,976 and 2,033, or 1,798 and 1,799; v5e 512x512 1,737 and 1,866, or
  1,735 and 1,735;
- dq, 512x512, 512 or 256 columns: v5e 1,737 or 1,873; v6e 1,325 or 1,030;
- fused, v6e, 512 columns by 256 rows two ahead or by 512 one ahead: 512x512 1,285 and 1,324, or
  1,316 and 1,360; 1024x1024 4,118 and 4,252, or 4,191 and 4,328;
- fused, v5e 512x512, 512 columns in turn or 256 one ahead: 2,728 and 2,736, both;
- fused, 512x512, keys the last axis of the sums or not: v6e 1,290 and 404 per row, or 1,396 and
  183; v5e 2,734 and 569, or 2,734 and 483; v5e, head_dim 64, 1,947 or 2,456.
"""


def _generation() -> int:
    """That of the TPU in sight, or of the abstract mesh that is lowered for."""
    try:
        return int(pltpu.get_tpu_info().generation)
    except ValueError as error:
        raise KernelUnavailableError(
            f"there is no TPU here ({error}); to lower for one, do it under "
            "jax.sharding.use_abstract_mesh with an abstract device that names its kind; to "
            "interpret, set KernelConfig(interpret=True)"
        ) from error


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """How a kernel is run; static.

    Attributes:
        compute: most columns of scores per matrix product; None is what `ORDERS` has.
        rows: most rows of scores per matrix product, likewise.
        ahead: how many products are asked for early, likewise.
        fused_backward: one kernel for all gradients, over the blocks of the dkv pass; False is one
            for dq and one for dk and dv. None is one, if both passes have the same blocks and HBM
            keeps up with it.
        chunk: entries of the work list per transfer to SMEM.
        vmem_limit_bytes: VMEM that the compiler may use.
        interpret: what `pallas_call` takes: False compiles, True or `InterpretParams` interprets.
    """

    compute: int | None = None
    rows: int | None = None
    ahead: int | None = None
    fused_backward: bool | None = None
    chunk: int = 1024
    vmem_limit_bytes: int = VMEM
    interpret: Any = False

    @property
    def order(self) -> Order:
        """The pieces to work in."""
        generation = 6 if self.interpret else _generation()
        named = {"columns": self.compute, "rows": self.rows, "ahead": self.ahead}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if given:
            given["whole"] = None
        return Order(
            *(
                cut._replace(**given)
                for cut in ORDERS[min(max(generation, min(ORDERS)), max(ORDERS))]
            )
        )

    def compiler_params(self, *, linear: bool) -> pltpu.CompilerParams:
        """Every step of the grid is one head of one batch: they may run on any core.

        Args:
            linear: let the compiler's linear scheduler order a block's work.
        """
        return pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            vmem_limit_bytes=self.vmem_limit_bytes,
            # Indices come from verified lists, and each check costs scalar cycles in every step.
            disable_bounds_checks=True,
            flags={"XLA_TPU_FORCE_LP_LLO_SCHEDULER": True} if linear else None,
        )
