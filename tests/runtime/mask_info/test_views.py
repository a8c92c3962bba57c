"""Constructors and what a mask says about itself."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from maskc.errors import MaskArgumentError
from maskc.expr import Random
from maskc_runtime import (
    ArgumentShapeError,
    ArgumentTypeError,
    MaskInfo,
    MaskSharding,
    attention,
    get_debug_mode,
    set_debug_mode,
)

IDS = np.array([[0, 0, 3, 3, -1], [-2, 1, 1, 1, 1]])
KV = np.array([[3, 0, 0], [1, -1, 1]])
INFO = MaskInfo.from_segments(IDS, KV)
WHOLE = ((IDS[:, :, None] == KV[:, None, :]) & (IDS[:, :, None] >= 0))[:, None]
VALID = np.array([[1, 1, 0], [1, 1, 1]])


# --- constructors -------------------------------------------------------------------------------


def test_segments():
    np.testing.assert_array_equal(INFO.attention_mask, WHOLE)
    assert INFO.shape == (2, 5, 3)
    assert INFO.attention_mask.dtype == jnp.bool_
    square = MaskInfo.from_segments(IDS)
    assert square.shape == (2, 5, 5)
    named = MaskInfo.from_segments(IDS, None, IDS, IDS, "a", "b", "c", "d")
    assert named.batch_axis_name + named.qheads_axis_name == "ab"
    assert named.kvheads_axis_name + named.sequence_axis_name == "cd"
    np.testing.assert_array_equal(named.q_positions, IDS)
    with pytest.raises(ArgumentShapeError, match="batch and heads of q_segment_ids"):
        MaskInfo.from_segments(IDS, KV[:1])
    with pytest.raises(ArgumentTypeError, match="integers"):
        MaskInfo.from_segments(IDS * 1.0)


@pytest.mark.parametrize("padding", [0, -1])
def test_segments_from_padding_masks(padding):
    given = np.where(VALID == 0, padding, VALID)
    info = MaskInfo.from_segments(given, is_attn_mask=True)
    np.testing.assert_array_equal(info.q_segment_ids, VALID - 1)
    pairs = VALID[:, None, :, None] * VALID[:, None, None, :]
    np.testing.assert_array_equal(info.attention_mask, pairs)
    for other in (
        MaskInfo.from_attention_mask(given),
        MaskInfo.dynamic_init(attention_mask=given),
        MaskInfo.from_attention_mask(given <= 0, mask_is_valid=False),
    ):
        assert other == info


def test_explicit_masks():
    mask = np.random.default_rng(0).random((2, 3, 5, 4)) < 0.4
    mask[0, :, 1], mask[1, :, :, 2] = False, False
    info = MaskInfo.from_attention_mask(mask)
    assert (info.heads, info.shape) == (3, (2, 5, 4))
    np.testing.assert_array_equal(info.attention_mask, mask)
    np.testing.assert_array_equal(info.q_attention_mask, mask.any((1, 3)))
    np.testing.assert_array_equal(info.kv_segment_ids, np.where(mask.any((1, 2)), 0, -1))
    np.testing.assert_array_equal(
        MaskInfo.from_attention_mask(mask[:, 0]).attention_mask[:, 0], mask[:, 0]
    )
    numbers = MaskInfo.from_attention_mask(np.where(mask, 2, -5))
    np.testing.assert_array_equal(numbers.attention_mask, mask)
    floats = MaskInfo.from_attention_mask(mask.astype(np.float32))
    np.testing.assert_array_equal(floats.attention_mask, mask)
    with pytest.raises(ArgumentTypeError, match="an additive bias is no mask"):
        MaskInfo.from_attention_mask(np.where(mask, 0, -np.inf))
    with pytest.raises(ArgumentTypeError, match="additive"):
        jax.jit(MaskInfo.from_attention_mask)(mask.astype(np.float32))
    with pytest.raises(ArgumentShapeError, match=r"got shape \(3,\)"):
        MaskInfo.from_attention_mask(mask[0, 0, 0, :3])
    with pytest.raises(ArgumentShapeError, match="for padding use from_attention_mask"):
        _ = MaskInfo(_attention_mask=mask[0, 0]).heads


def test_random_masks():
    info = MaskInfo.from_random(2, 6, 40, sparsity=0.3, seed=5)
    assert info._term.masks == (Random(0.3, 5 << 20), Random(0.3, (5 << 20) + 1))
    assert 0.5 < info.attention_mask.mean() < 0.9
    assert (info.attention_mask[0] != info.attention_mask[1]).any()
    larger = MaskInfo.from_random(3, 6, 40, sparsity=0.3, seed=5)
    np.testing.assert_array_equal(larger.attention_mask[:2], info.attention_mask)
    assert MaskInfo.from_random(1, 4, sparsity=0).attention_mask.all()
    assert not MaskInfo.from_random(1, 4, sparsity=1).attention_mask.any()
    with pytest.raises(MaskArgumentError, match="sparsity"):
        MaskInfo.from_random(1, 4, sparsity=1.5)


def test_dynamic_init_takes_the_first():
    assert MaskInfo.dynamic_init(mask_info=INFO, input_ids=IDS) is INFO
    for given in ({"input_ids": IDS}, {"inputs_embeds": np.zeros((2, 5, 7))}):
        info = MaskInfo.dynamic_init(**given)
        assert (info.shape, bool(info.attention_mask.all())) == ((2, 5, 5), True)
    with pytest.raises(ValueError, match="expected one of mask_info, input_ids"):
        MaskInfo.dynamic_init()


@pytest.mark.parametrize("offset", [0, 2, -3])
def test_chunked_masks_same_as_the_operation(offset):
    dense = MaskInfo.create_chunked_attention_mask(3, 7, 5, offset, jnp.int8)
    info = MaskInfo.from_segments(np.zeros((1, 7), int), np.zeros((1, 5), int))
    np.testing.assert_array_equal(dense, info.apply_chunked(3, offset).attention_mask[0, 0])
    assert dense.dtype == jnp.int8
    with pytest.raises(ValueError, match="chunk_size"):
        MaskInfo.create_chunked_attention_mask(0, 4)


# --- views --------------------------------------------------------------------------------------


def test_materialized_masks_say_the_same():
    info = INFO.apply_causal().materialize_attention_mask()
    assert info._attention_mask.shape == (2, 1, 5, 3)
    again = info.apply_causal(-1)
    assert again._attention_mask is None  # it would no longer be the whole mask
    np.testing.assert_array_equal(again.attention_mask, INFO.apply_causal(-1).attention_mask)
    explicit = MaskInfo.from_attention_mask(WHOLE).apply_causal().materialize_attention_mask()
    np.testing.assert_array_equal(explicit._attention_mask, INFO.apply_causal().attention_mask)
    assert INFO.to_dtype(jnp.float32)._attention_mask.dtype == jnp.float32
    assert INFO.to_dtype(jnp.float32).attention_mask.dtype == jnp.bool_


@pytest.mark.parametrize("dtype", [jnp.float32, np.dtype("float16"), ml_dtypes.bfloat16, "float32"])
def test_bias(dtype):
    bias = INFO.create_bias(dtype)
    assert bias.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(bias == 0, WHOLE)
    assert (np.asarray(bias)[~WHOLE] == ml_dtypes.finfo(jnp.dtype(dtype)).min).all()
    assert INFO.bias.dtype == jnp.float32


def test_ids_found_in_an_explicit_mask():
    documents = MaskInfo(_attention_mask=WHOLE)
    q, kv = documents.get_or_compute_segment_ids()
    np.testing.assert_array_equal(MaskInfo.from_segments(q, kv).attention_mask, WHOLE)
    kept = documents.materialize_segment_ids()
    np.testing.assert_array_equal(kept._q_segment_ids, q)
    causal = MaskInfo(_attention_mask=np.tri(4, dtype=bool)[None, None])
    assert causal.q_segment_ids.tolist() == [[0] * 4]  # a part of what they allow
    np.testing.assert_array_equal(
        causal.materialize_segment_ids().attention_mask, causal.attention_mask
    )
    heads = np.stack([WHOLE[:, 0], WHOLE[:, 0, ::-1]], axis=1)
    q, kv = MaskInfo(_attention_mask=heads).get_or_compute_segment_ids(per_head=True)
    np.testing.assert_array_equal(MaskInfo.from_segments(q, kv).attention_mask, heads)
    assert INFO.get_or_compute_segment_ids(per_head=True)[0].shape == (2, 1, 5)


def test_ids_per_head():
    ids = np.stack([IDS, IDS[:, ::-1]], axis=1)
    info = MaskInfo.from_segments(ids).apply_causal()
    equal = (ids[..., :, None] == ids[..., None, :]) & (ids[..., :, None] >= 0)
    np.testing.assert_array_equal(info.attention_mask, equal & np.tri(5, dtype=bool))
    assert info.q_lens.tolist() == [[4, 4], [4, 4]]
    typed = info.apply_token_type_ids(IDS, combine="intersect", zero_policy="none")
    types = (IDS[:, :, None] == IDS[:, None, :]) & (IDS[:, :, None] >= 0)
    expected = equal & types[:, None] & np.tri(5, dtype=bool)
    np.testing.assert_array_equal(typed.attention_mask, expected)
    cut = info.apply_kv_lengths(np.array([4, 5]), q_len=2)
    np.testing.assert_array_equal(cut.attention_mask[1], info.attention_mask[1, :, 3:])


def test_lengths_positions_and_flags():
    assert (INFO.q_lens.tolist(), INFO.kv_lens.tolist()) == ([4, 4], [3, 2])
    lens = jax.jit(lambda ids: MaskInfo.from_segments(ids).q_lens)(IDS)
    assert lens.tolist() == [4, 4]
    assert INFO.q_attention_mask.tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert INFO.q_position_ids.tolist() == [[0, 1, 0, 1, -1], [-1, 0, 1, 2, 3]]
    far = 2**31 - 1
    assert INFO.get_or_compute_positions()[1].tolist() == [[0, 0, 1], [0, far, 0]]
    given = INFO.replace(q_positions=IDS)
    assert given.get_or_compute_positions()[0] is given.q_positions
    assert MaskInfo().get_or_compute_positions() == (None, None)
    assert bool(INFO.is_multi_sequence)
    assert not bool(MaskInfo.from_segments(np.array([[1, 1, -1]])).is_multi_sequence)
    assert INFO.apply_causal().apply_chunked(2).baked_in_masks == {
        "causal": True,
        "sliding_window": False,
        "chunked": True,
        "token_type_ids": False,
    }


def test_qkv_masks_hold_the_whole_mask():
    q, kv, mask = INFO.apply_causal().get_qkv_masks(jnp.int32)
    np.testing.assert_array_equal(q, IDS >= 0)
    np.testing.assert_array_equal(kv, KV >= 0)
    np.testing.assert_array_equal(mask, WHOLE & np.tri(5, 3, dtype=bool))
    assert mask.dtype == jnp.int32


def test_self_attention():
    assert MaskInfo.from_segments(IDS).is_self_attention() is True
    assert INFO.is_self_attention() is False
    assert MaskInfo.from_segments(IDS, IDS[::-1]).is_self_attention() is False
    assert MaskInfo(_attention_mask=WHOLE).is_self_attention() is False
    traced = jax.jit(lambda a, b: MaskInfo.from_segments(a, b).is_self_attention())(IDS, IDS)
    assert bool(traced)
    assert MaskInfo().is_self_attention() is False


def test_shapes_of_partly_given_ones():
    assert MaskInfo().shape == (None, None, None)
    assert MaskInfo(_kv_segment_ids=KV).shape == (2, 3, 3)
    assert MaskInfo(_attention_mask=WHOLE).shape == (2, 5, 3)
    one_side = MaskInfo(_q_segment_ids=IDS)
    np.testing.assert_array_equal(
        one_side.attention_mask, MaskInfo.from_segments(IDS).attention_mask
    )
    with pytest.raises(ArgumentShapeError, match="known shape"):
        _ = MaskInfo().attention_mask


# --- shardings ----------------------------------------------------------------------------------


def test_shardings_leave_out_what_a_mesh_does_not_have():
    info = MaskInfo.from_attention_mask(np.ones((4, 2, 8, 6), bool)).replace(
        q_positions=np.zeros((4, 8), int)
    )
    mesh = AbstractMesh((2, 2, 2), ("dp", "fsdp", "sp"))
    assert info.get_shardings(mesh=mesh) == MaskSharding(
        PartitionSpec(("dp", "fsdp"), None, None, None),
        *[PartitionSpec(("dp", "fsdp"), None)] * 2,
        None,
        None,
        PartitionSpec(("dp", "fsdp"), None),
        None,
    )
    sequence = info.get_shardings(True, mesh=mesh)
    assert sequence.attention_mask == PartitionSpec(("dp", "fsdp"), None, "sp", None)
    assert sequence.kv_segment_ids == PartitionSpec(("dp", "fsdp"), "sp")
    heads = AbstractMesh((8, 2), ("dp", "tp"))  # 8 does not divide 4 rows
    assert info.get_shardings(mesh=heads).attention_mask == PartitionSpec(None, "tp", None, None)
    per_head = MaskInfo.from_segments(np.zeros((4, 2, 8), int), kvheads_axis_name="kv")
    axes = AbstractMesh((2, 2), ("tp", "kv"))
    assert per_head.get_shardings(mesh=axes).q_segment_ids == PartitionSpec(None, "tp", None)
    assert per_head.get_shardings(mesh=axes).kv_segment_ids == PartitionSpec(None, "kv", None)
    assert MaskInfo.get_empty_sharding() == MaskSharding(*[None] * 7)
    assert INFO.get_shardings(mesh=jax.make_mesh((1,), ("data",))).q_segment_ids == PartitionSpec(
        None, None
    )


# --- debug mode ---------------------------------------------------------------------------------


def test_debug_mode_says_what_is_done(capsys):
    before = get_debug_mode()
    try:
        set_debug_mode(True)
        assert get_debug_mode()
        INFO.apply_causal(offset=2)
        set_debug_mode(False)
        INFO.apply_causal()
    finally:
        set_debug_mode(before)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("(")[0] for line in lines] == ["Operations.apply_causal"]
    assert "offset=2" in lines[0]


def test_an_empty_row_under_a_plan_gives_zero():
    q = jnp.ones((2, 1, 5, 4))
    k = jnp.ones((2, 1, 3, 4))
    folded = [x.reshape(1, 2, *x.shape[2:]) for x in (q, k)]
    out = attention(folded[0], folded[1], folded[1], INFO.plan())
    np.testing.assert_allclose(out[0, :, :, 0], WHOLE[:, 0].any(-1), rtol=1e-6)
