"""Parts that look their elements up: `table[q_index[q], kv_index[kv]]`.

Tiles, segments, products over axes and reordered tokens all come down to small tables. A block
sees a window of each index, and windows repeat; what a window holds is a few values (`q // 64` of
128 queries are two) in some arrangement, so equal arrangements of equal pieces of the table are
equal blocks, wherever they come from.
"""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from maskc.blocking import BlockGrid
from maskc.content import ALL, NONE, Grid, Ints, Part
from maskc.packed import Bits, pack, transposed, unpack

__all__ = ["TablePart", "numbered"]

Bools = npt.NDArray[np.bool_]

_CACHED = 1 << 25  # bytes of table columns by window that are kept
_CELLS = 1 << 22  # elements of pieces compared at a time


def numbered(codes: npt.NDArray[np.uint8], known: dict[bytes, int] | None = None) -> Ints:
    """A number for each row of bytes, the same for equal rows; ascending as rows first appear.

    Args:
        codes: [n, bytes].
        known: rows that have numbers already; added to.
    """
    known = {} if known is None else known
    data, size = np.ascontiguousarray(codes).tobytes(), codes.shape[1]
    rows = (data[start : start + size] for start in range(0, len(data), size))
    return np.array([known.setdefault(row, len(known)) for row in rows], np.int64)


def _bytes_of(rows: Ints) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)


class _Windows(NamedTuple):
    """The distinct windows that the blocks of one side see.

    Attributes:
        of: [blocks], the number of each block's window.
        tokens: [windows, block], what each holds; -1 beyond the lengths and for padding.
        values: [windows, most], the distinct ones of each, ascending; the last one is repeated.
        ranks: [windows, block], which of its values each token of a window has.
        shape: [windows], a number for its ranks.
    """

    of: Ints
    tokens: Ints
    values: Ints
    ranks: Ints
    shape: Ints

    def reduced(self, lines: Bits, ufunc: np.ufunc) -> Bits:
        """`ufunc` over the lines of bits [values, bytes] that each window has."""
        out = np.empty((len(self.values), lines.shape[1]), np.uint8)
        step = max(1, _CELLS // (self.values.shape[1] * lines.shape[1]))
        for start in range(0, len(out), step):
            some = slice(start, start + step)
            ufunc.reduce(lines[self.values[some]], axis=1, out=out[some])
        return out


def _windows(index: Ints, block: int, blocks: int) -> _Windows:
    padded = np.full(blocks * block, -1, np.int32)
    padded[: len(index)] = index
    lines = padded.reshape(blocks, block)
    of = numbered(_bytes_of(lines))
    distinct = lines[np.unique(of, return_index=True)[1]]
    order = np.argsort(distinct, axis=1, kind="stable")
    ascending = np.take_along_axis(distinct, order, axis=1)
    rank = np.zeros(distinct.shape, np.int32)
    np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1, out=rank[:, 1:])
    most = int(rank.max()) + 1
    values = np.repeat(ascending[:, -1:], most, axis=1)
    np.put_along_axis(values, rank, ascending, axis=1)
    ranks = np.empty_like(rank)
    np.put_along_axis(ranks, order, rank, axis=1)
    return _Windows(of, distinct, values, ranks, numbered(_bytes_of(ranks)))


def _merged(table: Bools, index: Ints) -> tuple[Bools, Ints]:
    """Equal rows of the table as one, and none for rows that are False."""
    used = np.unique(index[index >= 0])
    used = used[table[used].any(axis=1)]
    if not len(used):
        return table[:0], np.full_like(index, -1)
    number = numbered(pack(table[used]))
    place = np.full(len(table) + 1, -1, np.int32)  # the last one is that of -1
    place[used] = number
    return table[used[np.unique(number, return_index=True)[1]]], place[index]


def _columns(table: Bools, index: Ints) -> Bools:
    """The table's columns at some indices; slices where these ascend one by one."""
    cuts = np.flatnonzero(np.diff(index) != 1) + 1
    if 16 * len(cuts) > len(index) or index.min() < 0:
        return table.take(index, axis=1)
    starts = index[np.append(0, cuts)].tolist()
    lengths = np.diff(np.concatenate([[0], cuts, [len(index)]])).tolist()
    pieces = [table[:, i : i + n] for i, n in zip(starts, lengths, strict=True)]
    return np.concatenate(pieces, axis=1)


