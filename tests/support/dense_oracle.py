"""The ground truth: every node's dense definition in a line or two, written out naively."""

import numpy as np

from maskc import expr


def dense(mask, q_len, kv_len):  # noqa: C901, PLR0911, PLR0912  # one case per node, nothing else
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
        case expr.ChunkedCausal(chunk=chunk):
            return (q // chunk == kv // chunk) & (q >= kv)
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
    raise TypeError(mask)


def shift(mask, q_len, kv_len):
    return mask.offset + (kv_len - q_len if mask.align == "bottom_right" else 0)


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def random_element(mask, q, kv):
    return mix((mix((mask.seed + q) % 2**64) + kv) % 2**64) >= mask.sparsity * 2**64
