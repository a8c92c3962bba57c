"""Serving's and other libraries' relatives of the zoo's masks, and masks per head and batch row."""

import numpy as np
import pytest
from predicates import holds

from maskc import (
    Causal,
    ChunkedCausal,
    Full,
    Intervals,
    Local,
    MultiHead,
    Prefix,
    Remap,
    Segments,
    Shift,
    compile_mask,
    per_batch,
    zoo,
)

S = 48


def test_block_diagonal_with_offsets_and_padded_keys():
    """xFormers' BlockDiagonalCausalWithOffsetPaddedKeysMask: each key run has its own start."""
    q_lens, kv_lens, seen, padded = [3, 5, 1], [9, 8, 4], [7, 8, 1], 10
    masks = [
        Shift(
            Causal(align="bottom_right"),
            q=sum(q_lens[:b]),
            kv=b * padded,
            q_len=q_lens[b],
            kv_len=seen[b],
        )
        for b in range(3)
    ]
    d, start = np.repeat(np.arange(3), q_lens), np.array([0, 3, 8])
    n, used = np.array(q_lens), np.array(seen)

    def predicate(q, k):
        key, own = k - d[q] * padded, q - start[d[q]]
        return (key >= 0) & (key < used[d[q]]) & (key <= own + used[d[q]] - n[d[q]])

    assert max(kv_lens) <= padded
    holds(masks[0] | masks[1] | masks[2], predicate, 9, 30)


def test_block_diagonal_with_gappy_keys():
    """xFormers' BlockDiagonalGappyKeysMask and its causal-with-offset twin."""
    q_lens, kv_starts, kv_lens = [3, 5, 1], [2, 14, 9], [4, 12, 3]
    cu = np.cumsum([0, *q_lens])
    d, own = np.repeat(np.arange(3), q_lens), np.arange(9) - np.repeat(cu[:-1], q_lens)
    start, n, seen = np.array(kv_starts)[d], np.array(q_lens)[d], np.array(kv_lens)[d]

    def gappy(q, k):
        return (start[q] <= k) & (k < start[q] + seen[q])

    def causal(q, k):
        return gappy(q, k) & (own[q] + seen[q] - n[q] >= k - start[q])

    for inner, predicate in ((Full(), gappy), (Causal(align="bottom_right"), causal)):
        masks = [
            Shift(inner, q, kv, q_len, kv_len)
            for q, kv, q_len, kv_len in zip(cu[:-1], kv_starts, q_lens, kv_lens, strict=True)
        ]
        holds(masks[0] | masks[1] | masks[2], predicate, 9, 30)
    bounds = np.array([kv_starts, np.add(kv_starts, kv_lens)])[:, d]
    holds(Intervals(*bounds), gappy, 9, 30)


def test_paged_keys():
    """PagedAttention and xFormers' Paged masks: keys in the order of a page table, some unused."""
    pages, size, q_len, kv_len = np.array([2, -1, 0, 3, 1]), 4, 3, 14
    logical = np.where(pages >= 0, pages * size, -kv_len - size)[:, None] + np.arange(size)
    logical = np.where((logical >= 0) & (logical < kv_len), logical, -1).reshape(-1)
    mask = Remap(
        Causal(align="bottom_right") & Local(left=6), np.arange(q_len), logical, kv_len=kv_len
    )
    holds(
        mask,
        lambda q, k: (logical[k] >= 0) & (logical[k] <= q + kv_len - q_len) & (q - logical[k] <= 6),
        q_len,
        len(logical),
    )


@pytest.mark.parametrize(("length", "w"), [(33, 8), (5, 8)])
def test_decoding_with_a_window(length, w):
    mask = Local(w - 1, 0, align="bottom_right")
    holds(mask, lambda q, k: (k > q + length - 1 - w) & (k <= q + length - 1), 1, length)


def test_packed_sequences_of_hugging_face():
    """masking_utils' packed_sequence_mask_function: the same number, and causal."""
    ids = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    holds(Segments(ids) & Causal(), lambda q, k: (ids[q] == ids[k]) & (k <= q), 8)


