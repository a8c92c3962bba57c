"""The ground truth of `MaskInfo`: dense numpy, every operation in a line or two.

`ids` hold always; `mask` is everything else, bool [batch, heads, q_len, kv_len].
"""

import numpy as np


class DenseInfo:
    def __init__(self, q_ids, kv_ids=None, mask=None):
        self.q, self.kv = np.array(q_ids), np.array(q_ids if kv_ids is None else kv_ids)
        shape = (len(self.q), 1, self.q.shape[1], self.kv.shape[1])
        self.mask = np.ones(shape, bool) if mask is None else np.array(mask, bool)

    @property
    def whole(self):
        ids = (self.q[:, :, None] == self.kv[:, None, :]) & (self.q[:, :, None] >= 0)
        return self.mask & ids[:, None]

    def grid(self):
        return np.arange(self.q.shape[1])[:, None], np.arange(self.kv.shape[1])[None, :]

    def keep(self, allowed):
        self.mask = self.mask & np.reshape(allowed, (-1, 1, *np.shape(allowed)[-2:]))

    def apply_causal(self, offset=0):
        q, kv = self.grid()
        self.keep([kv <= q + o for o in np.ravel(offset)])

    def apply_sliding_window(self, window, offset=0):
        q, kv = self.grid()
        left, right = window if isinstance(window, tuple) else (window, window)
        left, right = (10**6 if side is None else side for side in (left, right))
        at = [q + o for o in np.ravel(offset)]
        self.keep([(a - left <= kv) & (kv <= a + right) for a in at])

    def apply_chunked(self, chunk, offset=0):
        q, kv = self.grid()
        self.keep([((q + o) // chunk == kv // chunk) & (kv <= q + o) for o in np.ravel(offset)])

    def apply_token_type_ids(self, types, combine, zero_policy, *, update=False):
        types = types if zero_policy == "none" else np.where(types == 0, -1, types)
        if update:  # what ids say holds from now on, whatever is combined later
            self.q, self.kv = (
                np.where((ids >= 0) & (types >= 0), 100 * ids + types, -1)
                for ids in (self.q, self.kv)
            )
            self.mask = self.mask | (combine == "replace")
            return
        equal = ((types[:, :, None] == types[:, None, :]) & (types[:, :, None] >= 0))[:, None]
        combined = {"union": self.mask | equal, "intersect": self.mask & equal}
        self.mask = combined.get(combine, np.broadcast_to(equal, self.mask.shape))

    def apply_kv_lengths(self, lengths, q_len, sliding_window=None, end_index=None):
        kv = np.arange(self.kv.shape[1])
        self.kv = np.where(kv < np.reshape(lengths, (-1, 1)), self.kv, -1)
        ends = lengths if end_index is None else end_index
        width = len(kv) if sliding_window is None else min(sliding_window, len(kv))
        rows = [min(max(end - q_len, 0), self.q.shape[1] - q_len) for end in ends]
        columns = [min(max(length - width, 0), len(kv) - width) for length in lengths]
        self.cut(rows, columns, q_len, width)

    def prefill(self, window):
        self.apply_sliding_window(window)
        width = window if isinstance(window, int) else sum(window) + 1
        width = min(width, self.kv.shape[1])
        count = len(self.q)
        self.cut([0] * count, [self.kv.shape[1] - width] * count, self.q.shape[1], width)

    def decode(self, window, index):
        left, right = window
        if self.q.shape[1] == 1:
            self.apply_sliding_window(window, offset=index)
        else:
            self.apply_sliding_window(window)
        width = min(left + right + 1, self.kv.shape[1])
        rows = [0 if self.q.shape[1] == 1 else i for i in index]
        columns = [min(max(i - left, 0), self.kv.shape[1] - width) for i in index]
        self.cut(rows, columns, 1, width)

    def cut(self, rows, columns, q_len, kv_len):
        mask = np.broadcast_to(self.mask, (len(rows), *self.mask.shape[1:]))
        q, kv = (np.broadcast_to(x, (len(rows), x.shape[1])) for x in (self.q, self.kv))
        slices = [
            (slice(r, r + q_len), slice(c, c + kv_len)) for r, c in zip(rows, columns, strict=True)
        ]
        self.mask = np.stack([m[:, r, c] for m, (r, c) in zip(mask, slices, strict=True)])
        self.q = np.stack([x[r] for x, (r, _) in zip(q, slices, strict=True)])
        self.kv = np.stack([x[c] for x, (_, c) in zip(kv, slices, strict=True)])


def dense_of_plan(plan, batch, heads):
    """[batch, heads, q_len, kv_len] of a plan for all rows, or with the rows folded into heads."""
    masks = np.stack([plan.to_dense(head) for head in range(plan.heads)])
    if plan.heads == batch * heads:
        return masks.reshape(batch, heads, *masks.shape[1:])
    assert plan.heads == heads
    return np.broadcast_to(masks, (batch, *masks.shape))
