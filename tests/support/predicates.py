"""Plans against predicates, written as the mask's publication writes them."""

import numpy as np

from maskc import compile_mask


def holds(mask, predicate, q_len=48, kv_len=None):
    """The plan's every direction is `predicate(q, kv)`, with blocks that do and do not divide."""
    kv_len = q_len if kv_len is None else kv_len
    q, kv = np.arange(q_len)[:, None], np.arange(kv_len)[None, :]
    expected = np.broadcast_to(predicate(q, kv), (q_len, kv_len))
    for block_q, block_kv in ((16, 8), (7, 13)):
        plan = compile_mask(mask, q_len=q_len, kv_len=kv_len, block_q=block_q, block_kv=block_kv)
        np.testing.assert_array_equal(plan.to_dense(), expected)
        np.testing.assert_array_equal(plan.to_dense(0, "dkv"), expected)
