"""Splash tables against the definition: JAX's own `process_mask` and `process_mask_dkv`."""

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as jax_mask
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as jax_info

from maskc import (
    Blocks,
    Causal,
    ChunkedCausal,
    Dense,
    Empty,
    Full,
    Local,
    MultiHead,
    Prefix,
    Segments,
    compile_mask,
    strategies,
)
from maskc_cache.check import verify
from maskc_cache.plan import SplashTables

pytestmark = pytest.mark.usefixtures("loops")


def jax_tables(per_head, blocks, direction, layout):
    """JAX's tables for dense masks, equal ones being one object as ours are one mask."""
    unique = {}
    masks = [unique.setdefault(m.tobytes(), jax_mask.NumpyMask(m)) for m in per_head]
    process = jax_info.process_mask if direction == "fwd" else jax_info.process_mask_dkv
    return process(jax_mask.MultiHeadMask(masks), blocks, **layout)[0]


def assert_same(ours, theirs):
    for name in ("data_next", "mask_next", "block_mask", "partial_mask_blocks", "q_sequence"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@st.composite
def cases(draw):
    block_q, block_kv = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([2, 4, 8]))
    q_seq_shards = draw(st.sampled_from([1, 1, 2, 3]))
    q_len = block_q * q_seq_shards * draw(st.integers(1, 4))
    kv_len = block_kv * draw(st.integers(1, 6))
    head_shards = draw(st.sampled_from([1, 1, 2]))
    pool = draw(st.lists(strategies.masks(q_len, kv_len), min_size=1, max_size=3))
    count = head_shards * draw(st.integers(1, 2))
    heads = draw(st.lists(st.sampled_from(pool), min_size=count, max_size=count))
    layout = {
        "head_shards": head_shards,
        "q_seq_shards": q_seq_shards,
        "shrink_grid": draw(st.booleans()),
        "downcast_smem_data": draw(st.booleans()),
    }
    return heads, q_len, kv_len, block_q, block_kv, layout


@given(cases())
def test_tables_are_those_of_jax(case):
    heads, q_len, kv_len, block_q, block_kv, layout = case
    per_head = [dense(mask, q_len, kv_len) for mask in heads]
    # one canonical form per meaning is a later promise; here equal heads must be equal masks
    masks = MultiHead([Dense(m) for m in per_head])
    plan = compile_mask(
        masks, q_len=q_len, kv_len=kv_len, block_q=block_q, block_kv=block_kv, **layout
    )
    for direction in ("fwd", "dkv"):
        ours = plan.splash(direction)
        try:
            theirs = jax_tables(per_head, (block_q, block_kv), direction, layout)
        except (AssertionError, ValueError) as error:
            assert_jax_fails_as_documented(error, per_head, layout)
            continue
        assert_same(ours, theirs)


def assert_jax_fails_as_documented(error, per_head, layout):
    """JAX's two failures: a q shard without any block, and shards with nothing partial."""
    assert layout["shrink_grid"]
    shards = np.split(per_head[0], layout["q_seq_shards"])
    empty_shard = any(not shard.any() for shard in shards)
    nothing_to_join = layout["q_seq_shards"] > 1 and isinstance(error, ValueError)
    assert empty_shard or nothing_to_join


@pytest.mark.parametrize("direction", ["fwd", "dkv"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Causal(), jax_mask.CausalMask((256, 256))),
        (Causal(offset=-70), jax_mask.CausalMask((256, 256), -70)),
        (Local(40, 10), jax_mask.LocalMask((256, 256), (40, 10), 0)),
        (Local(40, None, 7), jax_mask.LocalMask((256, 256), (40, None), 7)),
    ],
)
def test_computable_form_is_what_jax_gives_for_its_own_masks(ours, theirs, direction):
    plan = compile_mask(ours, q_len=256, block_q=32, block_kv=64)
    process = jax_info.process_mask if direction == "fwd" else jax_info.process_mask_dkv
    info, function = process(jax_mask.MultiHeadMask([theirs]), (32, 64))
    assert function is not None
    assert_same(plan.splash(direction, computable=True), info)


