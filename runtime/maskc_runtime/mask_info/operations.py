"""What restricts a `MaskInfo` further. Every operation keeps documents and padding."""

# ruff: noqa: SLF001  # what is private to the class is shared by its modules
from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np

from maskc_runtime.mask_info.debug import logged
from maskc_runtime.mask_info.errors import ArgumentShapeError
from maskc_runtime.mask_info.fields import Fields
from maskc_runtime.mask_info.segments import integers, joined_ids, padding_ids
from maskc_runtime.mask_info.terms import Between, Equal, Moved, Static, Term, either
from maskc_runtime.mask_info.traced import Array, is_traced, namespace

__all__ = ["Operations"]

_FAR = 1 << 29  # beyond every length, and far from the end of int32
_POLICIES = ("q", "kv", "both", "none")
_COMBINATIONS = ("union", "intersect", "replace")
_MODES = (None, "default", "decode", "prefill")


class Operations(Fields):
    """The `apply_*` methods. Each returns a new object."""

    @logged
    def apply_causal(self, offset: Any = 0) -> Self:
        """`kv <= q + offset`.

        Args:
            offset: an integer, or int [batch], traced or not; a mask of one row gets as many rows.
        """
        _, q_len, _ = self._lengths("apply_causal")
        term = _band(None, 0, offset, q_len, "apply_causal")
        return self._restricted(term, _rows_of(term), causal_mask_baked_in=True)

    @logged
    def apply_sliding_window(
        self,
        sliding_window: Any,
        *,
        offset: Any = 0,
        mode: Literal["default", "decode", "prefill"] | None = None,
        index: Any = None,
    ) -> Self:
        """`q + offset - left <= kv <= q + offset + right`, both sides inclusive.

        Args:
            sliding_window: `(left, right)`, or one integer for both; None is unbounded.
            offset: an integer, or int [batch].
            mode: "decode" keeps one query and the `left + right + 1` keys around it. The query is
                row `index` of the mask, or its only row, which then acts as position `index`; the
                keys begin at `clip(index + offset - left, 0, kv_len - width)`, as those that
                `lax.dynamic_slice` would cut out of a cache. "prefill" keeps all queries and the
                last keys: as many as an integer window says, or `left + right + 1`. None and
                "default" keep all of both.
            index: for "decode": an integer, or int [batch].

        Raises:
            ValueError: a negative side, an unknown mode, decode without an index, or an unbounded
                side where keys are cut out.
            ArgumentShapeError: a known index that is no row of the mask.
        """
        _, q_len, kv_len = self._lengths("apply_sliding_window")
        left, right = _window(sliding_window)
        if mode not in _MODES:
            raise ValueError(f"mode: expected 'default', 'decode' or 'prefill', got {mode!r}")
        width = kv_len
        if mode in {"decode", "prefill"}:
            if not (isinstance(left, int) and isinstance(right, int)):
                raise ValueError(f"sliding_window: mode={mode!r} needs two known bounds")
            whole = (
                left if mode == "prefill" and not isinstance(sliding_window, tuple | list) else None
            )
            width = min(left + right + 1 if whole is None else whole, kv_len)
        if mode != "decode":
            term = _band(left, right, offset, q_len, "apply_sliding_window")
            info = self._restricted(term, _rows_of(term), sliding_window_baked_in=True)
            return info._cut(
                np.array([0], np.int32), np.array([kv_len - width], np.int32), q_len, width
            )
        if index is None:
            raise ValueError("index: mode='decode' needs the position of the query")
        at, shift = _by_row("index", index), _by_row("offset", offset)
        xp = namespace(at, shift)
        one = q_len == 1
        if not one and not is_traced(at) and bool(((at < 0) | (at >= q_len)).any()):
            raise ArgumentShapeError(f"index: expected 0 to {q_len - 1}, got {index}")
        row = xp.zeros(1, xp.int32) if one else at
        term = _band(left, right, shift + at if one else shift, q_len, "apply_sliding_window")
        start = xp.clip(at + shift - left, 0, kv_len - width)
        info = self._restricted(term, _rows_of(term), sliding_window_baked_in=True)
        return info._cut(row, start, 1, width)

    @logged
    def apply_chunked(self, chunk_size: Any, offset: Any = 0) -> Self:
        """Causal inside chunks: `kv <= q + offset` and both in one chunk of `chunk_size`.

        Segment ids stay those of the documents.

        Args:
            chunk_size: keys per chunk; a traced one below 1 leaves nothing.
            offset: the query acts as position `q + offset`; an integer, or int [batch].

        Raises:
            ValueError: a known chunk size below 1.
        """
        _, q_len, kv_len = self._lengths("apply_chunked")
        size, shift = _known("chunk_size", chunk_size), _known("offset", offset)
        if isinstance(size, int) and size < 1:
            raise ValueError(f"chunk_size: expected an integer >= 1, got {size}")
        if isinstance(size, int) and isinstance(shift, int):
            from maskc.combinators import Shift  # the compiler is not needed to import this
            from maskc.leaves import ChunkedCausal

            chunks = ChunkedCausal(size)
            term: Term = Static((Shift(chunks, q=-shift) if shift else chunks,))
            return self._restricted(term, chunked_mask_baked_in=True)
        length, shift = _by_row("chunk_size", size), _by_row("offset", shift)
        xp = namespace(length, shift)
        q = xp.arange(q_len, dtype=xp.int32) + shift[:, None]
        start = xp.where(length[:, None] > 0, q // xp.maximum(length, 1)[:, None], 0)
        starts = start * length[:, None]
        stops = xp.where((length[:, None] > 0) & (q >= 0), xp.minimum(q + 1, kv_len), 0)
        term = Between(starts, stops)
        return self._restricted(term, _rows_of(term), chunked_mask_baked_in=True)

    @logged
    def apply_token_type_ids(
        self,
        token_type_ids: Any,
        *,
        combine: Literal["union", "intersect", "replace"] = "union",
        zero_policy: Literal["q", "kv", "both", "none"] = "q",
        update_segment_ids: bool | None = None,
    ) -> Self:
        """Tokens of one type: also may attend each other, or only they may.

        "union" adds pairs of one type to what may attend, "intersect" keeps only those, "replace"
        has them in place of every mask and condition so far. Never across documents or into
        padding: segment ids keep holding.

        Args:
            token_type_ids: int [batch, len], or a tuple of those of queries and keys; negative
                ones are of no type.
            combine: "union", "intersect" or "replace".
            zero_policy: on which side type 0 is no type: "q", "kv", "both" (all the same, because
                a pair has equal types), or "none", where 0 is a type like others.
            update_segment_ids: write (segment, type) into the segment ids in place of a condition.
                That means the same until a later "union" or "replace", beneath which ids hold and
                conditions do not. None does it for "intersect" and "replace".

        Raises:
            ValueError: another `combine` or `zero_policy`, or ids to be updated for "union", which
                no ids can say.
        """
        batch, q_len, kv_len = self._lengths("apply_token_type_ids")
        for name, value, known in (
            ("combine", combine, _COMBINATIONS),
            ("zero_policy", zero_policy, _POLICIES),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        update = combine != "union" if update_segment_ids is None else update_segment_ids
        if update and combine == "union":
            raise ValueError("update_segment_ids: no segment ids mean what a union means")
        given = token_type_ids if isinstance(token_type_ids, tuple) else (token_type_ids,) * 2
        q, kv = (integers("token_type_ids", x, 2) for x in given)
        if (q.shape[1], kv.shape[1]) != (q_len, kv_len) or q.shape[0] != kv.shape[0]:
            raise ArgumentShapeError(
                f"token_type_ids: expected [batch, {q_len}] for queries and [batch, {kv_len}] for "
                f"keys, got {q.shape} and {kv.shape}"
            )
        info = self._with_ids()._of_batch(q.shape[0])
        xp = namespace(q, kv)
        if zero_policy != "none":
            q, kv = (xp.where(x == 0, -1, x) for x in (q, kv))
        types = Equal(q, kv)
        term = {
            "union": either(info._whole_term(), types),
            "intersect": info._whole_term(),
            "replace": None,
        }[combine]
        info = info._changed(_attention_mask=None, _derived=False, _term=term)
        info = info._changed(token_type_ids_baked_in=True, _cu_seqlens_q=None, _cu_seqlens_kv=None)
        if combine == "union":
            return info
        if not update:
            return info._restricted(types)
        ids = info._ids()
        xp = namespace(ids, q, kv)
        rows = max(batch, q.shape[0])
        q, kv = (xp.broadcast_to(x, (rows, x.shape[1])) for x in (q, kv))
        if ids[0].ndim == 3:
            q, kv = (xp.repeat(x[:, None], ids[0].shape[1], 1) for x in (q, kv))
        q, kv = joined_ids((ids[0], q), (ids[1], kv))
        return info._changed(_q_segment_ids=q, _kv_segment_ids=kv)

    @logged
    def apply_kv_lengths(
        self,
        kv_lengths: Any,
        *,
        q_len: int | None = None,
        sliding_window: int | None = None,
        end_index: Any = None,
    ) -> Self:
        """For a cache that is filled so far: keys from each row's length on become padding.

        Args:
            kv_lengths: an integer or int [batch], keys of each row that are filled.
            q_len: queries to keep: those that end before `end_index`, from
                `max(end_index - q_len, 0)` on. A mask of that many queries keeps them all.
            sliding_window: keep only so many keys, the last ones before the length; they begin at
                `clip(length - sliding_window, 0, kv_len - sliding_window)`.
            end_index: one past the last query, an integer or int [batch]; None is `kv_lengths`
                (ejKernel 0.0.80 gives both, 0.0.31 only the lengths).

        Raises:
            ValueError: no `q_len`.
            ArgumentShapeError: more queries than the mask has.
        """
        batch, own_q, own_kv = self._lengths("apply_kv_lengths")
        if q_len is None:
            raise ValueError("q_len: expected the number of queries to keep")
        lengths = _by_row("kv_lengths", kv_lengths)
        ends = lengths if end_index is None else _by_row("end_index", end_index)
        if not 1 <= q_len <= own_q:
            raise ArgumentShapeError(f"q_len: expected 1 to {own_q}, got {q_len}")
        info = self._with_ids()._of_batch(max(batch, len(lengths), len(ends)))
        ids = info._ids()
        width = own_kv if sliding_window is None else min(int(sliding_window), own_kv)
        if width < 1:
            raise ValueError(f"sliding_window: expected an integer >= 1, got {sliding_window}")
        xp = namespace(ids, lengths, ends)
        if own_q != q_len and not is_traced(ends) and bool((ends > own_q).any()):
            raise ArgumentShapeError(
                f"{'kv_lengths' if end_index is None else 'end_index'}: expected at most the "
                f"{own_q} queries of the mask, got {ends}"
            )
        filled = xp.arange(own_kv) < lengths[:, None]
        filled = filled[:, None] if ids[1].ndim == 3 else filled
        kv = xp.where(filled, ids[1], -1)
        q_start = xp.clip(ends - q_len, 0, own_q - q_len)
        kv_start = xp.clip(lengths - width, 0, own_kv - width)
        if info._derived:
            info = info._changed(_attention_mask=None, _derived=False)
        info = info._changed(_q_segment_ids=ids[0], _kv_segment_ids=kv)
        return info._cut(q_start, kv_start, q_len, width)

    def _with_ids(self) -> Self:
        """A copy with ids: those of the explicit mask's padding if none were given."""
        if self._ids()[0] is not None:
            return self
        batch, q_len, kv_len = self._lengths("segment ids")
        mask = self._explicit()
        xp = namespace(mask)
        if mask is not None:
            q, kv = padding_ids(mask)
        else:
            q, kv = (xp.zeros((batch, n), xp.int32) for n in (q_len, kv_len))
        return self._changed(_q_segment_ids=q, _kv_segment_ids=kv)

    def _cut(self, q_start: Array, kv_start: Array, q_len: int, kv_len: int) -> Self:
        """The queries and keys from a start on, of each row; starts are inside the mask."""
        batch, own_q, own_kv = self._lengths("slicing")
        info = self._changed(_cu_seqlens_q=None, _cu_seqlens_kv=None)
        if (q_len, kv_len) == (own_q, own_kv):
            return info
        info = info._with_ids()._of_batch(max(batch, len(q_start), len(kv_start)))
        term = info._whole_term()
        ids = info._ids()
        moves = ((q_start, q_len), (kv_start, kv_len)) * 2
        arrays = (*ids, info.q_positions, info.kv_positions)
        q, kv, q_at, kv_at = (
            None if x is None else _slices(namespace(x).asarray(x), *move)
            for x, move in zip(arrays, moves, strict=True)
        )
        return info._changed(
            _attention_mask=None,
            _derived=False,
            _q_segment_ids=q,
            _kv_segment_ids=kv,
            q_positions=q_at,
            kv_positions=kv_at,
            _term=None if term is None else Moved(term, q_start, kv_start, own_q, own_kv),
        )


def _slices(values: Array, start: Array, length: int) -> Array:
    """`values[b, ..., start[b] : start[b] + length]` for each row."""
    xp = namespace(values, start)
    at = xp.asarray(start)[:, None] + xp.arange(length)
    at = at.reshape(at.shape[0], *(1,) * (values.ndim - 2), length)
    at = xp.broadcast_to(at, (*values.shape[:-1], length))
    return xp.take_along_axis(values, at, axis=-1)


def _known(where: str, value: Any) -> Any:
    """An integer as int, None as it is, everything else as int32 [batch or 1]."""
    if value is None:
        return None
    if is_traced(value):
        return _by_row(where, value)
    array = np.asarray(value)
    if array.ndim == 0 and np.issubdtype(array.dtype, np.integer):
        return int(array)
    rows = _by_row(where, value)
    return int(rows[0]) if len(rows) == 1 else rows


def _by_row(where: str, value: Any) -> Array:
    """Int32 [batch or 1]."""
    return integers(where, value, 0, 1).reshape(-1)


def _window(window: Any) -> tuple[Any, Any]:
    """`(left, right)`; sides are int, None or int32 [batch or 1]."""
    sides = tuple(window) if isinstance(window, tuple | list) else (window, window)
    if len(sides) != 2:
        raise ValueError(f"sliding_window: expected an integer or (left, right), got {window!r}")
    left, right = (_known("sliding_window", side) for side in sides)
    for side in (left, right):
        if isinstance(side, int) and side < 0:
            raise ValueError(f"sliding_window: expected sides >= 0, got {window!r}")
    return left, right


def _band(left: Any, right: Any, offset: Any, q_len: int, where: str) -> Term:
    """`q + offset - left <= kv <= q + offset + right`: an expression if all of it is known."""
    offset = _known(f"{where}: offset", offset)
    if all(x is None or isinstance(x, int) for x in (left, right, offset)):
        from maskc.leaves import Causal, Local  # the compiler is not needed to import this

        if left is None and right == 0:
            return Static((Causal(offset),))
        return Static((Local(left, right, offset),))
    left, right, shift = (_by_row(where, _FAR if x is None else x) for x in (left, right, offset))
    xp = namespace(left, right, shift)
    at = xp.arange(q_len, dtype=xp.int32) + shift[:, None]
    return Between(at - left[:, None], at + right[:, None] + 1)


def _rows_of(term: Term) -> int:
    """Batch rows that a band tells apart."""
    if isinstance(term, Between):
        return max(int(term.starts.shape[0]), int(term.stops.shape[0]))
    return 1
