"""Spec files: what they mean, and an error with a position for every mistake."""

import numpy as np
import pytest

from maskc import (
    Blocks,
    Causal,
    Chunked,
    ChunkedCausal,
    Diagonals,
    Documents,
    Full,
    Intervals,
    Keys,
    Kron,
    Local,
    MultiHead,
    Neighborhood,
    Prefix,
    Queries,
    Random,
    Rectangle,
    Remap,
    Segments,
    Shift,
    SpecError,
    Strided,
    Transpose,
    load_spec,
)
from maskc.request import CompileRequest


@pytest.fixture
def load(tmp_path):
    def load(text, plan=None):
        (tmp_path / "spec.yaml").write_text(text)
        return load_spec(tmp_path / "spec.yaml", plan)

    return load


def test_the_smallest_spec(load):
    assert load("{maskc: 1, q_len: 64, mask: causal}") == {
        "default": CompileRequest(Causal(), q_len=64)
    }


def test_plans_share_parameters_and_override_them(load):
    requests = load("""
maskc: 1
q_len: 64
heads: 4
block_q: 16
masks:
  window: {local: {left: 15, right: 0}}
  both: (window | sinks) & ~causal - window ^ causal
  sinks: {prefix: 4}
plans:
  local: {mask: window, block_kv: 32}
  odd: {mask: both, kv_len: 32, head_shards: 2, shrink_grid: false}
""")
    window = Local(15, 0)
    both = ((window | Prefix(4)) & (~Causal() - window)) ^ Causal()
    assert requests == {
        "local": CompileRequest(window, q_len=64, heads=4, block_q=16, block_kv=32),
        "odd": CompileRequest(
            both, q_len=64, kv_len=32, heads=4, block_q=16, head_shards=2, shrink_grid=False
        ),
    }


def test_masks_by_head_range(load):
    (request,) = load("""
maskc: 1
q_len: 8
mask: {prefix: 2}
heads: 3
""").values()
    assert request.heads == 3
    (request,) = load("{maskc: 1, q_len: 8, head_masks: {0-1: causal, 2: {prefix: 2}}}").values()
    assert request.mask == MultiHead([Causal(), Causal(), Prefix(2)])


def test_arguments_of_leaves(load, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([0, 0, 1, 1]))
    np.savez(tmp_path / "many.npz", pattern=np.eye(2, dtype=bool))

    def mask(text):
        return load(f"{{maskc: 1, q_len: 4, mask: {text}}}")["default"].mask

    assert mask("{segments: {file: ids.npy}}") == Segments([0, 0, 1, 1])
    assert mask("{segments: {q_ids: {file: ids.npy}, kv_ids: [1, 1, 0, 0]}}") == Segments(
        [0, 0, 1, 1], [1, 1, 0, 0]
    )
    assert mask("{blocks: {pattern: {file: many.npz, key: pattern}, block_q: 2}}") == Blocks(
        np.eye(2, dtype=bool), 2
    )
    assert mask("{documents: [0, 1, 4]}") == Documents([0, 1, 4])
    assert mask("{random: {sparsity: 0.25, seed: 3}}") == Random(0.25, 3)
    assert mask("{causal: {align: bottom_right, offset: -2}}") == Causal(-2, "bottom_right")
    assert mask("{causal: }") == Causal()


def test_leaves_and_combinators_of_the_zoo(load, tmp_path):
    np.save(tmp_path / "order.npy", np.array([0, 2, 1, 3]))

    def mask(text):
        masks = "masks: {window: {local: {left: 1}}}"
        return load(f"{{maskc: 1, q_len: 4, {masks}, mask: {text}}}")["default"].mask

    assert mask("{chunked: {chunk: 2, offset: 1}}") == Chunked(2, 1)
    assert mask("{chunked_causal: {chunk: 2, offset: 1}}") == ChunkedCausal(2, 1)
    assert mask("{strided: {stride: 2, phase: 1}}") == Strided(2, 1)
    assert mask("{intervals: {starts: [0, 0, 1, 2], stops: [1, 2, 3, 4]}}") == Intervals(
        [0, 0, 1, 2], [1, 2, 3, 4]
    )
    assert mask("{queries: [0, 2]}") == Queries([0, 2])
    assert mask("{keys: []}") == Keys([])
    assert mask("{diagonals: [0, 3]}") == Diagonals([0, 3])
    assert mask("{neighborhood: {shape: [2, 2], kernel: 2, causal: [true, false]}}") == (
        Neighborhood((2, 2), 2, causal=(True, False))
    )
    assert mask("{transpose: causal & window}") == Transpose(Causal() & Local(1))
    assert mask("{transpose: {mask: {prefix: 2}}}") == Transpose(Prefix(2))
    assert mask("{shift: {mask: window, q: 1, kv: -1, kv_len: 9}}") == Shift(
        Local(1), 1, -1, kv_len=9
    )
    assert mask("{remap: {mask: ~window, q_positions: {file: order.npy}}}") == Remap(
        ~Local(1), [0, 2, 1, 3]
    )
    assert mask("{kron: {masks: [full, {rectangle: {kv_start: 1}}], q_shape: [null, 2]}}") == Kron(
        (Full(), Rectangle(kv_start=1)), (None, 2)
    )