@pytest.mark.parametrize(("q_offset", "kv_offset"), [(5, 0), (5, 3), (0, 7)])
def test_added_offsets_of_hugging_face(q_offset, kv_offset):
    """masking_utils' add_offsets_to_mask_function: the inner mask at q + offset, kv + offset."""
    inner = ChunkedCausal(6) | Prefix(9)
    holds(
        Shift(inner, -q_offset, -kv_offset, 20, 20),
        lambda q, k: (
            ((q + q_offset) // 6 == (k + kv_offset) // 6) & (k + kv_offset <= q + q_offset)
            | (k + kv_offset < 9)
        ),
        20 - q_offset,
        20 - kv_offset,
    )


def test_bigbird_without_randomness():
    """Hugging Face's BigBird in eval mode: every random block is block 0, which is global."""
    zeros, first = np.zeros((2, 8, 8), bool)
    first[:, 0] = True
    masks = [
        compile_mask(zoo.bigbird(r, 6), q_len=S, block_q=16, block_kv=8) for r in (zeros, first)
    ]
    assert masks[0] == masks[1]


def test_heads_with_patterns_of_their_own():
    """BigBird's and MInference's: a head for each pattern, in one plan."""
    random = np.random.default_rng(0).random((2, 8, 8)) < 0.15
    columns, distances = [[0, 3, 22], [5]], [[0, 1, 30], [0, 9]]
    masks = [zoo.bigbird(pattern, 6) for pattern in random]
    masks += [zoo.vertical_slash(v, s) for v, s in zip(columns, distances, strict=True)]
    together = compile_mask(MultiHead(masks), q_len=S, block_q=16, block_kv=8)
    for head, mask in enumerate(masks):
        alone = compile_mask(mask, q_len=S, block_q=16, block_kv=8)
        np.testing.assert_array_equal(together.to_dense(head), alone.to_dense())


def test_remapped_positions():
    """A mask over position ids that are not those of the tokens, with padding."""
    ids = np.array([4, 3, 0, -1, 9, 9, 2, 1])
    holds(
        Remap(zoo.sliding_window(3), ids),
        lambda q, k: (ids[q] >= 0) & (ids[k] >= 0) & (ids[q] - ids[k] >= 0) & (ids[q] - ids[k] < 3),
        8,
    )


# --- batch rows ---------------------------------------------------------------------------------


def holds_per_row(mask, predicate, batch, heads):
    """The plan's head b * heads + h is `predicate(b, h, q, k)`; equal ones are stored once."""
    plan = compile_mask(mask, q_len=S, block_q=16, block_kv=8)
    q, k = np.ogrid[:S, :S]
    expected = [np.broadcast_to(predicate(b, h, q, k), (S, S)) for b, h in np.ndindex(batch, heads)]
    assert plan.heads == batch * heads
    assert plan.masks == len({dense.tobytes() for dense in expected})
    for head, dense in enumerate(expected):
        np.testing.assert_array_equal(plan.to_dense(head), dense)
        np.testing.assert_array_equal(plan.to_dense(head, "dkv"), dense)


def test_padding_of_each_batch_row():
    lengths, pads = [40, 7, 40], [0, 3, 0]
    rows = [Causal() & zoo.padded_keys(n, p) for n, p in zip(lengths, pads, strict=True)]
    holds_per_row(
        per_batch(rows, heads=2),
        lambda b, _h, q, k: (q >= k) & (pads[b] <= k) & (k < lengths[b]),
        3,
        2,
    )


def test_chunks_of_each_batch_row_s_left_padding():
    """Llama 4 in Hugging Face: (q - p[b]) // C == (kv - p[b]) // C, causal, padding left out."""
    pads = [0, 3, 25]
    rows = [ChunkedCausal(10, offset=p) & zoo.padded_keys(S, left=p) for p in pads]
    holds_per_row(
        per_batch(rows),
        lambda b, _h, q, k: (
            ((q - pads[b]) // 10 == (k - pads[b]) // 10) & (q >= k) & (k >= pads[b])
        ),
        3,
        1,
    )


def test_documents_of_each_batch_row_and_windows_of_each_head():
    ids = np.sort(np.random.default_rng(3).integers(0, 5, (2, S)), axis=1)
    windows = [4, 9, S]
    rows = [MultiHead([Segments(row) & zoo.sliding_window(w) for w in windows]) for row in ids]
    holds_per_row(
        per_batch(rows),
        lambda b, h, q, k: (ids[b][q] == ids[b][k]) & (q >= k) & (q - k < windows[h]),
        2,
        3,
    )
