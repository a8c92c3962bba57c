"""Real plans for the tests of the artefact."""

import pytest

from maskc import Causal, Documents, Keys, Local, MultiHead, Queries, compile_mask


@pytest.fixture(scope="session")
def small_plan():
    """A file of about 2 kB with every kind of section."""
    heads = MultiHead([Causal(), Local(3, 1) & Documents([0, 9, 20])])
    return compile_mask(heads, q_len=20, block_q=8, block_kv=4, block_q_dkv=4, row_bounds=True)


@pytest.fixture(scope="session")
def plans(small_plan):
    """Plans that share and do not share their parts."""
    return {
        "small": small_plan,
        "shared": compile_mask(Causal(), q_len=64, block_q=16, block_kv=16),
        "no splash": compile_mask(Causal(), q_len=64, block_q=16, block_kv=16, splash=False),
        "empty": compile_mask(Causal() - Causal(), q_len=5),
        "full": compile_mask(Causal() | ~Causal(), q_len=8, block_q=2, block_kv=4),
        "dq like dkv": compile_mask(
            Causal(), q_len=30, block_q=8, block_kv=8, block_q_dq=4, block_kv_dq=6, block_q_dkv=4,
            block_kv_dkv=6,
        ),
        "ragged": compile_mask(Causal(), q_len=20, kv_len=13, block_q=8, block_kv=8),
        "sharded": compile_mask(
            Local(9, 0), q_len=64, heads=4, block_q=8, block_kv=8, head_shards=2, q_seq_shards=2
        ),
        "bounds": compile_mask(
            Documents([0, 9, 20], [0, 9, 26]) | Keys([2, 15]) | Queries([4, 5]), q_len=20,
            kv_len=26, block_q=8, block_kv=4, block_q_dq=4, row_bounds=True,
        ),
        "bounded keys": compile_mask(
            Keys([1, 4, 9, 12]), q_len=20, block_q=8, block_kv=4, row_bounds=True
        ),
    }  # fmt: skip