def test_int32_partial_blocks_for_fjformer():
    plan = compile_mask(Causal(), q_len=64, block_q=16, block_kv=16)
    blocks = plan.splash("fwd", partial_dtype=np.int32).partial_mask_blocks
    assert blocks.dtype == np.int32
    np.testing.assert_array_equal(blocks, plan.splash("fwd").partial_mask_blocks)


def test_a_mask_with_no_block_keeps_one_empty_column():
    plan = compile_mask(Empty(), q_len=64, block_q=16, block_kv=16)
    assert plan.splash("fwd").block_mask.tolist() == [[[0], [0], [0], [0]]]
    assert plan.splash("dkv").block_mask.tolist() == [[[0, 0, 0, 0]]]


def test_shards_of_a_full_mask_have_no_mask_next():
    plan = compile_mask(Full(), q_len=64, block_q=16, block_kv=16, q_seq_shards=2)
    info = plan.splash("dkv")
    assert info.mask_next is None
    assert info.partial_mask_blocks is None
    assert (info.block_mask == 2).all()


def worked_example():
    a, b = [[1, 0], [1, 1]], [[1, 0], [1, 0]]
    zero, one = [[0, 0], [0, 0]], [[1, 1], [1, 1]]
    rows = [[a, zero, zero, zero], [one, one, zero, zero], [b, zero, a, zero], [b, zero, one, a]]
    return Dense(np.block([[np.array(tile, bool) for tile in row] for row in rows]))


def test_worked_example_of_the_tables():
    """S = 8, block 2, states by q row 1000 / 2200 / 1010 / 1021: written out by hand."""
    mask = worked_example()
    shape = {"q_len": 8, "block_q": 2, "block_kv": 2}
    wide = compile_mask(mask, **shape, shrink_grid=False)
    assert digits(wide.splash_fwd.data_next) == "0000/0100/0220/0223"
    assert digits(wide.splash_fwd.mask_next) == "0111/1111/1001/1000"
    assert digits(wide.splash_dkv.data_next) == "0123/1123/2223/3233"
    assert digits(wide.splash_dkv.mask_next) == "0000/1000/1000/1000"
    narrow = compile_mask(mask, **shape)
    assert digits(narrow.splash_fwd.block_mask) == "100/220/110/121"
    assert digits(narrow.splash_fwd.data_next) == "000/010/020/023"
    assert digits(narrow.splash_dkv.block_mask) == "1000/2000/1010/1221"
    assert digits(narrow.splash_dkv.data_next) == "0000/1000/2020/3133"


def digits(table):
    return "/".join("".join(map(str, row)) for row in table[0])


# --- padding that repeats the next value ----------------------------------------------------------


def fetches(values):
    """How often the value changes over consecutive grid steps of a loop that starts again."""
    return int(np.count_nonzero(values != np.roll(values, 1)))


def extra_fetches(tables, direction):
    """Fetches over the whole grid beyond those of its non-empty steps alone: (data, mask).

    Of one table row; both values of a step count from the row's first, which follows its last.
    """
    axes = (0, 1, 2) if direction == "fwd" else (2, 0, 1)
    data, state = (t.transpose(axes).ravel() for t in (tables.data_next, tables.block_mask))
    extra = [fetches(data) - fetches(data[state > 0])]
    if tables.mask_next is not None:
        mask = tables.mask_next.transpose(axes).ravel()
        extra.append(fetches(mask) - fetches(mask[state > 0]))
    return extra


PACKED = np.repeat(np.arange(8), [700, 3100, 900, 4000, 300, 2500, 1800, 3084])


