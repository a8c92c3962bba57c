"""Every row of the mask zoo: its published predicate, written out, against the compiled plan."""

import itertools

import numpy as np
import pytest
from predicates import holds

from maskc import (
    Blocks,
    Causal,
    Chunked,
    ChunkedCausal,
    Dense,
    Documents,
    Full,
    Kron,
    Local,
    Neighborhood,
    Prefix,
    Rectangle,
    Remap,
    Segments,
    Shift,
    compile_mask,
    zoo,
)

S = 48
CU = np.array([0, 5, 6, 19, 40, S])
DOCS = np.repeat(np.arange(5), np.diff(CU))
IMAGES = np.array([-1] * 4 + [0] * 9 + [-1] * 3 + [1] * 16 + [2] * 8 + [-1] * 8)


def test_full():
    holds(Full(), lambda _q, _k: True)


def test_causal():
    holds(Causal(), lambda q, k: q >= k)


@pytest.mark.parametrize(("q_len", "kv_len"), [(9, 30), (30, 9), (1, 33), (S, S)])
def test_causal_bottom_right(q_len, kv_len):
    off = kv_len - q_len
    for mask in (Causal(align="bottom_right"), Causal(offset=off)):
        holds(mask, lambda q, k: q + off >= k, q_len, kv_len)


@pytest.mark.parametrize("w", [1, 2, 7, S, 2 * S])
def test_sliding_causal(w):
    holds(zoo.sliding_window(w), lambda q, k: (q - k >= 0) & (q - k < w))


@pytest.mark.parametrize("w", [1, 7])
def test_what_each_system_means_by_its_window(w):
    holds(zoo.sliding_window(w), lambda q, k: (k <= q) & (k > q - w))  # HF masking_utils.py:95
    holds(Local(w, 0), lambda q, k: (q >= k) & (q - k <= w))  # attention-gym sliding_window.py:20
    holds(Local(w, w), lambda q, k: abs(q - k) <= w)  # HF masking_utils.py:145
    left, right = w, 2  # FlashAttention, FlashMask, splash and ejKernel: both ends inclusive
    holds(Local(left, right), lambda q, k: (q - left <= k) & (k <= q + right))
    holds(Local(left, right, 3), lambda q, k: (q + 3 - left <= k) & (k <= q + 3 + right))


@pytest.mark.parametrize(("left", "right"), [(0, 0), (5, 3), (None, 4)])
def test_sliding_bidirectional(left, right):
    low = S if left is None else left
    holds(Local(left, right), lambda q, k: (-right <= q - k) & (q - k <= low))


@pytest.mark.parametrize("prefix", [0, 1, 13, S + 5])
def test_prefix_lm(prefix):
    holds(zoo.prefix_lm(prefix), lambda q, k: (k < prefix) | (q >= k))


def test_document():
    holds(Documents(CU), lambda q, k: DOCS[q] == DOCS[k])
    holds(Segments(DOCS), lambda q, k: DOCS[q] == DOCS[k])


def test_document_causal():
    holds(Documents(CU) & Causal(), lambda q, k: (DOCS[q] == DOCS[k]) & (q >= k))


@pytest.mark.parametrize("w", [1, 6])
def test_document_causal_window(w):
    holds(
        Documents(CU) & zoo.sliding_window(w),
        lambda q, k: (DOCS[q] == DOCS[k]) & (q >= k) & (q - k < w),
    )


@pytest.mark.parametrize("prefixes", [[0, 0, 0, 0, 0], [2, 1, 5, 9, 3], [99, 0, 13, 1, 99]])
def test_document_prefix_lm(prefixes):
    ends = CU[:-1] + np.minimum(prefixes, np.diff(CU))
    holds(
        zoo.document_prefix_lm(CU, prefixes),
        lambda q, k: (DOCS[q] == DOCS[k]) & ((q >= k) | (k < ends[DOCS[q]])),
    )


