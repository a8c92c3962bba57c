"""What is refused: by `refusal` in a sentence, and by attention with the same one when traced."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels import gpu
from maskc_kernels.gpu import Tile, Tiles, block_sparse_attention, refusal

pytest.importorskip("triton", reason="the GPU kernels need pip install 'maskc[gpu]'")


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


Q, KV = shape(2, 4, 32, 8), shape(2, 2, 48, 8)
IDS = {"q_segment_ids": shape(2, 32, dtype="int32"), "kv_segment_ids": shape(2, 48, dtype="int32")}
REFUSED = {
    "take one dtype of .* got bfloat16, float32": {"v": shape(2, 2, 48, 8, dtype="bfloat16")},
    "take one dtype of .* got float8": {
        name: shape(*x.shape, dtype="float8_e4m3fn") for name, x in (("q", Q), ("k", KV), ("v", KV))
    },
    "q: .* head dimensions 1 to 256": {"q": shape(2, 4, 32, 257), "k": shape(2, 2, 48, 257)},
    "v: .* head dimensions 1 to 256": {"v": shape(2, 2, 48, 300)},
    "nothing to compute": {"q": shape(0, 4, 32, 8), "k": shape(0, 2, 48, 8)},
    "k: .* one head in 32 bits": {"k": shape(2, 2, 2**28, 8), "v": shape(2, 2, 2**28, 8)},
    "give q_segment_ids and kv_segment_ids": {"q_segment_ids": IDS["q_segment_ids"]},
    r"kv_segment_ids: expected shape \(2, 48\)": IDS | {"kv_segment_ids": shape(2, 32)},
    "logits_soft_cap: expected": {"logits_soft_cap": 0.0},
    "sinks: expected one logit for each of 4 heads": {"sinks": shape(2)},
    "bias: expected .2 or 1, 4 or 1, 32 or 1, 48.": {"bias": shape(2, 2, 32, 48)},
    "bias: expected .* got shape .32, 48.": {"bias": shape(32, 48)},
    "bias: the GPU kernels take .* got int32": {"bias": shape(1, 1, 1, 48, dtype="int32")},
    "config: .* got kv 32 for block_kv 16 in the dq pass": {"config": Tiles(dq=Tile(16, 32, 4, 2))},
    "config: .* got q 8 for": {"config": Tiles(fwd=Tile(8, 16, 4, 2))},
}


def tables(tables_of, **blocks):
    return tables_of(
        compile_mask(Causal(), q_len=32, kv_len=48, heads=4, block_q=32, block_kv=16, **blocks)
    )


def refused(message, tables, **options):
    qkv = [options.pop(name, default) for name, default in (("q", Q), ("k", KV), ("v", KV))]
    sentence = refusal(*qkv, tables, **options)

    def attend(q, k, v):
        return block_sparse_attention(q, k, v, jnp.float32(1), tables, **options)

    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(attend, *qkv)
    assert str(error.value) == sentence


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_kernels_cannot_do(message, tables_of):
    refused(message, tables(tables_of), **REFUSED[message])


def test_blocks_that_no_tile_divides(tables_of):
    message = "multiples of 16, got block_q 24 in the dkv pass"
    refused(message, tables(tables_of, block_q_dkv=24))


def test_what_they_can_do(tables_of):
    options = {"logits_soft_cap": 3.0, "sinks": shape(4), "bias": shape(1, 4, 1, 48), **IDS}
    assert refusal(Q, KV, KV, tables(tables_of), **options) is None
    assert refusal(Q, KV, KV, tables(tables_of), config=Tiles(dq=Tile(32, 16, 4, 2))) is None


def test_other_architectures(tables_of, monkeypatch):
    monkeypatch.setattr("maskc_kernels.gpu.refusals.architecture", lambda: 89)
    refused("compute capability 8.0, 9.0, 10.0, 10.3; got 8.9", tables(tables_of))


def test_without_triton(tables_of, monkeypatch):
    monkeypatch.setattr("maskc_kernels.gpu.refusals.installed", lambda: False)
    refused("not installed; pip install", tables(tables_of))


@pytest.mark.parametrize(("kind", "number"), [("NVIDIA A100", 80), ("NVIDIA B200", 100)])
def test_the_architecture_is_that_of_the_mesh_in_use(kind, number):
    from maskc_kernels.gpu.offline import device

    assert gpu.architecture() is None  # no GPU here
    with device(kind):
        assert gpu.architecture() == number


def test_the_package_imports_no_triton():
    program = "import sys, maskc_kernels.gpu; print('triton' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False"]