def test_one_plan_can_be_chosen(load):
    text = "{maskc: 1, q_len: 8, plans: {a: {mask: causal}, b: {mask: full}}}"
    assert list(load(text)) == ["a", "b"]
    assert list(load(text, "b")) == ["b"]
    with pytest.raises(SpecError, match="no plan 'c'; expected one of a, b"):
        load(text, "c")


ERRORS = {
    "mask: [causal\n": "2:1: not valid YAML",
    "": "1:1: the spec is empty",
    "- 3": "1:1: spec: expected a mapping, got a list",
    "q_len: 8\nmask: causal": "1:1: maskc: missing key; expected 'maskc: 1'",
    "maskc: 2\nq_len: 8": "1:8: maskc: expected schema version 1, got 2 (int)",
    "maskc: 1\nq_len: 8": "1:1: plans: missing key; expected 'plans', or one 'mask'",
    "maskc: 1\nq_lem: 8\nmask: causal": "2:1: q_lem: unknown key; expected one of block_kv,",
    "maskc: 1\nq_len: 8\nmask: causal\nblok_q: 2": "4:1: blok_q: unknown key;",
    "maskc: 1\nmask: causal": "1:1: q_len: missing key; expected the number of queries",
    "maskc: 1\nq_len: 8\nq_len: 9\nmask: causal": "3:1: q_len: this key already stands at 2:1",
    "maskc: 1\nq_len: eight\nmask: causal": "2:1: q_len: expected `int | null`, got `str`",
    "maskc: 1\nq_len: 0\nmask: causal": "2:1: q_len: expected `int` >= 1, got 0 (int)",
    "maskc: 1\nq_len: 1.5\nmask: causal": "2:1: q_len: expected `int | null`, got `float`",
    "maskc: 1\nq_len: 8\nheads: 4\nhead_shards: 3\nmask: causal": (
        "4:1: head_shards: expected a divisor of heads=4, got 3"
    ),
    "maskc: 1\nq_len: 8\nmask: casual": "3:7: mask: unknown mask 'casual'; expected one of causal, "
    "empty, full; did you mean 'causal'?",
    "maskc: 1\nq_len: 8\nmask: causal and full": "3:7: mask: 'causal and full' is not allowed here",
    "maskc: 1\nq_len: 8\nmask: causal &": "3:7: mask: 'causal &' is not a mask expression",
    "maskc: 1\nq_len: 8\nmask: local": "3:7: mask: local needs arguments",
    "maskc: 1\nq_len: 8\nmask: 3": "3:7: mask: expected a mask, like 'causal & window'",
    "maskc: 1\nq_len: 8\nmask: {locale: {left: 3}}": (
        "3:8: mask.locale: unknown mask; expected one of blocks, causal, chunked, chunked_causal, "
        "dense, diagonals, documents, empty, full, intervals, keys, kron, local, neighborhood, "
        "prefix, queries, random, rectangle, remap, segments, shift, strided, transpose; "
        "did you mean 'local'?"
    ),
    "maskc: 1\nq_len: 8\nmask: {local: {lefft: 3}}": (
        "3:16: mask.local.lefft: unknown key; expected one of align, left, offset, right; "
        "did you mean 'left'?"
    ),
    "maskc: 1\nq_len: 8\nmask: {local: {left: x}}": "3:22: mask.local.left: expected an integer or",
    "maskc: 1\nq_len: 8\nmask: {transpose: }": "3:8: mask.transpose.mask: missing key",
    "maskc: 1\nq_len: 8\nmask: {transpose: casual}": "3:19: mask.transpose.mask: unknown mask 'cas",
    "maskc: 1\nq_len: 8\nmask: {transpose: {mask: {local: {lefft: 3}}}}": (
        "3:35: mask.transpose.mask.local.lefft: unknown key"
    ),
    "maskc: 1\nq_len: 8\nmask: {shift: {mask: causal, q: x}}": "3:33: mask.shift.q: expected an in",
    "maskc: 1\nq_len: 8\nmask: {shift: {mask: 3}}": "3:22: mask.shift.mask: expected a mask, like",
    "maskc: 1\nq_len: 8\nmask: {kron: {masks: causal, q_shape: [2]}}": (
        "3:22: mask.kron.masks: expected a list of masks, got 'causal'"
    ),
    "maskc: 1\nq_len: 8\nmask: {kron: {masks: [full, fulll], q_shape: [2, 4]}}": (
        "3:29: mask.kron.masks[1]: unknown mask 'fulll'"
    ),
    "maskc: 1\nq_len: 8\nmask: {kron: {masks: [full, full], q_shape: [2, ~]}}": (
        "3:45: mask.kron.q_shape: expected an integer, got None"
    ),
    "maskc: 1\nq_len: 8\nmask: {kron: {masks: [causal, full], q_shape: [3, 4]}}": (
        "3:7: mask: Kron.q_shape: expected 2 x 4 tokens for q_len=8, got (3, 4)"
    ),
    "maskc: 1\nq_len: 8\nmask: {neighborhood: {shape: [8], kernel: [3, 3]}}": (
        "3:43: mask.neighborhood.kernel: expected one value, or 1 like the axes, got (3, 3)"
    ),
    "maskc: 1\nq_len: 8\nmask: {neighborhood: {shape: [3, 3], kernel: 3}}": (
        "3:7: mask: Neighborhood.shape: expected q_len=8 tokens in all, got (3, 3)"
    ),
    "maskc: 1\nq_len: 8\nmask: {remap: {mask: causal, q_positions: [0, 1]}}": (
        "3:7: mask: Remap.q_positions: expected q_len=8 positions, got 2"
    ),
    "maskc: 1\nq_len: 8\nmask: a\nmasks: {a: {transpose: a}}": "refers to itself: a -> a",
    "maskc: 1\nq_len: 8\nmask: {full: 3}": "3:14: mask.full: takes no argument, got 3 (int)",
    "maskc: 1\nq_len: 8\nmask: {random: {seed: 3}}": "3:8: mask.random.sparsity: missing key",
    "maskc: 1\nq_len: 8\nmask: {causal: , full: }": "3:7: mask: expected one mask, got 2 keys",
    "maskc: 1\nq_len: 8\nmask: {dense: [[true], [true, false]]}": "3:15: mask.dense",
    "maskc: 1\nq_len: 8\nmask: {segments: [0, 1]}": (
        "3:7: mask: Segments.q_ids: expected q_len=8 ids, got 2"
    ),
    "maskc: 1\nq_len: 8\nmask: {segments: {file: none.npy}}": (
        "3:25: mask.segments.file: cannot read"
    ),
    "maskc: 1\nq_len: 8\nmask: {segments: {file: ../x.npy}}": (
        "3:25: mask.segments.file: '../x.npy' is outside the spec's folder"
    ),
    "maskc: 1\nq_len: 8\nmask: {segments: {file: /etc/passwd}}": "is outside the spec's folder",
    "maskc: 1\nq_len: 8\nmask: {segments: {q_ids: {fil: x}}}": "3:27: mask.segments.fil: unknown",
    "maskc: 1\nq_len: 8\nmask: causal\nhead_masks: {0: causal}": "4:1: head_masks: expected this",
    "maskc: 1\nq_len: 8\nhead_masks: {0-x: causal}": "3:14: head_masks.0-x: expected a head or",
    "maskc: 1\nq_len: 8\nhead_masks: {0-2: causal, 2: full}": "3:27: head_masks.2: head 2 already",
    "maskc: 1\nq_len: 8\nhead_masks: {0: causal, 2: full}": "head 1 has no mask; expected one for",
    "maskc: 1\nq_len: 8\nheads: 2\nhead_masks: {0-2: causal}": "head 2 is not one of heads=2",
    "maskc: 1\nq_len: 8\nheads: 2\nhead_masks: {}": "4:13: head_masks: head 0 has no mask",
    "maskc: 1\nq_len: 8\nmask: a\nmasks: {a: b, b: ~a}": "masks.a: refers to itself: a -> b -> a",
    "maskc: 1\nq_len: 8\nmask: full\nmasks: {causal: full}": "4:9: masks.causal: this name belongs",
    "maskc: 1\nq_len: 8\nmask: full\nmasks: {a-b: full}": "4:9: masks.a-b: expected a name of lett",
    "maskc: 1\nq_len: 8\nmask: full\nmasks: {unused: fulll}": "4:17: masks.unused: unknown mask",
    "maskc: 1\nq_len: 8\nplans: {}": "3:8: plans: expected one plan or more",
    "maskc: 1\nq_len: 8\nplans: {a: causal}": "3:12: plans.a: expected a mapping, got 'causal'",
    "maskc: 1\nq_len: 8\nplans: {a: {}}": "3:12: plans.a.mask: missing key",
    "maskc: 1\nq_len: 8\nplans: {../a: {mask: full}}": "3:9: plans.../a: expected a name of",
    "maskc: 1\nq_len: 8\nplans: {a: {mask: full, blockq: 3}}": (
        "3:25: plans.a.blockq: unknown key; expected one of block_kv, block_kv_dkv, block_kv_dq, "
        "block_q, block_q_dkv, block_q_dq, downcast_smem_data, head_masks, head_shards, heads, "
        "kv_len, mask, prefetch, q_len, q_seq_shards, row_bounds, shrink_grid, splash; "
        "did you mean 'block_q'?"
    ),
    "maskc: 1\nq_len: 8\nmask: full\nplans: {a: {mask: full}}": "3:1: mask: expected inside one of",
    "maskc: 1\nq_len: &a [*a]\nmask: full": "an alias that contains itself",
    "maskc: 1\nq_len: 8\nmask: !!python/object:os.system x": "3:7: not a plain value",
    "maskc: 1\nq_len: 8\n? [a]\n: 3": "3:3: a key must be a word, got a list",
}


