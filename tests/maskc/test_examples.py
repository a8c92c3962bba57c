"""The shipped examples, end to end: the command compiles each, and attention uses the result."""

import filecmp
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from dense_oracle import dense

from maskc import MultiHead, load_spec, runtime

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(EXAMPLES.glob("*.yaml"))
SIZES = re.compile(r"(?<=[\s{])(q_len|block_q|block_kv|left|chunked_causal|prefix): (\d+)")


def shortened(path, folder):
    """The example with lengths, blocks and sizes divided, so that a dense oracle can follow."""
    text = path.read_text()
    if path.stem == "bigbird":
        return folder / path.name  # 4,096 tokens by its patterns, and a small oracle's worth
    shrink = yaml.safe_load(text)["q_len"] // 1024
    text = SIZES.sub(lambda m: f"{m[1]}: {max(2, int(m[2]) // shrink)}", text)
    (folder / path.name).write_text(re.sub(r"(?m)^heads: \d+", "heads: 4", text))
    with np.load(EXAMPLES / "arrays/packed_documents.npz") as arrays:
        short = {name: array // shrink for name, array in arrays.items()}
    np.savez(folder / "arrays/packed_documents.npz", **short)
    return folder / path.name


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_there_are_examples():
    assert {path.stem for path in SPECS} >= {
        "gemma3", "llama4", "mistral", "gpt_oss", "packed_documents", "paligemma", "bigbird",
        "longformer",
    }  # fmt: skip


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_each_says_where_it_comes_from(path):
    assert re.search(r"^# Source: .*", path.read_text(), flags=re.MULTILINE)
    assert load_spec(path)


def test_array_files_are_what_their_script_writes(tmp_path):
    subprocess.run([sys.executable, str(EXAMPLES / "make_arrays.py"), str(tmp_path)], check=True)
    for file in (EXAMPLES / "arrays").iterdir():
        with np.load(file) as ours, np.load(tmp_path / file.name) as made:
            assert sorted(ours) == sorted(made)
            for name in ours:
                np.testing.assert_array_equal(ours[name], made[name])
    assert filecmp.dircmp(EXAMPLES / "arrays", tmp_path).left_only == []


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_from_the_command_to_attention_under_jit(path, folder):
    spec = shortened(path, folder)
    command = [sys.executable, "-m", "maskc", "compile", str(spec), "--json", "--cache"]
    done = subprocess.run([*command, str(folder / "cache")], capture_output=True, check=True)
    requests = load_spec(spec)
    for record in json.loads(done.stdout):
        request = requests[record["plan"]]
        plan = runtime.load_plan(record["key"], cache=folder / "cache")
        assert runtime.load_plan(record["file"]) == plan
        check_attention(request, plan)


def check_attention(request, plan):
    assert request.q_len <= 4096
    shape = (1, request.heads, request.q_len, 16)
    q, k, v = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3))
    out = jax.jit(runtime.attention)(q, k, v, plan)
    heads = request.mask.masks if isinstance(request.mask, MultiHead) else [request.mask]
    for head in {0, request.heads - 1}:
        mask = dense(heads[min(head, len(heads) - 1)], request.q_len, request.kv_len)
        scores = np.float64(q[0, head]) @ np.float64(k[0, head]).T / 4
        weights = np.where(mask, np.exp(scores - scores.max()), 0)
        total = weights.sum(axis=1, keepdims=True)
        expected = weights @ np.float64(v[0, head]) / np.where(total == 0, 1, total)
        np.testing.assert_allclose(out[0, head], expected, atol=2e-5)
