import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.pallas.ops.tpu import flash_attention as jax_flash

from maskc_kernels import reference
from maskc_kernels.reference import BlockSizes, below_or_on_diag

FORWARD = {"block_q": 256, "block_k_major": 512, "block_k": 128, "block_b": 2}
BACKWARD = {
    "block_q_major_dkv": 256,
    "block_k_major_dkv": 512,
    "block_k_dkv": 256,
    "block_q_dkv": 128,
    "block_k_major_dq": 384,
    "block_k_dq": 128,
    "block_q_dq": 256,
}


def test_fields_and_constants_are_those_of_jax():
    ours, theirs = (
        list(map(describe, dataclasses.fields(c.BlockSizes))) for c in (reference, jax_flash)
    )
    assert ours == theirs
    for name in ("DEFAULT_MASK_VALUE", "NUM_LANES", "NUM_SUBLANES", "MIN_BLOCK_SIZE"):
        assert getattr(reference, name) == getattr(jax_flash, name), name
    assert reference.SegmentIds._fields == jax_flash.SegmentIds._fields


def describe(field):
    return field.name, field.default


def test_backward_blocks_are_there_only_all_together():
    assert not BlockSizes(**FORWARD).has_backward_blocks
    assert BlockSizes(**FORWARD, **BACKWARD).has_backward_blocks
    for missing in BACKWARD:
        rest = {name: size for name, size in BACKWARD.items() if name != missing}
        assert not BlockSizes(**FORWARD, **rest).has_backward_blocks


@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("value", [0, -128, 1.5, "128", True])
def test_every_size_is_checked(name, value):
    with pytest.raises(ValueError, match=rf"BlockSizes.{name}: expected an integer >= 1, got"):
        BlockSizes(**{**FORWARD, **BACKWARD, name: value})


def test_forward_sizes_cannot_be_left_open():
    with pytest.raises(ValueError, match=r"BlockSizes\.block_q: expected an integer"):
        BlockSizes(**{**FORWARD, "block_q": None})


@pytest.mark.parametrize("value", [1024, 96])
@pytest.mark.parametrize("name", ["block_k", "block_q_dkv", "block_k_dkv", "block_k_dq"])
@pytest.mark.parametrize("module", [reference, jax_flash], ids=["ours", "jax"])
def test_a_minor_block_divides_its_major_one_as_in_jax(module, name, value):
    sizes = {**FORWARD, **BACKWARD, "block_k_major_dq": 512}
    module.BlockSizes(**sizes)
    with pytest.raises(ValueError, match=f"{name}"):
        module.BlockSizes(**{**sizes, name: value})


def test_numpy_sizes_become_integers_and_sizes_are_hashable():
    sizes = BlockSizes(*map(np.int32, (256, 512, 128, 2)))
    assert sizes == BlockSizes(**FORWARD)
    assert hash(sizes) == hash(BlockSizes(**FORWARD))
    assert type(sizes.block_q) is int


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000))
def test_default_blocks_fit_the_shape(q_len, kv_len, width):
    sizes = BlockSizes.get_default(2, 8, q_len, kv_len, width)
    assert sizes.has_backward_blocks
    assert sizes.block_b == 1
    for length, blocks in (
        (q_len, (sizes.block_q, sizes.block_q_major_dkv, sizes.block_q_dkv, sizes.block_q_dq)),
        (
            kv_len,
            (sizes.block_k_major, sizes.block_k, sizes.block_k_major_dkv, sizes.block_k_dkv,
             sizes.block_k_major_dq, sizes.block_k_dq),
        ),
    ):  # fmt: skip
        (block,) = set(blocks)
        assert block <= 512
        assert block == 128 or block * width <= 128 * 1024 or block == length
        assert block <= length or length < 128 or block == 128
        if length % 128 == 0:
            assert length % block == 0
            assert block % 128 == 0


@pytest.mark.parametrize(
    ("q_len", "kv_len", "width", "expected"),
    [
        (4096, 1024, 64, (512, 512)),
        (4096, 4096, 512, (256, 256)),
        (4096, 4096, 4096, (128, 128)),
        (384, 640, 128, (384, 128)),
        (64, 1000, 128, (64, 128)),
        (1, 300, 128, (1, 300)),
    ],
)
def test_default_blocks(q_len, kv_len, width, expected):
    sizes = BlockSizes.get_default(1, 1, q_len, kv_len, width)
    assert (sizes.block_q, sizes.block_k) == expected


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_default_blocks_of_nothing_are_refused(shape):
    with pytest.raises(ValueError, match="expected 1 or more, got 0"):
        BlockSizes.get_default(1, 1, *shape)


def test_the_diagonal_is_found_exactly():
    """Against the elements themselves; JAX's test misses blocks that it only touches."""
    differs = 0
    for rows, columns in itertools.product((1, 2, 3, 4), repeat=2):
        for r, c in itertools.product(range(5), repeat=2):
            q, kv = np.arange(rows) + r * rows, np.arange(columns) + c * columns
            touched = bool((kv[None, :] <= q[:, None]).any())
            assert below_or_on_diag(r, rows, c, columns) is touched
            differs += jax_flash.below_or_on_diag(r, rows, c, columns) != touched
    assert differs
    assert below_or_on_diag(0, 1, 0, 1)
    assert below_or_on_diag(0, 3, 1, 2)


def test_the_diagonal_is_found_under_jit():
    found = jax.jit(lambda r: below_or_on_diag(r, 2, jnp.arange(4), 4))(jnp.int32(3))
    assert found.tolist() == [True, True, False, False]
