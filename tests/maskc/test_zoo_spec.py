"""The zoo's page: each mask as a spec has the key of the Python expression that it stands for."""

import re
from pathlib import Path

import numpy as np
import pytest

from maskc import (
    Blocks,
    Causal,
    ChunkedCausal,
    Dense,
    Documents,
    Full,
    Local,
    Neighborhood,
    Rectangle,
    Remap,
    Segments,
    load_spec,
    zoo,
)
from maskc.request import CompileRequest

PAGE = Path(__file__).parents[2] / "docs/zoo.md"
RANDOM = np.random.default_rng(0)
CU = [0, 13, 29, 48]
IMAGES = np.where(np.arange(48) % 12 < 5, np.arange(48) // 12, -1)
PATTERN, BITS = RANDOM.random((12, 12)) < 0.2, RANDOM.random((48, 48)) < 0.5
ANCESTORS = np.tri(5, dtype=bool) & ~np.eye(5, k=-2, dtype=bool)
FROM, TO = np.repeat([0, 20], 24), np.repeat([20, 48], 24)
GNA = Neighborhood((6, 8), (4, 4), stride=(2, 2))
PACKED = Documents(CU)
ARRAYS = {
    "starts": np.repeat(CU[:-1], np.diff(CU)),
    "stops": np.repeat(np.add(CU[:-1], 5), np.diff(CU)),
    "image_ids": IMAGES,
    "pattern": PATTERN,
    "bits": BITS,
    "ancestors": ANCESTORS,
    "from": FROM,
    "to": TO,
    "tile_order": zoo.tile_order((6, 8), (3, 4)),
}
EXPECTED = {
    "full": Full(),
    "causal": Causal(),
    "causal_bottom_right": Causal(align="bottom_right"),
    "sliding_window": zoo.sliding_window(9),
    "bidirectional_window": Local(6, 6),
    "prefix_lm": zoo.prefix_lm(6),
    "documents": PACKED,
    "documents_causal": Causal() & PACKED,
    "documents_causal_window": zoo.sliding_window(9) & PACKED,
    "documents_prefix_lm": zoo.document_prefix_lm(CU, [5, 5, 5]),
    "chunked_causal": ChunkedCausal(9, offset=4),
    "batch_in_one_row": zoo.batchify(Causal(), 12),
    "right_padding": Causal() & zoo.padded_keys(40),
    "left_padding": Causal() & zoo.padded_keys(48, left=6),
    "sinks_and_window": zoo.sink_window(6, 9),
    "image_blocks": zoo.image_blocks(IMAGES),
    "image_blocks_and_window": Local(8, 0) | Segments(IMAGES),
    "flamingo": zoo.flamingo([0, 20], [20, 48], 24),
    "cross_attention": Rectangle(kv_stop=40),
    "shared_prefix": zoo.shared_prefix(13, [16, 19]),
    "multi_block_draft": zoo.multi_block_draft(6, 7),
    "tree": zoo.tree(ANCESTORS, 6),
    "block_diffusion": zoo.block_diffusion(24, 4),
    "longformer": zoo.longformer(6, [0, 17]),
    "bigbird": zoo.bigbird(PATTERN, 4),
    "dilated_window": zoo.dilated_window(6, 4),
    "sparse_transformer_strided": zoo.sparse_transformer_strided(4),
    "sparse_transformer_fixed": zoo.sparse_transformer_fixed(8, 2),
    "vertical_slash": zoo.vertical_slash([0, 3, 31], [0, 2, 15]),
    "block_top_k": Blocks(PATTERN, 4),
    "block_top_k_causal": Blocks(PATTERN, 4) & Causal(),
    "natten_1d": Neighborhood((48,), 7),
    "natten_2d": Neighborhood((6, 8), 3),
    "natten_3d": Neighborhood((3, 4, 4), 3),
    "natten_2d_dilated": Neighborhood((6, 8), 3, dilation=2),
    "gna": GNA,
    "gna_in_tile_order": Remap(GNA, zoo.tile_order((6, 8), (3, 4))),
    "sliding_tiles": zoo.sta((2, 5), (1, 3), 4, 8),
    "svg_spatial": zoo.svg_spatial(6, 2),
    "svg_temporal": zoo.svg_temporal(6, 7, 2),
    "other_documents_causal": Causal() - PACKED,
    "causal_xor_band": Causal() ^ Local(6, 6),
    "arbitrary_bits": Dense(BITS),
}
LENGTHS = {
    "causal_bottom_right": {"kv_len": 64},
    "cross_attention": {"kv_len": 64},
    "tree": {"q_len": 5, "kv_len": 11},
}


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    np.savez(folder / "zoo.npz", **ARRAYS)
    (spec,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (folder / "zoo.yaml").write_text(spec)
    return load_spec(folder / "zoo.yaml")


def test_the_page_has_every_row(requests):
    assert list(requests) == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_mask_of_the_page_has_the_key_of_its_expression(requests, name):
    lengths = {"q_len": 48, "block_q": 16, "block_kv": 16, **LENGTHS.get(name, {})}
    assert requests[name].key == CompileRequest(EXPECTED[name], **lengths).key
