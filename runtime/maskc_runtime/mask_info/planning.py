"""A `MaskInfo` as a plan, from a plan, as operands of attention, and as a picture."""

# what is private to the class is shared by its modules
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from maskc_kernels.segment_ids import SegmentIds
from maskc_runtime.mask_info.debug import logged
from maskc_runtime.mask_info.errors import ArgumentShapeError
from maskc_runtime.mask_info.fields import Fields
from maskc_runtime.mask_info.terms import Compiled, Static, Term, both
from maskc_runtime.mask_info.traced import Array, host, is_traced

if TYPE_CHECKING:
    from maskc_cache.plan import Plan
    from maskc_cache.tiers import Tier

__all__ = ["MaskOperands", "Planning"]

_CELLS = {"unicode": ("  ", "░░", "██"), "ascii": ("  ", "..", "##")}
_MIXED = -2


class MaskOperands(NamedTuple):
    """What `attention` takes for a mask: `attention(q, k, v, x.plan, segment_ids=x.segment_ids)`.

    Attributes:
        plan: everything but the ids.
        q_segment_ids: int32 [batch, q_len], traced or not; None if the ids forbid nothing.
        kv_segment_ids: int32 [batch, kv_len]; None likewise.
    """

    plan: Plan
    q_segment_ids: Array
    kv_segment_ids: Array

    @property
    def segment_ids(self) -> SegmentIds | None:
        """Both ids, or None."""
        if self.q_segment_ids is None:
            return None
        return SegmentIds(self.q_segment_ids, self.kv_segment_ids)


