"""The oracle, and plans cut for the kernels."""

import dataclasses

import jax
import numpy as np
import pytest
from attention_oracle import assert_near, dense_oracle

from maskc_kernels import AttentionTables, BlockTable


def attention_tables(plan, *, roomy=False):
    """The plan's lists and row bounds for the kernels.

    With `roomy`, lists are as long as any mask of these lengths could need, with junk in the part
    that no row points at. So all masks share array shapes and one compilation, and a kernel that
    read past a row's end would be caught.
    """
    tables = [BlockTable.from_lists(plan.lists(name)) for name in ("fwd", "dq", "dkv")]
    if roomy:
        cells = [plan.masks * np.prod(plan.grid(name)) for name in ("fwd", "dq", "dkv")]
        tables = [_roomy(*pair) for pair in zip(tables, cells, strict=True)]
    bounds = plan.row_bounds and (plan.row_bounds.q, plan.row_bounds.kv)
    return AttentionTables(plan.head_mask, *tables, *(bounds or ()))


def _roomy(table, cells):
    longer = {}
    for name in ("full_idx", "partial_idx", "partial_id", "partial_blocks"):
        array = getattr(table, name)
        junk = np.full((cells - len(array) + 1, *array.shape[1:]), 85, array.dtype)
        longer[name] = np.concatenate([array, junk])
    return dataclasses.replace(table, **longer)


@pytest.fixture(scope="session")
def oracle():
    return dense_oracle


@pytest.fixture(scope="session")
def tables_of():
    return attention_tables


@pytest.fixture(scope="session")
def near():
    return assert_near


@pytest.fixture(scope="session")
def draw_inputs():
    """q, k, v and dout as numpy, from a seed."""

    def draw(seed, batch, heads, kv_heads, q_len, kv_len, head_dim, v_head_dim, dtype="float32"):
        rng = np.random.default_rng(seed)
        shapes = (
            (batch, heads, q_len, head_dim),
            (batch, kv_heads, kv_len, head_dim),
            (batch, kv_heads, kv_len, v_head_dim),
            (batch, heads, q_len, v_head_dim),
        )
        return [rng.standard_normal(shape).astype(jax.numpy.dtype(dtype)) for shape in shapes]

    return draw


@pytest.fixture
def jax_option():
    """Set a JAX option for one test."""
    before = {}

    def change(name, value):
        before.setdefault(name, getattr(jax.config, name))
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)