@final
class TablePart(Part):
    """`table[q_index[q], kv_index[kv]]`, and False where an index is -1.

    Args:
        table: bool [rows, columns].
        q_index: int [q_len].
        kv_index: int [kv_len].
        blocking: of the result.
    """

    def __init__(self, table: Bools, q_index: Ints, kv_index: Ints, blocking: BlockGrid) -> None:
        table, q_index = _merged(table, q_index)
        turned, kv_index = _merged(transposed(table), kv_index)
        turned = np.pad(turned, ((0, 1), (0, 1)))  # the last ones are what index -1 finds
        self._table = transposed(turned)
        self._q = _windows(q_index, blocking.block_q, blocking.nq)
        self._kv = _windows(kv_index, blocking.block_kv, blocking.nk)
        self._blocking = blocking
        self.bound = 2 + len(self._q.tokens) * len(self._kv.tokens)
        columns = pack(turned)
        self._some = self._bounds(columns, np.bitwise_or)
        self._every = self._bounds(columns, np.bitwise_and)
        piece = self._q.values.shape[1] * self._kv.values.shape[1]
        self._pieces: dict[bytes, int] | None = None
        if piece <= max(64, blocking.block_q * blocking.block_kv // 64):
            self._pieces = {}  # cheaper to compare than to draw
        self._distinct = 0  # classes, so far
        self._lines: Bits | None = None

    def _bounds(self, columns: Bits, ufunc: np.ufunc) -> Bits:
        """`ufunc` over the blocks of all pairs of windows, [windows of queries, bits of keys']."""
        by_window = unpack(self._kv.reduced(columns, ufunc), self._table.shape[0])
        return self._q.reduced(pack(transposed(by_window)), ufunc)

    def _classify(self, rows: range) -> Grid:
        windows, inverse = np.unique(self._q.of[rows.start : rows.stop], return_inverse=True)
        return np.asarray(self._by_window(windows)[inverse][:, self._kv.of])

    def _by_window(self, windows: Ints) -> Grid:
        """Classes of the blocks that some windows of queries and all windows of keys make."""
        columns = len(self._kv.tokens)
        some, every = (unpack(bits[windows], columns) for bits in (self._some, self._every))
        classes = np.where(every, ALL, NONE)
        a, b = np.nonzero(some & ~every)
        if self._pieces is None:
            classes[a, b] = 2 + windows[a] * columns + b
            self._distinct += len(a)
        else:
            classes[a, b] = 2 + self._piece_numbers(windows[a], b, self._pieces)
            self._distinct = len(self._pieces)
        return classes

    def _piece_numbers(self, a: Ints, b: Ints, known: dict[bytes, int]) -> Ints:
        numbers = np.empty(len(a), np.int64)
        step = max(1, _CELLS // (self._q.values.shape[1] * self._kv.values.shape[1]))
        for start in range(0, len(a), step):
            i, j = a[start : start + step], b[start : start + step]
            piece = self._table[self._q.values[i][:, :, None], self._kv.values[j][:, None, :]]
            shapes = np.stack([self._q.shape[i], self._kv.shape[j]], axis=1)
            codes = np.concatenate([pack(piece.reshape(len(i), -1)), _bytes_of(shapes)], axis=1)
            numbers[start : start + step] = numbered(codes, known)
        return numbers

    def _draw(self, at: Ints, out: Bits) -> None:
        q, kv = self._q.of[at[:, 0]], self._kv.of[at[:, 1]]
        pieces = self._distinct * self._q.values.shape[1]
        if self._lines is None and 2 * pieces < len(self._kv.tokens) * self._table.shape[0]:
            for block, i, j in zip(out, q.tolist(), kv.tolist(), strict=True):
                piece = _columns(self._table[self._q.values[i]], self._kv.tokens[j])
                pack(piece).take(self._q.ranks[i], axis=0, out=block)
            return
        if self._lines is None and len(self._kv.tokens) * self._line_bytes <= _CACHED:
            self._lines = self._seen(np.arange(len(self._kv.tokens)))
        lines = self._lines
        if lines is None:
            used, kv = np.unique(kv, return_inverse=True)
            lines = self._seen(used)
        height = self._table.shape[0]
        rows = self._q.tokens[q] % height + kv[:, None] * height
        lines.reshape(-1, self._blocking.width).take(rows, axis=0, out=out, mode="clip")

    @property
    def _line_bytes(self) -> int:
        return int(self._table.shape[0] * self._blocking.width)

    def _seen(self, windows: Ints) -> Bits:
        """The table's rows as each window of keys sees them, [windows, rows, bytes]."""
        return np.stack([pack(_columns(self._table, self._kv.tokens[w])) for w in windows])
