from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels.tpu import recommended_blocks, refusal
from maskc_kernels.tpu.blocks import BLOCKS


@pytest.mark.parametrize("generation", BLOCKS)
@pytest.mark.parametrize(("head_dim", "dtype"), [(64, "float32"), (256, "bfloat16")])
def test_a_plan_takes_them_and_the_kernels_take_the_plan(generation, head_dim, dtype, tables_of):
    blocks = recommended_blocks(generation, head_dim=head_dim, dtype=dtype)
    plan = compile_mask(Causal(), q_len=4096, **blocks)
    assert (plan.fwd.block_q, plan.fwd.block_kv) == (blocks["block_q"], blocks["block_kv"])
    assert (plan.dq.block_q, plan.dq.block_kv) == (blocks["block_q_dq"], blocks["block_kv_dq"])
    assert (plan.dkv.block_q, plan.dkv.block_kv) == (
        blocks["block_q_dkv"],
        blocks["block_kv_dkv"],
    )
    x = jax.ShapeDtypeStruct((1, 1, 4096, head_dim), jnp.dtype(dtype))
    assert refusal(x, x, x, tables_of(plan)) is None


@pytest.mark.parametrize("generation", BLOCKS)
def test_wider_heads_take_smaller_blocks(generation):
    areas = []
    for size in BLOCKS[generation]:
        blocks = recommended_blocks(generation, head_dim=size // 4, dtype="float32")
        assert blocks == recommended_blocks(generation, head_dim=size // 4 - 1, dtype="float32")
        areas.append(blocks["block_q"] * blocks["block_kv"])
    assert areas == sorted(areas, reverse=True)


def test_the_documented_cycles_are_least_in_them():
    page = Path(__file__).parents[3] / "docs/tpu-benchmarks.md"
    table = page.read_text().split("### Which blocks")[1]
    blockings, *rows = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("| ")
    )
    # The fused pass takes the blocks of dkv.
    names = {"forward": "", "dq": "_dq", "dkv": "_dkv", "fused": "_dkv"}
    assert {row[0] for row in rows} == set(BLOCKS)
    for generation, head_dim, which, *cycles in rows:
        blocks = recommended_blocks(generation, head_dim=int(head_dim))
        q, kv = (blocks[f"block_{side}{names[which]}"] for side in ("q", "kv"))
        assert cycles[blockings[3:].index(f"{q} x {kv}")].endswith("*"), (generation, which)


@pytest.mark.parametrize(
    ("generation", "options", "message"),
    [
        ("v2", {}, "generation: expected one of v5e, v5p, v6e, tpu7x, got 'v2'"),
        ("v6e", {"dtype": "float16"}, "dtype: the TPU kernels take bfloat16 or float32, got float"),
        ("v6e", {"head_dim": 513}, "head_dim: blocks are known for 1 to 512 in bfloat16, got 513"),
        ("v6e", {"head_dim": 0}, "head_dim: blocks are known for 1 to 512 in bfloat16, got 0"),
    ],
)
def test_what_is_not_known(generation, options, message):
    with pytest.raises(ValueError, match=message):
        recommended_blocks(generation, **options)