@pytest.mark.parametrize("direction", ["fwd", "dkv"])
@pytest.mark.parametrize(
    ("mask", "length", "block", "jax_is_wasteful"),
    [
        (Causal(), 32768, 512, {"dkv"}),
        (Causal() & Local(1024, 0), 32768, 512, {"dkv"}),
        (Causal() & Local(4096, 0), 32768, 512, {"dkv"}),
        (ChunkedCausal(8192), 32768, 512, {"fwd", "dkv"}),
        (Causal() & Segments(PACKED), 16384, 512, {"fwd", "dkv"}),
        (Causal() & Segments(PACKED), 16384, 128, {"fwd", "dkv"}),
        (Segments(PACKED), 16384, 512, {"fwd", "dkv"}),
        (Blocks(np.random.default_rng(0).random((32, 32)) < 0.1, 512, 512), 16384, 512, {"fwd"}),
        (Causal() | Prefix(1000), 16384, 512, {"dkv"}),
    ],
    ids=["causal", "local1024", "local4096", "chunked", "documents", "documents128", "segments",
         "random", "prefix"],
)  # fmt: skip
def test_keep_fetches_nothing_twice(mask, length, block, jax_is_wasteful, direction):
    shape = {"q_len": length, "block_q": block, "block_kv": block}
    keep = compile_mask(mask, **shape, prefetch="keep").splash(direction)
    zeros = compile_mask(mask, **shape).splash(direction)
    assert extra_fetches(keep, direction) == [0] * (1 + (keep.mask_next is not None))
    if direction in jax_is_wasteful:
        assert extra_fetches(zeros, direction)[0] > 0


@pytest.mark.parametrize(("direction", "percent"), [("fwd", 8.9), ("dkv", 11.9)])
def test_the_counter_is_that_of_the_measured_jax_tables(direction, percent):
    """Chunks of 8192 over 32k tokens, block 512: 8.9 % and 11.9 % extra fetches under JAX."""
    tables = compile_mask(ChunkedCausal(8192), q_len=32768).splash(direction)
    live = int(np.count_nonzero(tables.block_mask))
    measured = 100 * extra_fetches(tables, direction)[0] / live
    assert measured == pytest.approx(percent, abs=0.3)


@given(cases())
def test_keep_changes_only_the_padding(case):
    heads, q_len, kv_len, block_q, block_kv, layout = case
    shape = {"q_len": q_len, "kv_len": kv_len, "block_q": block_q, "block_kv": block_kv}
    jax_like = compile_mask(MultiHead(heads), **shape, **layout)
    keep = compile_mask(MultiHead(heads), **shape, **layout, prefetch="keep")
    verify(keep)
    for direction in ("fwd", "dkv"):
        ours, zeros = keep.splash(direction), jax_like.splash(direction)
        np.testing.assert_array_equal(ours.block_mask, zeros.block_mask)
        live = ours.block_mask > 0
        for name in ("data_next", "mask_next"):
            a, b = getattr(ours, name), getattr(zeros, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                np.testing.assert_array_equal(a[live], b[live])
        shards = layout["q_seq_shards"]
        if len(ours.block_mask) == 1:
            for part in per_shard(ours, shards):
                assert extra_fetches(part, direction) == [0] * (1 + (part.mask_next is not None))


def per_shard(info, shards):
    """The tables of each q shard: equal parts of the tables' middle axis."""
    parts = [
        [None] * shards if t is None else np.split(t, shards, axis=1)
        for t in (info.data_next, info.mask_next, info.block_mask)
    ]
    return [SplashTables(*part) for part in zip(*parts, strict=True)]


def test_keep_in_the_worked_example():
    """The shrunk tables of the worked example, whose padding is 0 under JAX."""
    plan = compile_mask(worked_example(), q_len=8, block_q=2, block_kv=2, prefetch="keep")
    assert digits(plan.splash_fwd.block_mask) == "100/220/110/121"
    assert digits(plan.splash_fwd.data_next) == "000/010/020/023"
    assert digits(plan.splash_fwd.mask_next) == "011/111/101/100"
    assert digits(plan.splash_dkv.block_mask) == "1000/2000/1010/1221"
    assert digits(plan.splash_dkv.data_next) == "0123/1123/2123/3133"
