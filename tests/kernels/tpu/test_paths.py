import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.compile import compile_mask
from maskc.expr import Dense
from maskc_kernels import BlockTable
from maskc_kernels.tpu.config import Cut
from maskc_kernels.tpu.paths import Paths

PATHS = {
    "8 of 256 x 512": Paths.of(Cut(512, 256, 2), 1024, 1024),
    "4 of 256 x 128": Paths.of(Cut(128, 256, 0), 512, 256),
    "5 in a row": Paths.of(Cut(128, 256, 0), 128, 640),
    "3 x 2": Paths.of(Cut(512, 256, 0), 768, 1024),
}


@pytest.mark.parametrize(
    ("block", "counts"),
    [
        ((1024, 1024), (4, 6, 8)),
        ((512, 1024), (2, 4)),
        ((256, 2560), (2, 4, 5)),
        ((512, 512), None),  # two tiles: little to leave out
        ((2048, 1024), None),  # sixteen: no room for their numbers
        ((640, 1024), None),  # tiles of 128 rows are not whole words of bits
    ],
)
def test_which_paths_there_are(block, counts):
    paths = Paths.of(Cut(512, 256, 2), *block)
    assert (paths and paths.counts) == counts


@pytest.mark.parametrize("name", PATHS)
def test_every_set_of_tiles_is_computed_and_no_tile_twice(name):
    paths = PATHS[name]
    rows, columns = paths.height * paths.down, paths.width * (paths.tiles // paths.down)
    cut = Cut(paths.width, paths.height, 0)
    places = [(tile.rows.start, tile.columns.start) for tile in cut.tiles(rows, columns)]
    assert len(places) == paths.tiles

    @jax.jit
    def all_chosen(entry):
        chosen = paths.chosen(entry, paths.tiles)
        assert {(tile.rows.size, tile.columns.size) for tile in chosen} == {
            (paths.height, paths.width)
        }
        starts = [(tile.rows.start, tile.columns.start) for tile in chosen]
        return paths.path(entry), starts

    for tiles, entry in enumerate(paths.table()):
        wanted = {place for bit, place in enumerate(places) if tiles >> bit & 1}
        number, starts = jax.device_get(all_chosen(entry))
        chosen = [tuple(map(int, start)) for start in starts]
        assert sorted(chosen) == sorted(places)
        count = paths.counts[number]
        assert wanted <= set(chosen[:count])
        assert all(fewer < len(wanted) for fewer in paths.counts[:number])


@pytest.mark.parametrize("name", PATHS)
def test_a_tile_is_left_out_only_if_it_is_empty(name):
    paths = PATHS[name]
    across = paths.tiles // paths.down
    block = {"block_q": paths.height * paths.down, "block_kv": paths.width * across}

    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 2**32), st.sampled_from([1e-5, 1e-4, 1]))
    def holds(seed, density):
        rng = np.random.default_rng(seed)
        shape = 2 * block["block_q"] - 3, 2 * block["block_kv"] - 5
        allowed = rng.random(shape) < density
        allowed[0, :2] = [True, False]  # so that there is a partial block
        plan = compile_mask(Dense(allowed), q_len=shape[0], kv_len=shape[1], **block)
        table = BlockTable.from_lists(plan.fwd)
        dense = np.unpackbits(table.partial_blocks, axis=2, bitorder="little")
        numbers = np.asarray(paths.numbers(table))
        assert len(numbers) == len(table.partial_id)
        for number, unique in zip(numbers, table.partial_id, strict=True):
            tiles = dense[unique].reshape(paths.down, paths.height, across, paths.width)
            assert number >> paths.tiles == unique
            for along, down in itertools.product(range(across), range(paths.down)):
                bit = number >> (along * paths.down + down) & 1
                assert bit == tiles[down, :, along].any()

    holds()