class Planning(Fields):
    """Compiling, and what is drawn from a compiled mask."""

    @logged
    def plan(
        self,
        *,
        heads: int | None = None,
        blocks: int | tuple[int, int] | None = None,
        store: Tier | None = None,
        **parameters: Any,
    ) -> Plan:
        """Compile all of it, ids included. The values must be known.

        If batch rows have masks of their own, they are folded into the heads as `maskc.per_batch`
        says: the plan has `batch_size * heads` heads, for `q.reshape(1, batch * heads, ...)`. Rows
        that are alike share one mask and the plan has `heads` heads.

        Args:
            heads: query heads of a batch row; None is as many as have masks of their own.
            blocks: block_q and block_kv, one number or two.
            store: where to look for the plan and to keep it; None compiles it.
            **parameters: the other fields of `CompileRequest`: block sizes, shards, row_bounds.

        Raises:
            TracedMaskError: a value is traced; see `operands`.
            MaskArgumentError: a parameter is wrong.
        """
        from maskc_runtime.mask_info.lowering import batch_mask  # brings the compiler

        batch, _, _ = self._lengths("plan")
        term = both(self._restricting_ids("MaskInfo.plan"), self._whole_term())
        own = self._plan_heads("MaskInfo.plan", heads)
        if isinstance(term, Compiled) and _fits(term, self, heads, blocks, parameters):
            return term.plan
        mask = batch_mask(_or_full(term), "MaskInfo.plan", batch, self.heads, own)
        return self._compile(mask, own, blocks, store, parameters)

    @logged
    def operands(
        self,
        *,
        heads: int | None = None,
        blocks: int | tuple[int, int] | None = None,
        store: Tier | None = None,
        **parameters: Any,
    ) -> MaskOperands:
        """A plan of all but the segment ids, which go to the kernels at run time.

        So ids may be traced, and batches of other documents or lengths need no other plan. Works
        under `jit`: what is compiled is known when it is traced.

        Args:
            heads: query heads of a batch row.
            blocks: block_q and block_kv, one number or two.
            store: where to look for the plan and to keep it; None compiles it.
            **parameters: the other fields of `CompileRequest`.

        Raises:
            TracedMaskError: something else than the ids is traced.
            ArgumentShapeError: ids per head, or conditions that differ from row to row; those a
                plan of all rows says, `plan`.
        """
        from maskc_runtime.mask_info.lowering import batch_mask  # brings the compiler

        batch, _, _ = self._lengths("operands")
        where = "MaskInfo.operands"
        q, kv = self._ids()
        if q is not None and q.ndim == 3:
            raise ArgumentShapeError(f"{where}: ids per head {q.shape} are for `plan` alone")
        term, own = self._whole_term(), self._plan_heads(where, heads)
        if q is not None and not is_traced(q, kv) and _one_segment(q, kv):
            q = kv = None
        if isinstance(term, Compiled) and _fits(term, self, heads, blocks, parameters):
            plan = term.plan
        else:
            mask = batch_mask(_or_full(term), where, batch, self.heads, own)
            plan = self._compile(mask, own, blocks, store, parameters)
        if plan.heads != own:
            raise ArgumentShapeError(
                f"{where}: conditions of their own for {batch} batch rows; compile `plan` and fold "
                "the batch into the heads"
            )
        return MaskOperands(plan, q, kv)

    @classmethod
    @logged
    def from_plan(cls, plan: Plan, *, batch_size: int | None = None, **fields: Any) -> Self:
        """What a plan says. Nothing dense is made until someone asks for it.

        Args:
            plan: the plan.
            batch_size: rows that are folded into the plan's heads; None is one row, and its mask
                is that of each head.
            **fields: positions and axis names.

        Raises:
            ArgumentShapeError: the heads are no such multiple.
        """
        batch = 1 if batch_size is None else batch_size
        if batch < 1 or plan.heads % batch:
            raise ArgumentShapeError(
                f"batch_size: expected a divisor of the plan's {plan.heads} heads, got {batch}"
            )
        q, kv = (np.zeros((batch, n), np.int32) for n in (plan.q_len, plan.kv_len))
        return cls(_q_segment_ids=q, _kv_segment_ids=kv, _term=Compiled(plan, batch), **fields)

    @logged
    def visualize(
        self,
        block_size: int | tuple[int, int] = 32,
        batch: int = 0,
        head: int = 0,
        fit_in_screen: bool = True,
        max_rows: int = 32,
        max_cols: int = 64,
        charset: Literal["unicode", "ascii"] = "unicode",
        show_segments: bool = True,
        return_str: bool = False,
    ) -> str | None:
        """The blocks of one row and head as text: full, partial or empty, two characters each.

        Drawn from a plan: the work is that of the blocks, not of the elements.

        Args:
            block_size: queries and keys per block.
            batch: which batch row.
            head: which head.
            fit_in_screen: join blocks until the picture has at most `max_rows` and `max_cols`.
            max_rows: lines.
            max_cols: blocks per line.
            charset: "unicode" or "ascii".
            show_segments: label blocks with their segment id modulo 100 on top and in full on the
                left; PAD or blank is padding, MIX or ?? more than one.
            return_str: return the text; else it is written to stdout.

        Raises:
            IndexError: no such row or head.
            TracedMaskError: a value is traced.
        """
        from maskc.compile import compile_mask  # the compiler is not needed to import this
        from maskc_runtime.mask_info.lowering import mask_of

        rows, q_len, kv_len = self._lengths("visualize")
        for name, value, count in (("batch", batch, rows), ("head", head, self.heads)):
            if not 0 <= value < count:
                raise IndexError(f"{name}: expected 0 to {count - 1}, got {value}")
        if charset not in _CELLS:
            raise ValueError(f"charset: expected 'unicode' or 'ascii', got {charset!r}")
        size = block_size if isinstance(block_size, tuple | list) else (block_size, block_size)
        block_q, block_kv = (max(int(n), 1) for n in size)
        term = _or_full(both(self._ids_term(), self._whole_term()))
        mask = mask_of(term, "MaskInfo.visualize", batch, head)
        plan = compile_mask(
            mask, q_len=q_len, kv_len=kv_len, block_q=block_q, block_kv=block_kv, splash=False
        )
        cells = plan.fwd.states(*plan.grid("fwd"))[0][0]
        steps = [1, 1]
        if fit_in_screen:
            steps = [
                -(-n // most) for n, most in zip(cells.shape, (max_rows, max_cols), strict=True)
            ]
            cells = _joined(cells, *steps)
        labels = None
        if show_segments:
            ids = [host(x, "MaskInfo.visualize", "ids") for x in self._shown_ids()]
            one = [x[batch] if x.ndim == 2 else x[batch, head] for x in ids]
            spans = block_q * steps[0], block_kv * steps[1]
            labels = [_labels(x, span) for x, span in zip(one, spans, strict=True)]
        title = (
            f"Attention mask (batch={batch}, head={head}) block=({block_q}x{block_kv}) "
            f"mask_shape={(rows, self.heads, q_len, kv_len)}"
        )
        text = _picture(title, cells, labels, _CELLS[charset])
        if return_str:
            return text
        sys.stdout.write(text + "\n")
        return None

    # --- parts ---------------------------------------------------------------------------------

    def _shown_ids(self) -> tuple[Array, Array]:
        q, kv = self._ids()
        if q is not None:
            return q, kv
        _, q_len, kv_len = self._lengths("visualize")
        rows = self.batch_size or 1
        return np.zeros((rows, q_len), np.int32), np.zeros((rows, kv_len), np.int32)

    def _restricting_ids(self, where: str) -> Term | None:
        """The ids, unless they forbid nothing."""
        q, kv = self._ids()
        if q is None or _one_segment(*(host(x, where, "segment ids") for x in (q, kv))):
            return None
        return self._ids_term()

    def _plan_heads(self, where: str, heads: int | None) -> int:
        own = self.heads
        if heads is None:
            return own
        if own not in {1, heads}:
            raise ArgumentShapeError(
                f"{where}: the mask has {own} heads of its own, got heads={heads}"
            )
        return int(heads)

    def _compile(
        self,
        mask: Any,
        heads: int,
        blocks: int | tuple[int, int] | None,
        store: Tier | None,
        parameters: dict[str, Any],
    ) -> Plan:
        from maskc.compile import compile_cached, compile_request
        from maskc.expr import MultiHead
        from maskc.request import CompileRequest

        _, q_len, kv_len = self._lengths("plan")
        if blocks is not None:
            block_q, block_kv = blocks if isinstance(blocks, tuple | list) else (blocks, blocks)
            parameters = {"block_q": block_q, "block_kv": block_kv} | parameters
        count = len(mask.masks) if isinstance(mask, MultiHead) else heads
        request = CompileRequest(mask, q_len=q_len, kv_len=kv_len, heads=count, **parameters)
        if store is None:
            return compile_request(request)
        return compile_cached(request, store)[0]


def _or_full(term: Term | None) -> Term:
    from maskc.leaves import Full  # the compiler is not needed to import this

    return Static((Full(),)) if term is None else term


def _one_segment(q: npt.NDArray[Any], kv: npt.NDArray[Any]) -> bool:
    """Are all tokens of one segment, and none is padding?"""
    q, kv = np.asarray(q), np.asarray(kv)
    if not q.size or not kv.size:
        return True
    return bool(q.min() >= 0 and (q == q[..., :1]).all() and (kv == q[..., :1]).all())


def _fits(
    term: Compiled,
    info: Fields,
    heads: int | None,
    blocks: int | tuple[int, int] | None,
    parameters: dict[str, Any],
) -> bool:
    """Is the plan that it came from the one that is asked for?"""
    asked = blocks if blocks is None or isinstance(blocks, tuple | list) else (blocks, blocks)
    plan = term.plan
    sizes = {"block_q": plan.fwd.block_q, "block_kv": plan.fwd.block_kv}
    same = all(name in sizes and sizes[name] == value for name, value in parameters.items())
    plain = plan.fwd.blocks == plan.dq.blocks == plan.dkv.blocks or not (asked or parameters)
    return (
        same
        and plain
        and (asked is None or tuple(asked) == plan.fwd.blocks)
        and heads in {None, plan.heads // term.batch}
        and info.batch_size == term.batch
    )


def _joined(cells: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """Cells of `rows` x `columns` blocks: full or empty if all of theirs are, else partial."""
    edges = [np.arange(0, n, step) for n, step in zip(cells.shape, (rows, columns), strict=True)]

    def reduced(operator: np.ufunc) -> npt.NDArray[Any]:
        return operator.reduceat(operator.reduceat(cells, edges[0], axis=0), edges[1], axis=1)

    low, high = reduced(np.minimum), reduced(np.maximum)
    return np.where(low == high, low, 1)


def _labels(ids: npt.NDArray[Any], span: int) -> list[int]:
    """The id of each stretch of tokens; -1 is padding, -2 is several."""
    edges = np.arange(0, len(ids), span)
    ids = np.maximum(ids, -1)
    low, high = (operator.reduceat(ids, edges) for operator in (np.minimum, np.maximum))
    return [int(x) for x in np.where(low == high, low, _MIXED)]


def _picture(
    title: str,
    cells: npt.NDArray[Any],
    labels: list[list[int]] | None,
    characters: tuple[str, str, str],
) -> str:
    names = {-1: "  ", _MIXED: "??"}
    long_names = {-1: "PAD", _MIXED: "MIX"}
    indent = 7 if labels else 0
    lines = [title]
    if labels:
        top = "".join(names.get(label, f"{label % 100:02d}") for label in labels[1])
        lines.append(" " * (indent + 2) + top)
    border = " " * (indent + 2) + "=" * (2 * cells.shape[1])
    lines.append(border)
    for number, row in enumerate(cells):
        side = ""
        if labels:
            label = labels[0][number]
            side = f"{long_names.get(label, str(label)):>6} "
        lines.append(f"{side}||{''.join(characters[cell] for cell in row)}||")
    lines.append(border)
    lines.append(f"full '{characters[2]}', partial '{characters[1]}', empty '{characters[0]}'")
    if labels:
        lines.append("left: segment ids of the queries, top: of the keys")
    return "\n".join(lines)
