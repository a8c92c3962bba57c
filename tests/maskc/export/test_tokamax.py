"""tokamax's tables: its worked examples written out, and its own `process_mask` where installed.

The differential tests need tokamax (0.0.17; Python >= 3.12) and are skipped without it.
"""

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import given
from hypothesis import strategies as st

from maskc import Causal, Dense, Empty, Full, Local, MaskArgumentError, MultiHead, strategies
from maskc import compile_mask as compiled
from maskc.export import tokamax

A, B = [[1, 0], [1, 1]], [[1, 0], [1, 0]]
ZERO, ONE = [[0, 0], [0, 0]], [[1, 1], [1, 1]]
EXAMPLE = Dense(
    np.block([
        [np.array(tile, bool) for tile in row]
        for row in [[A, ZERO, ZERO, ZERO], [ONE, ONE, ZERO, ZERO], [B, ZERO, A, ZERO],
                    [B, ZERO, ONE, A]]
    ])
)  # fmt: skip


def numbers(text):
    return [int(n) for n in text.replace("|", " ").split()]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {},
            {
                "active_rows": "0 1 1 2 2 3 3 3",
                "active_cols": "0 0 1 0 2 0 2 3",
                "block_mask": "1 2 2 1 1 1 2 1",
                "mask_next": "0 1 1 1 0 1 0 0",
                "num_active_blocks": "8",
            },
        ),
        (
            {"q_seq_shards": 2},
            {
                "num_active_blocks": "3 5",
                "active_rows": "0 1 1 -1 -1 | 0 0 1 1 1",
                "active_cols": "0 0 1 -1 -1 | 0 2 0 2 3",
                "block_mask": "1 2 2 -1 -1 | 1 1 1 2 1",
                "mask_next": "0 0 0 -1 -1 | 1 0 1 0 0",
            },
        ),
        (
            {"direction": "dkv", "q_seq_shards": 2},
            {
                "num_active_blocks": "5 6",
                "active_rows": "0 0 1 2 3 -1 | 0 0 1 2 2 3",
                "active_cols": "0 1 1 0 0 -1 | 0 1 0 0 1 1",
                "block_mask": "1 2 2 0 0 -1 | 1 1 0 1 2 1",
                "mask_next": "0 0 0 0 0 -1 | 1 1 0 0 0 0",
            },
        ),
        (
            {"direction": "dkv", "dynamic_grid": False},
            {
                "block_mask": "1 2 1 1 0 2 0 0 0 0 1 2 0 0 0 1",
                "mask_next": "0 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0",
            },
        ),
    ],
    ids=["fwd", "fwd in 2 q shards", "dkv in 2 q shards", "dkv static"],
)
def test_worked_examples(arguments, expected):
    """Length 8, blocks of 2, block states by q row 1000 / 2200 / 1010 / 1021."""
    plan = compiled(EXAMPLE, q_len=8, block_q=2, block_kv=2)
    info = tokamax.mask_info(plan, **arguments)._asdict()
    blocks = info.pop("partial_mask_blocks")
    turn = arguments.get("direction") == "dkv"
    np.testing.assert_array_equal(blocks, [np.transpose(t) if turn else t for t in (A, B)])
    assert blocks.dtype == np.int8
    for name, table in info.items():
        if name not in expected:
            assert table is None, name
        else:
            assert table.tolist() == numbers(expected[name]), name
            assert table.dtype == (np.int32 if name == "num_active_blocks" else np.int8), name


def test_computable_masks_have_a_q_sequence_in_place_of_their_blocks():
    plan = compiled(Causal(), q_len=16, block_q=4, block_kv=4)
    info = tokamax.mask_info(plan, computable=True)
    assert info.q_sequence.tolist() == list(range(16))
    assert info.q_sequence.dtype == np.int32
    assert info.mask_next is None
    assert info.partial_mask_blocks is None
    assert info.block_mask.tolist() == [1, 2, 1, 2, 2, 1, 2, 2, 2, 1]


@pytest.mark.parametrize("computable", [True, False])
def test_a_full_mask_has_no_tables_and_nothing_to_compute(computable):
    plan = compiled(Causal(offset=16), q_len=16, block_q=4, block_kv=4)
    assert tokamax.mask_info(plan, computable=computable) == (None,) * 7


def test_an_empty_mask_lists_one_entry_of_padding():
    plan = compiled(Empty(), q_len=16, block_q=4, block_kv=4)
    info = tokamax.mask_info(plan)
    assert info.num_active_blocks.tolist() == [0]
    for table in (info.active_rows, info.active_cols, info.block_mask):
        assert table.tolist() == [-1]
    assert info.mask_next is None
    dkv = tokamax.mask_info(plan, "dkv")
    assert dkv.num_active_blocks.tolist() == [4]
    assert dkv.active_rows.tolist() == [0, 1, 2, 3]
    assert dkv.block_mask.tolist() == [0] * 4


