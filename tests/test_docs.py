"""The pages of the documentation that hold commands and code: all of it runs."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]


def run_shell(example):
    """One bash block, in the page's folder; `maskc` is this checkout's."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", str(example.parsed)], check=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a `maskc` command of its own."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "maskc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m maskc "$@"\n')
    (commands / "maskc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("docs/getting-started.md", 8),
        ("docs/concepts.md", 1),
        ("docs/masks.md", 1),
        ("docs/plans-under-jit.md", 1),
        ("docs/splash.md", 3),
        ("docs/attention.md", 5),
        ("docs/mask-info.md", 4),
        ("docs/tpu.md", 1),
        ("README.md", 1),
    ],
)
def test_a_page_runs_from_top_to_bottom(page, least):
    parsers = [SkipParser(), PythonCodeBlockParser()]
    if page != "README.md":  # its commands are CI's own steps
        parsers.append(CodeBlockParser(language="bash", evaluator=run_shell))
    document = Sybil(parsers=parsers).parse(ROOT / page)
    examples = list(document.examples())
    assert len(examples) >= least
    for example in examples:
        example.evaluate()


def test_the_spec_page_s_example_is_a_spec(folder):
    from maskc import load_spec

    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/spec.md").read_text(), re.DOTALL)[1]
    (folder / "spec.yaml").write_text(text)
    assert list(load_spec("spec.yaml")) == ["local", "global", "mixed"]


def test_pages_name_every_leaf_and_every_parameter():
    from maskc.mask_spec import LEAVES
    from maskc.request import CompileRequest

    masks, spec = ((ROOT / "docs" / page).read_text() for page in ("masks.md", "spec.md"))
    for name, kind in LEAVES.items():
        assert f"`{kind.__name__}(" in masks
        assert re.search(rf"\b{name}\b", masks)
    for name in CompileRequest.__dataclass_fields__:
        assert f"`{name}`" in spec


def test_the_splash_page_names_everything_with_its_test():
    import maskc
    from maskc import smem, splash
    from maskc.kernels import reference

    homes = {"splash": splash, "reference": reference, "Plan": maskc.Plan, "smem": smem}
    text = (ROOT / "docs/splash.md").read_text()
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (.+?) \| (.+?) \|", text, re.MULTILINE)
    for home, name, status, tests in rows:
        assert hasattr(homes[home], name), name
        assert status in {"same", "same, in numpy", "new", "corrected"}
        for test in re.findall(r"`(\w+\.py)`", tests):
            assert any(name in path.read_text() for path in (ROOT / "tests").rglob(test)), name
    named = {(home, name) for home, name, *_ in rows}
    for home, module in (("splash", splash), ("reference", reference)):
        missing = {(home, name) for name in module.__all__} - named
        assert missing <= {("reference", "dense_attention")}


SEEDS = {
    "docs/splash.md": """
        Mask FullMask CausalMask LocalMask ChunkedCausalMask NumpyMask LogicalAnd LogicalOr
        MultiHeadMask _ComputableMask make_causal_mask make_local_attention_mask
        make_chunk_attention_mask make_random_mask
        BlockSizes SegmentIds below_or_on_diag mha_reference mha_reference_bwd
        mha_reference_no_custom_vjp DEFAULT_MASK_VALUE NUM_LANES NUM_SUBLANES MIN_BLOCK_SIZE
        MaskInfo process_mask process_mask_dkv process_dynamic_mask process_dynamic_mask_dkv
    """,
    "docs/mask-info.md": """
        set_debug_mode get_debug_mode mask_to_segment_ids segment_ids_to_mask
        segment_ids_to_qkv_masks qkv_masks_to_cu_seqlens cu_seqlens_to_mask
        qkv_cu_seqlens_to_qkv_masks qkv_cu_seqlens_to_attention_mask
        attention_mask_to_qkv_cu_seqlens _segment_ids_to_cu_seqlens _positions_from_segments_2d
        MaskSharding MaskInfo _attention_mask _q_segment_ids _kv_segment_ids _cu_seqlens_q
        _cu_seqlens_kv q_positions kv_positions causal_mask_baked_in sliding_window_baked_in
        chunked_mask_baked_in token_type_ids_baked_in batch_axis_name qheads_axis_name
        kvheads_axis_name sequence_axis_name attention_mask q_segment_ids kv_segment_ids
        cu_seqlens_q cu_seqlens_kv q_lens kv_lens is_multi_sequence baked_in_masks
        q_attention_mask q_position_ids bias create_bias batch_size q_len kv_len shape
        from_segments from_attention_mask from_cu_seqlens from_random dynamic_init
        materialize_attention_mask materialize_segment_ids get_or_compute_attention_mask
        get_or_compute_segment_ids get_or_compute_positions get_or_compute_qkv_cu_seqlens
        get_qkv_masks is_self_attention to_dtype apply_kv_lengths apply_causal
        apply_sliding_window apply_chunked apply_token_type_ids create_chunked_attention_mask
        get_empty_sharding get_shardings replace visualize
    """,
    "docs/attention.md": """
        query key value q_segment_ids kv_segment_ids q_positions kv_positions softmax_aux bias
        attention_mask sequence_parallelism_mesh_axis_name logits_soft_cap qkv_layouts
        softmax_scale fwd_params bwd_params mask_builder sliding_window chunk_size causal
        fused_backward
    """,
}
"""Every name of the systems that maskc takes the place of, as their sources have them."""


@pytest.mark.parametrize("page", SEEDS)
def test_a_page_has_a_row_for_every_name_of_the_systems_before(page):
    rows = re.findall(r"^\| (`.*?) \|.*\|.*`test_\w+", (ROOT / page).read_text(), re.MULTILINE)
    named = {name.split(".")[-1] for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    rows = re.findall(r"^\| (`.*?) \|.*`a_sequence_\w+", (ROOT / page).read_text(), re.MULTILINE)
    named |= {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert not set(SEEDS[page].split()) - named


def test_the_attention_page_names_every_argument_with_its_test():
    from maskc.runtime import blocksparse_attention

    text = (ROOT / "docs/attention.md").read_text()
    statuses = "same|mended|wider|refused|new"
    rows = re.findall(rf"^\| (`.*?) \| ({statuses}) \| (`.*?) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert named == list(inspect.signature(blocksparse_attention).parameters)
    sources = ["tests/runtime/test_blocksparse.py", "tests/support/eight_devices.py"]
    tests = "".join((ROOT / source).read_text() for source in sources)
    for *_, cell in rows:
        for name in re.findall(r"`(\w+)`", cell):
            assert f"\ndef {name}(" in tests, name


def test_the_commands_of_the_readme_are_what_ci_runs():
    script, readme = (ROOT / ".ci/run").read_text(), (ROOT / "README.md").read_text()
    for name in ("demo", "test"):
        assert f"readme_command {name}" in script
        assert readme.count(f"<!-- command: {name} -->\n```bash\n") == 1
    assert shutil.which("bash")