@pytest.mark.parametrize(("chunk", "pads"), [(8, [0]), (10, [0, 3, 25]), (1, [0]), (99, [0, 7])])
def test_chunked_causal(chunk, pads):
    for pad in pads:
        holds(
            ChunkedCausal(chunk, offset=pad),
            lambda q, k, p=pad: ((q - p) // chunk == (k - p) // chunk) & (q >= k),
        )


@pytest.mark.parametrize("length", [1, 7, 16, S])
def test_batchify(length):
    window = np.add.outer(np.arange(length), -np.arange(length)) % 3 < 2
    for inner, value in (
        (Causal(), lambda q, k: q >= k),
        (Dense(window), lambda q, k: window[q, k]),
    ):
        holds(
            zoo.batchify(inner, length),
            lambda q, k, v=value: (q // length == k // length) & v(q % length, k % length),
        )


@pytest.mark.parametrize("length", [0, 41, S])
def test_ragged_right_padding(length):
    holds(Causal() & zoo.padded_keys(length), lambda q, k: (k < length) & (q >= k))


@pytest.mark.parametrize("pad", [1, 13, S])
def test_left_padding(pad):
    holds(Causal() & zoo.padded_keys(S, left=pad), lambda q, k: (k >= pad) & (q >= k))


@pytest.mark.parametrize(("s", "w"), [(4, 9), (0, 5), (10, 1)])
def test_sink_and_window(s, w):
    holds(zoo.sink_window(s, w), lambda q, k: (q >= k) & ((k < s) | (q - k < w)))


def test_image_blocks():
    g = IMAGES
    holds(zoo.image_blocks(g), lambda q, k: (q >= k) | ((g[q] == g[k]) & (g[q] >= 0)))


def test_image_blocks_and_window():
    g, w = IMAGES, 5
    holds(
        zoo.sliding_window(w) | Segments(g),
        lambda q, k: ((q >= k) & (q - k < w)) | ((g[q] == g[k]) & (g[q] >= 0)),
    )


def test_flamingo():
    lo, hi, tokens = np.array([0, 5, 11, 20]), np.array([5, 30, 11, S]), 6
    holds(
        zoo.flamingo(lo, hi, tokens),
        lambda q, k: (lo[k // tokens] <= q) & (q < hi[k // tokens]),
        S,
        24,
    )


@pytest.mark.parametrize("length", [1, 20, 31])
def test_cross_attention(length):
    holds(zoo.padded_keys(length), lambda q, k: (k < length) & (q >= 0), S, 31)


@pytest.mark.parametrize("lengths", [[3, 9, 1], [20]])
def test_shared_prefix(lengths):
    prefix, total = 7, 7 + sum(lengths)
    d = np.repeat(np.arange(len(lengths) + 1), [prefix, *lengths])
    own = np.concatenate([[0], np.cumsum([prefix, *lengths])])[d]

    def predicate(q, k):
        return ((own[q] <= k) & (k <= q)) | ((d[q] != 0) & (k < prefix))

    holds(zoo.shared_prefix(prefix, lengths), predicate, total)
    group = (zoo.shared_prefix(prefix, lengths), total, total)
    holds(
        zoo.block_diagonal([group, group]),
        lambda q, k: (q // total == k // total) & predicate(q % total, k % total),
        2 * total,
    )


@pytest.mark.parametrize(("prefix", "block"), [(12, 8), (0, 5), (30, 1)])
def test_multi_block_draft(prefix, block):
    def predicate(q, k):
        qb, kb = (q - prefix) // block, (k - prefix) // block
        inside = (q >= prefix) & (k >= prefix) & (qb == kb)
        return (k < prefix) | (inside & ((k - prefix) % block <= (q - prefix) % block))

    holds(zoo.multi_block_draft(prefix, block), predicate)


def test_speculative_tree():
    parents = [-1, 0, 0, 1, 1, 2, 5, 5]
    anc = np.eye(8, dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            anc[node] |= anc[parent]
    p = 21
    holds(
        zoo.tree(anc, p),
        lambda q, k: (k < p) | ((k >= p) & anc[q, np.maximum(k - p, 0)]),
        8,
        p + 8,
    )
    holds(
        (Causal() & Rectangle(q_stop=p)) | Shift(zoo.tree(anc, p), q=p),
        lambda q, k: np.where(
            q < p,
            q >= k,
            (k < p) | anc[np.maximum(q - p, 0), np.maximum(k - p, 0)] & (k >= p),
        ),
        p + 8,
    )


@pytest.mark.parametrize(("n", "bs"), [(24, 4), (20, 6), (8, 1)])
def test_block_diffusion(n, bs):
    def predicate(q, k):
        qb, kb, q_noisy, k_noisy = q % n // bs, k % n // bs, q < n, k < n
        return (
            ((qb == kb) & (q_noisy == k_noisy) & q_noisy)
            | ((qb > kb) & q_noisy & ~k_noisy)
            | ((qb >= kb) & ~q_noisy & ~k_noisy)
        )

    holds(zoo.block_diffusion(n, bs), predicate, 2 * n)


@pytest.mark.parametrize("tokens", [[], [0], [0, 17, 40]])
def test_longformer(tokens):
    g, w = np.isin(np.arange(S), tokens), 4
    holds(zoo.longformer(w, tokens), lambda q, k: (abs(q - k) <= w) | g[q] | g[k])


def test_bigbird():
    block, n = 6, 8
    random = np.random.default_rng(0).random((2, n, n)) < 0.15

    def predicate(r, q, k):
        qb, kb = q // block, k // block
        ends = (qb == 0) | (qb == n - 1) | (kb == 0) | (kb == n - 1)
        return ends | (abs(qb - kb) <= 1) | r[qb, kb]

    for pattern in random:
        holds(zoo.bigbird(pattern, block), lambda q, k, r=pattern: predicate(r, q, k))


@pytest.mark.parametrize(("w", "d"), [(12, 4), (5, 3), (9, 1)])
def test_dilated_sliding(w, d):
    holds(zoo.dilated_window(w, d), lambda q, k: (abs(q - k) <= w) & (abs(q - k) % d == 0))


@pytest.mark.parametrize("stride", [1, 7, 16])
def test_sparse_transformer_strided(stride):
    holds(
        zoo.sparse_transformer_strided(stride),
        lambda q, k: (q >= k) & ((q - k < stride) | ((q - k) % stride == 0)),
    )


@pytest.mark.parametrize(("stride", "c"), [(8, 2), (7, 7), (10, 1)])
def test_sparse_transformer_fixed(stride, c):
    holds(
        zoo.sparse_transformer_fixed(stride, c),
        lambda q, k: (q >= k) & ((q // stride == k // stride) | (k % stride >= stride - c)),
    )


def test_vertical_slash():
    v, s = [0, 3, 22, 40], [0, 1, 2, 9, 30]
    holds(zoo.vertical_slash(v, s), lambda q, k: (q >= k) & (np.isin(k, v) | np.isin(q - k, s)))


def test_block_top_k():
    pattern, block = np.random.default_rng(1).random((6, 6)) < 0.4, 8
    holds(Blocks(pattern, block), lambda q, k: pattern[q // block, k // block])


def test_block_top_k_causal():
    pattern, block = np.random.default_rng(1).random((6, 6)) < 0.4, 8
    holds(
        Blocks(pattern, block) & Causal(),
        lambda q, k: pattern[q // block, k // block] & (q >= k),
    )


# --- neighborhoods: natten/backends/flex.py -----------------------------------------------------


def natten(shape, kernel, dilation, stride, causal):
    """flex.py's mask function: coordinates, then every axis by its own rule."""

    def along(q, k, n, size, d, s, is_causal):
        left, right = size // 2, size // 2 + size % 2 - 1
        same = q % d == k % d
        n = n // d + (q % d < n % d)
        q, k = q // d, k // d
        if is_causal:
            leader = np.minimum(q // s * s + s - 1, n - 1)
            return same & (q - k >= 0) & (leader - k < size)
        leader = np.minimum(q // s * s + s // 2, n - 1)
        centre = np.minimum(np.maximum(leader, left), n - 1 - right)
        return same & (-right <= centre - k) & (centre - k <= left)

    def predicate(q, k):
        axes = zip(np.unravel_index(q, shape), np.unravel_index(k, shape), shape, strict=True)
        parts = zip(axes, kernel, dilation, stride, causal, strict=True)
        return np.logical_and.reduce(
            np.broadcast_arrays(*(along(*axis, *rest) for axis, *rest in parts))
        )

    return predicate


@pytest.mark.parametrize(
    ("shape", "kernel", "dilation", "stride", "causal"),
    [
        pytest.param((40,), (9,), (1,), (1,), (False,), id="NATTEN 1-D"),
        pytest.param((40,), (8,), (1,), (1,), (False,), id="NATTEN 1-D, even kernel"),
        pytest.param((40,), (40,), (1,), (1,), (False,), id="NATTEN 1-D, whole axis"),
        pytest.param((41,), (7,), (1,), (3,), (False,), id="GNA 1-D"),
        pytest.param((41,), (7,), (1,), (3,), (True,), id="GNA 1-D, causal"),
        pytest.param((40,), (5,), (3,), (2,), (False,), id="GNA 1-D, dilated"),
        pytest.param((8, 9), (3, 5), (1, 1), (1, 1), (False, False), id="NATTEN 2-D"),
        pytest.param((8, 9), (4, 3), (1, 2), (2, 1), (False, True), id="GNA 2-D, one axis causal"),
        pytest.param((8, 8), (3, 3), (2, 2), (1, 1), (False, False), id="NATTEN 2-D, dilated"),
        pytest.param((10, 7), (5, 6), (1, 1), (4, 5), (False, False), id="GNA 2-D"),
        pytest.param(
            (4, 5, 6), (3, 3, 5), (1, 1, 1), (1, 1, 1), (False, False, False), id="NATTEN 3-D"
        ),
        pytest.param(
            (4, 6, 4),
            (2, 3, 3),
            (1, 2, 1),
            (2, 2, 3),
            (True, False, False),
            id="GNA 3-D, one axis causal and one dilated",
        ),
    ],
)
def test_natten_and_gna(shape, kernel, dilation, stride, causal):
    tokens = int(np.prod(shape))
    mask = Neighborhood(shape, kernel, dilation, stride, causal)
    predicate = natten(shape, kernel, dilation, stride, causal)
    holds(mask, predicate, tokens)
    for tile in (2, [3] * len(shape)):  # the same on permuted tokens
        order = zoo.tile_order(shape, tile)
        assert sorted(order) == list(range(tokens))
        holds(Remap(mask, order), lambda q, k, o=order: predicate(o[q], o[k]), tokens)


@pytest.mark.parametrize(
    ("mask", "blocks", "intervals"),
    [
        pytest.param(Full(), (1024, 0, 0), (1, 1), id="full"),
        pytest.param(Causal(), (496, 32, 1), (1, 1), id="causal"),
        pytest.param(zoo.sliding_window(1024), (196, 56, 2), (1, 1), id="window"),
        pytest.param(Local(256, 256), (94, 60, 2), (1, 1), id="bidirectional window"),
        pytest.param(zoo.prefix_lm(1024), (532, 24, 1), (1, 1), id="prefix-LM"),
        pytest.param(ChunkedCausal(512), (48, 32, 1), (1, 1), id="chunked"),
        pytest.param(zoo.batchify(Causal(), 512), (48, 32, 1), (1, 1), id="batchify"),
        pytest.param(Causal() & zoo.padded_keys(3500), (486, 32, 3), (1, 1), id="right padding"),
        pytest.param(
            Causal() & zoo.padded_keys(4096, left=500), (378, 57, 3), (1, 1), id="left padding"
        ),
        pytest.param(zoo.sink_window(4, 1024), (196, 79, 4), (2, 1), id="sinks and window"),
        pytest.param(zoo.multi_block_draft(1024, 32), (256, 24, 1), (2, 1), id="draft"),
        pytest.param(zoo.block_diffusion(2048, 32), (240, 48, 3), (2, 2), id="block diffusion"),
        pytest.param(zoo.dilated_window(256, 4), (0, 154, 3), (129, 129), id="dilated window"),
        pytest.param(zoo.sparse_transformer_strided(128), (0, 528, 3), (31, 31), id="strided"),
        pytest.param(zoo.sparse_transformer_fixed(128, 8), (0, 528, 2), (31, 1), id="fixed"),
        pytest.param(Neighborhood((4096,), 257), (34, 62, 4), (1, 1), id="NATTEN 1-D"),
        pytest.param(Neighborhood((64, 64), 13), (0, 224, 5), (13, 19), id="NATTEN 2-D"),
        pytest.param(Neighborhood((16, 16, 16), 5), (0, 320, 4), (25, 49), id="NATTEN 3-D"),
        pytest.param(Neighborhood((64, 64), 7, 2), (0, 224, 1), (49, 100), id="NATTEN dilated"),
        pytest.param(Neighborhood((64, 64), 16, 1, 8), (0, 256, 1), (16, 24), id="GNA"),
        pytest.param(
            Remap(Neighborhood((64, 64), 16, 1, 8), zoo.tile_order((64, 64), 8)),
            (0, 220, 15),
            (33, 3),
            id="GNA in tile order",
        ),
        pytest.param(zoo.sta((8, 8), 3, 64), (96, 144, 4), (3, 4), id="STA"),
    ],
)
def test_as_large_as_dense_evaluation_says(mask, blocks, intervals):
    """Full, partial and unique partial blocks of 128, and the most intervals of a row and column.

    At 4,096 tokens; the numbers come from evaluating the published predicates densely, elsewhere.
    """
    plan = compile_mask(mask, q_len=4096, block_q=128, block_kv=128, splash=False, row_bounds=True)
    lists = plan.fwd
    found = len(lists.full_idx), len(lists.partial_idx), len(lists.partial_blocks)
    assert found == blocks
    assert plan.row_intervals == intervals


def test_one_number_is_for_every_axis():
    assert Neighborhood((8, 9), 3, 2, 1, True) == Neighborhood(
        (8, 9), (3, 3), (2, 2), (1, 1), (True, True)
    )


def test_tile_order_is_blocks_of_tokens():
    order = zoo.tile_order((4, 6), (2, 3))
    assert order[:6].tolist() == [0, 1, 2, 6, 7, 8]
    assert order[6:12].tolist() == [3, 4, 5, 9, 10, 11]


def test_tile_order_makes_whole_blocks():
    mask = Neighborhood((32, 32), 17)
    rowwise = compile_mask(mask, q_len=1024, block_q=64, block_kv=64)
    tiled = compile_mask(
        Remap(mask, zoo.tile_order((32, 32), 8)), q_len=1024, block_q=64, block_kv=64
    )
    assert len(rowwise.fwd.full_idx) == 0
    assert len(tiled.fwd.full_idx) > 30


# --- video --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [0, 5])
def test_sta(text):
    tiles, kernel, tokens = (4, 5), (3, 3), 4
    image = int(np.prod(tiles)) * tokens

    def predicate(q, k):
        near = True
        for i, j, n, size in zip(
            np.unravel_index(np.minimum(q, image - 1) // tokens, tiles),
            np.unravel_index(np.minimum(k, image - 1) // tokens, tiles),
            tiles,
            kernel,
            strict=True,
        ):
            centre = np.clip(i, size // 2, n - 1 - size // 2)
            near = near & (abs(centre - j) <= size // 2)
        return np.where((q < image) & (k < image), near, True)

    holds(zoo.sta(tiles, kernel, tokens, text), predicate, image + text)


@pytest.mark.parametrize(("p", "m"), [(6, 9), (0, 3), (20, 1)])
def test_svg_spatial(p, m):
    holds(zoo.svg_spatial(p, m), lambda q, k: (k < p) | (q < p) | (abs(q - k) < m))


@pytest.mark.parametrize(("p", "f", "m"), [(6, 7, 2), (0, 12, 3), (11, 5, 1)])
def test_svg_temporal(p, f, m):
    holds(
        zoo.svg_temporal(p, f, m),
        lambda q, k: (k < p) | (q < p) | (abs((q - p) % f - (k - p) % f) < m),
    )


# --- algebra and bits ---------------------------------------------------------------------------


def test_not_document_and_causal():
    holds(Causal() - Documents(CU), lambda q, k: (DOCS[q] != DOCS[k]) & (q >= k))


def test_causal_xor_band():
    holds(Causal() ^ Local(5, 9), lambda q, k: (q >= k) ^ ((k >= q - 5) & (k <= q + 9)))


def test_arbitrary_bitmap():
    bits = np.random.default_rng(2).random((S, 37)) < 0.5
    holds(Dense(bits), lambda q, k: bits[q, k], S, 37)


def test_block_causal():
    holds(zoo.block_causal(7), lambda q, k: k // 7 <= q // 7)


def test_every_builder_is_documented_and_public():
    for name in zoo.__all__:
        assert getattr(zoo, name).__doc__


# --- one key for one meaning --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (zoo.batchify(Full(), 8), Chunked(8)),
        (zoo.sink_window(4, 9), Causal() & (Local(left=8) | Prefix(4))),
        (ChunkedCausal(8, offset=3), Chunked(8, offset=-5) & Causal()),
        (zoo.flamingo([0, 8], [S, S], 24), Prefix(24) | Rectangle(8, S, 24, S)),
    ],
    ids=range(4),
)
def test_compositions_share_the_key_of_what_they_are(left, right):
    plans = [compile_mask(mask, q_len=S, block_q=16, block_kv=16) for mask in (left, right)]
    assert plans[0] == plans[1]


def test_products_are_the_cells_that_they_say():
    for a, b in itertools.product((Causal(), Local(1, 1)), repeat=2):
        x, y = (compile_mask(m, q_len=6, block_q=6, block_kv=6).to_dense() for m in (a, b))
        plan = compile_mask(Kron((a, b), (6, 6)), q_len=36, block_q=8, block_kv=8)
        np.testing.assert_array_equal(plan.to_dense(), np.kron(x, y).astype(bool))
