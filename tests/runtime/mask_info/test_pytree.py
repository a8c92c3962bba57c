"""A pytree of arrays, frozen, equal and hashed by content, without tracers left behind."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.expr import Causal, Documents, Local, MultiHead
from maskc_runtime import ArgumentTypeError, MaskInfo, TracedMaskError

IDS = np.array([[0, 0, 1, -1]])


def build(dtype=np.int64):
    info = MaskInfo.from_segments(IDS.astype(dtype)).apply_causal(np.array([0]))
    return info.apply_token_type_ids(np.array([[1, 0, 1, 1]]))


def test_round_trip():
    info = build().replace(q_positions=np.arange(4)[None], batch_axis_name="x")
    leaves, tree = jax.tree.flatten(info)
    assert jax.tree.unflatten(tree, leaves) == info
    assert jax.tree.map(lambda x: x, info) == info
    assert all(hasattr(leaf, "shape") for leaf in leaves)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(info)]
    assert paths[:3] == [".q_segment_ids", ".kv_segment_ids", ".q_positions"]
    copies = copy.deepcopy(info), pickle.loads(pickle.dumps(info))  # noqa: S301
    assert copies == (info, info)


def test_through_jit_scan_and_eval_shape():
    info = build()
    assert jax.jit(lambda i: i)(info) == info
    carried, _ = jax.lax.scan(lambda i, _: (i, None), info, None, length=2)
    assert carried == info
    shapes = jax.eval_shape(lambda i: i.apply_causal().attention_mask, info)
    assert (shapes.shape, shapes.dtype) == ((1, 1, 4, 4), jnp.bool_)


def test_equal_content_is_equal():
    info = build()
    assert info == build(np.int32)
    assert hash(info) == hash(build(np.int32))
    assert len({info, build(), info.apply_causal()}) == 2
    others = [
        info.apply_causal(),
        info.replace(q_segment_ids=IDS + 1),
        info.replace(q_positions=IDS),
        info.replace(sequence_axis_name=None),
        info.replace(causal_mask_baked_in=False),
    ]
    assert all(info != other for other in others)
    assert len({*others, info}) == 6
    assert info != "a mask"
    assert info.materialize_attention_mask() == info  # which only repeats what it says


def test_a_static_argument_is_traced_once_for_equal_masks():
    traced = []

    def run(info, x):
        traced.append(info)
        return jnp.where(info.attention_mask, x, 0.0)

    jitted = jax.jit(run, static_argnums=0)
    for _ in range(2):
        jitted(build(), 1.0)
    assert len(traced) == 1
    assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(traced[0]))


def test_traced_values_have_no_hash():
    def run(info):
        with pytest.raises(TracedMaskError, match="== and hash"):
            hash(info)
        assert info == info  # noqa: PLR0124  # the same object needs no values
        with pytest.raises(TracedMaskError):
            bool(info == build())
        return info.q_segment_ids

    jax.jit(run)(build())


def test_properties_leak_no_tracers():
    info = build()
    with jax.checking_leaks():
        jax.jit(
            lambda: (info.attention_mask, info.q_segment_ids, info.get_or_compute_positions())
        )()
        jax.jit(lambda: (info.cu_seqlens_q, info.q_lens, info.is_multi_sequence, info.bias))()
    assert np.asarray(info.attention_mask).shape == (1, 1, 4, 4)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().causal_mask_baked_in = True


def test_field_names_that_programs_rely_on():
    mask = np.tri(4, dtype=bool)[None, None]
    info = MaskInfo(_attention_mask=mask)
    np.testing.assert_array_equal(info.attention_mask, mask)
    assert (info._q_segment_ids, info._kv_segment_ids) == (None, None)
    assert getattr(info, "sliding_window_baked_in", True) is False
    assert info.apply_sliding_window(1).sliding_window_baked_in is True
    names = [field.name for field in dataclasses.fields(MaskInfo)]
    assert names[:11] == [
        "_attention_mask",
        "_q_segment_ids",
        "_kv_segment_ids",
        "_cu_seqlens_q",
        "_cu_seqlens_kv",
        "q_positions",
        "kv_positions",
        "causal_mask_baked_in",
        "sliding_window_baked_in",
        "chunked_mask_baked_in",
        "token_type_ids_baked_in",
    ]
    assert (info.batch_axis_name, info.qheads_axis_name) == (("dp", "fsdp"), "tp")
    assert (info.kvheads_axis_name, info.sequence_axis_name) == ("tp", "sp")


def test_replace_clears_and_replaces():
    info = MaskInfo.from_segments(IDS).apply_causal()
    assert info.replace() == info
    new = np.ones((1, 1, 4, 4), bool)
    replaced = info.replace(attention_mask=new)  # the ids keep holding, causal does not
    np.testing.assert_array_equal(
        replaced.attention_mask, MaskInfo.from_segments(IDS).attention_mask
    )
    free = replaced.replace(q_segment_ids=None, kv_segment_ids=None)
    assert free.attention_mask.all()
    other = info.materialize_attention_mask().replace(q_segment_ids=IDS * 0, kv_segment_ids=IDS * 0)
    np.testing.assert_array_equal(other.attention_mask[0, 0], np.tri(4, dtype=bool))
    cu = MaskInfo.from_cu_seqlens([0, 2, 3], max_q_len=4)
    assert cu.replace(q_segment_ids=IDS)._cu_seqlens_q is None
    assert cu.replace(q_positions=IDS)._cu_seqlens_q is not None
    for name in ("mask", "_attention_mask"):
        with pytest.raises(
            ArgumentTypeError, match=f"replace: .* attention_mask, .*, got '{name}'"
        ):
            cu.replace(**{name: None})


def test_repr_is_short():
    assert repr(build()) == (
        "MaskInfo(shape=(1, 4, 4), q_segment_ids=int32[1, 4], kv_segment_ids=int32[1, 4], "
        "baked_in=['causal_mask', 'token_type_ids'])"
    )


def test_expressions_of_any_kind():
    masks = MultiHead([Causal(), Documents([0, 2, 4]) | Local(1, 0)])
    info = MaskInfo.from_mask(masks, 4, batch_size=2)
    assert (info.shape, info.heads) == ((2, 4, 4), 2)
    expected = (
        np.tri(4, dtype=bool),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]]),
    )
    for row in range(2):
        np.testing.assert_array_equal(info.attention_mask[row], np.stack(expected))


def test_arrays_that_are_spread_over_processes_stay_where_they_are(monkeypatch):
    ids = jnp.asarray(IDS)
    monkeypatch.setattr(type(ids), "is_fully_addressable", False)
    info = MaskInfo.from_segments(ids).apply_causal()
    assert isinstance(info._q_segment_ids, jax.Array)
    with pytest.raises(TracedMaskError):
        info.plan()