@pytest.mark.parametrize(("text", "message"), ERRORS.items(), ids=range(len(ERRORS)))
def test_errors_name_the_place_and_what_was_expected(load, tmp_path, text, message):
    with pytest.raises(SpecError) as caught:
        load(text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/spec.yaml:")
    assert message in said
    assert "\n" not in said


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SpecError, match=r"none\.yaml: cannot read the spec: No such file"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"maskc: \xff")
    with pytest.raises(SpecError, match=r"latin\.yaml: not UTF-8 at byte 7"):
        load_spec(tmp_path / "latin.yaml")


def test_array_files_that_are_not_arrays(load, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=[0, 1])
    for file, message in [
        ("file: bad.npy", "cannot read"),
        ("file: objects.npy", "Object arrays cannot be loaded"),
        ("file: a.npz", "no array None in a.npz; expected one of x"),
        ("file: a.npz, key: y", "no array 'y' in a.npz; expected one of x"),
        ("key: y", "expected {file: NAME.npy}"),
    ]:
        with pytest.raises(SpecError, match=message):
            load(f"{{maskc: 1, q_len: 2, mask: {{segments: {{q_ids: {{{file}}}}}}}}}")


def test_links_do_not_lead_out_of_the_folder(load, tmp_path):
    outside = tmp_path.parent / "outside.npy"
    np.save(outside, np.array([0, 1]))
    (tmp_path / "link.npy").symlink_to(outside)
    with pytest.raises(SpecError, match="outside the spec's folder"):
        load("{maskc: 1, q_len: 2, mask: {segments: {file: link.npy}}}")


def test_aliases_do_not_blow_up(load):
    levels = "\n".join(
        f"  a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" if i else "  a0: &a0 {x: 1}"
        for i in range(40)
    )
    with pytest.raises(SpecError, match=r"expected one mask, got 2 keys|unknown mask"):
        load(f"maskc: 1\nq_len: 8\nmask: full\nmasks:\n{levels}")