def test_a_shard_without_partial_blocks_names_block_0():
    plan = compiled(Local(None, 7), q_len=16, block_q=4, block_kv=4)
    info = tokamax.mask_info(plan, q_seq_shards=2)
    second = info.mask_next[len(info.mask_next) // 2 :]
    live = info.block_mask[len(info.block_mask) // 2 :] >= 0
    assert (second[live] == 0).all()
    assert (second[~live] == -1).all()


def test_without_downcast_everything_is_int32():
    plan = compiled(EXAMPLE, q_len=8, block_q=2, block_kv=2)
    info = tokamax.mask_info(plan, downcast_smem_data=False)
    for name in ("mask_next", "active_rows", "active_cols", "block_mask", "num_active_blocks"):
        assert getattr(info, name).dtype == np.int32, name


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ({"q_len": 10}, {}, "q_seq_shards: expected whole blocks in every shard, got q_len=10"),
        ({"q_len": 8, "kv_len": 6}, {}, "kv_seq_shards: expected whole blocks .* kv_len=6 in 1"),
        ({"q_len": 16}, {"q_seq_shards": 3}, "q_seq_shards: expected whole blocks .* in 3 shards"),
        ({"q_len": 16}, {"kv_seq_shards": 8}, "kv_seq_shards: expected whole blocks"),
        ({"q_len": 16}, {"kv_seq_shards": 0}, "kv_seq_shards: expected an integer >= 1, got 0"),
        ({"q_len": 16}, {"direction": "dq"}, "direction: expected 'fwd' or 'dkv', got 'dq'"),
    ],
)
def test_what_does_not_fit_is_refused(shape, arguments, message):
    plan = compiled(Causal(), **shape, block_q=4, block_kv=4)
    with pytest.raises(ValueError, match=message):
        tokamax.mask_info(plan, **arguments)


def test_several_masks_are_refused():
    plan = compiled(MultiHead([Full(), Causal()]), q_len=16, block_q=4, block_kv=4)
    with pytest.raises(MaskArgumentError, match=r"expected one mask for all heads, .* got 2"):
        tokamax.mask_info(plan)


@st.composite
def cases(draw):
    q_seq_shards, kv_seq_shards = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
    block_q, block_kv = draw(st.sampled_from([2, 4])), draw(st.sampled_from([2, 4]))
    q_len = block_q * q_seq_shards * draw(st.integers(1, 4))
    kv_len = block_kv * kv_seq_shards * draw(st.integers(1, 4))
    mask = draw(strategies.masks(q_len, kv_len))
    arguments = {"q_seq_shards": q_seq_shards, "kv_seq_shards": kv_seq_shards}
    arguments["downcast_smem_data"] = draw(st.booleans())
    return mask, (q_len, kv_len), (block_q, block_kv), arguments, draw(st.booleans())


@pytest.fixture(scope="module")
def library():
    """tokamax's mask and mask_info modules; importing them warns about other packages."""
    package = "tokamax._src.ops.experimental.tpu.splash_attention"
    masks = pytest.importorskip(f"{package}.splash_attention_mask", exc_type=ImportError)
    return masks, pytest.importorskip(f"{package}.splash_attention_mask_info")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("direction", ["fwd", "dkv"])
def test_tables_are_those_of_tokamax(library, direction):
    masks, infos = library
    process = infos.process_mask if direction == "fwd" else infos.process_mask_dkv

    @given(cases())
    def same(case):
        mask, (q_len, kv_len), blocks, arguments, dynamic = case
        matrix = dense(mask, q_len, kv_len)
        shape = dict(zip(("block_q", "block_kv"), blocks, strict=True))
        plan = compiled(mask, q_len=q_len, kv_len=kv_len, **shape)
        ours = tokamax.mask_info(plan, direction, **arguments, dynamic_grid=dynamic)
        theirs, _ = process(
            masks.NumpyMask(matrix), blocks, **arguments, return_dynamic_grid=dynamic
        )
        downcast = arguments["downcast_smem_data"]
        assert_same(ours, as_documented(theirs, dynamic=dynamic, downcast=downcast))

    same()


def as_documented(info, *, dynamic, downcast):
    """tokamax's tables with our answers where it has none."""
    if info.block_mask is None:
        return info
    if info.block_mask.size == 0:  # an empty mask: one entry of padding per shard
        small = np.int8 if downcast else np.int32  # tokamax's of size 0 stay int32
        padding = np.full(len(info.num_active_blocks), -1, small)
        return info._replace(active_rows=padding, active_cols=padding, block_mask=padding)
    if info.mask_next is None:
        return info
    live = info.block_mask >= 0 if dynamic else np.ones(info.block_mask.shape, bool)
    return info._replace(mask_next=np.where(live, np.maximum(info.mask_next, 0), info.mask_next))


def assert_same(ours, theirs):
    assert ours._fields == theirs._fields
    for name, a, b in zip(ours._fields, ours, theirs, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
