"""The ground truth: every node's dense definition in a line or two, written out naively."""

import functools

import numpy as np

from maskc import expr
from maskc.strips import Strips


def dense(mask, q_len, kv_len):  # noqa: C901, PLR0911, PLR0912, PLR0915  # one case per node, nothing else
    """bool [q_len, kv_len]; True where query q may attend key kv."""
    q, kv = np.arange(q_len)[:, None], np.arange(kv_len)[None, :]
    ones = np.ones((q_len, kv_len), bool)
    match mask:
        case expr.Full():
            return ones
        case expr.Empty():
            return ~ones
        case expr.Causal():
            return ones & (kv <= q + shift(mask, q_len, kv_len))
        case expr.Local(left=left, right=right):
            at = q + shift(mask, q_len, kv_len)
            low, high = (10**9 if side is None else side for side in (left, right))
            return ones & (kv >= at - low) & (kv <= at + high)
        case expr.Chunked(chunk=chunk, offset=offset):
            return (q - offset) // chunk == (kv - offset) // chunk
        case expr.ChunkedCausal(chunk=chunk, offset=offset):
            return ((q - offset) // chunk == (kv - offset) // chunk) & (q >= kv)
        case expr.Strided(stride=stride, phase=phase):
            return (q - kv) % stride == phase % stride
        case expr.Diagonals(distances=distances):
            return np.isin(q - kv, distances.array)
        case expr.Intervals(starts=starts, stops=stops):
            return (starts.array[:q_len, None] <= kv) & (kv < stops.array[:q_len, None])
        case expr.Queries(positions=positions):
            return ones & np.isin(q, positions.array)
        case expr.Keys(positions=positions):
            return ones & np.isin(kv, positions.array)
        case expr.Neighborhood():
            return neighborhood(mask)
        case expr.Shift(mask=inner):
            return shifted(mask, inner, q_len, kv_len)
        case expr.Transpose(mask=inner):
            return dense(inner, kv_len, q_len).T
        case expr.Remap(mask=inner):
            rows = mask.q_positions.array
            columns = (mask.kv_positions or mask.q_positions).array
            q_len = mask.q_len or max(rows.max() + 1, 1)
            kv_len = mask.kv_len or max(columns.max() + 1, 1)
            padded = np.pad(dense(inner, q_len, kv_len), ((0, 1), (0, 1)))  # -1 is the padding
            return padded[np.maximum(rows, -1)[:, None], np.maximum(columns, -1)]
        case expr.Kron(masks=masks):
            rows, columns = grid(mask.q_shape, q_len), grid(mask.kv_shape or mask.q_shape, kv_len)
            factors = [dense(m, *size) for m, *size in zip(masks, rows, columns, strict=True)]
            return functools.reduce(np.kron, factors)[:q_len, :kv_len].astype(bool)
        case expr.Prefix(length=length):
            return ones & (kv < length)
        case expr.Rectangle():
            q_stop = q_len if mask.q_stop is None else mask.q_stop
            kv_stop = kv_len if mask.kv_stop is None else mask.kv_stop
            return (mask.q_start <= q) & (q < q_stop) & (mask.kv_start <= kv) & (kv < kv_stop)
        case expr.Segments():
            a, b = np.array(mask.q_ids.array), np.array((mask.kv_ids or mask.q_ids).array)
            return (a[:, None] == b[None, :]) & (a[:, None] >= 0)
        case expr.Documents():
            out = ~ones
            a, b = mask.cu_seqlens.array, (mask.kv_cu_seqlens or mask.cu_seqlens).array
            for d in range(len(a) - 1):
                out[a[d] : a[d + 1], b[d] : b[d + 1]] = True
            return out
        case expr.Dense():
            return mask.mask.rows(0, q_len)
        case expr.Blocks():
            tile_q, tile_kv = mask.tile
            whole = mask.pattern.rows(0, mask.pattern.shape[0])
            return whole.repeat(tile_q, 0).repeat(tile_kv, 1)[:q_len, :kv_len]
        case expr.Random():
            value = [[random_element(mask, i, j) for j in range(kv_len)] for i in range(q_len)]
            return np.array(value, bool)
        case expr.Not():
            return ~dense(mask.mask, q_len, kv_len)
        case expr.And():
            return np.logical_and.reduce([dense(m, q_len, kv_len) for m in mask.masks])
        case expr.Or():
            return np.logical_or.reduce([dense(m, q_len, kv_len) for m in mask.masks])
        case expr.Xor():
            return np.logical_xor.reduce([dense(m, q_len, kv_len) for m in mask.masks])
        case Strips():
            return strip_rows(mask)
    raise TypeError(mask)


def strip_rows(mask):
    """A strip form, interval by interval and row by row."""
    rows, ptr, ends = (array.tolist() for array in mask.arrays)
    out = np.zeros((rows[-1], mask.keys), bool)
    for strip in range(len(rows) - 1):
        for row in range(rows[strip], rows[strip + 1]):
            for lo, hi, lo_slope, hi_slope in ends[ptr[strip] : ptr[strip + 1]]:
                down = row - rows[strip]
                out[row, lo + down * lo_slope : hi + down * hi_slope] = True
    return np.kron(out, np.ones(mask.grain, bool))


def shifted(mask, inner, q_len, kv_len):
    lengths = (mask.q_len or q_len - mask.q, mask.kv_len or kv_len - mask.kv)
    out = np.zeros((q_len, kv_len), bool)
    if min(lengths) > 0:
        for (i, j), value in np.ndenumerate(dense(inner, *lengths)):
            if 0 <= i + mask.q < q_len and 0 <= j + mask.kv < kv_len:
                out[i + mask.q, j + mask.kv] = value
    return out


def grid(shape, length):
    rest = int(np.prod(shape[1:]))
    return (-(-length // rest), *shape[1:])


def neighborhood(mask):
    """NATTEN's own predicate (natten/backends/flex.py), coordinate by coordinate."""
    out = []
    for q in np.ndindex(mask.shape):
        for kv in np.ndindex(mask.shape):
            axes = zip(q, kv, mask.shape, mask.axes, strict=True)
            out.append(all(near(i, j, n, *axis) for i, j, n, axis in axes))
    tokens = int(np.prod(mask.shape))
    return np.array(out).reshape(tokens, tokens)


def near(q, k, n, kernel, dilation, stride, causal):
    if q % dilation != k % dilation:
        return False
    n = len(range(q % dilation, n, dilation))
    q, k = q // dilation, k // dilation
    if causal:
        return q - k >= 0 and min(q // stride * stride + stride - 1, n - 1) - k < kernel
    left, right = kernel // 2, kernel // 2 + kernel % 2 - 1
    centre = min(max(min(q // stride * stride + stride // 2, n - 1), left), n - 1 - right)
    return -right <= centre - k <= left


def shift(mask, q_len, kv_len):
    return mask.offset + (kv_len - q_len if mask.align == "bottom_right" else 0)


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def random_element(mask, q, kv):
    row = mix((mix(mask.seed) + q) % 2**64)
    words = (mix((row + kv - kv % 64 + place) % 2**64) for place in range(64))
    digits = "".join(str(word >> kv % 64 & 1) for word in words)
    return int(digits, 2) >= mask.sparsity * 2**64
