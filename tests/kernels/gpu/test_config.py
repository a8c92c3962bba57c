from dataclasses import replace

import pytest

from maskc_kernels.gpu.config import (
    OPTIONS,
    Tile,
    TileKey,
    Tiles,
    choose,
    largest_tile,
    padded,
    tile_table,
)


def test_every_architecture_dtype_width_and_direction_has_a_tile_and_a_source():
    keys = {
        (architecture, bits, width, direction)
        for architecture in (80, 90, 100)
        for bits in (16, 32)
        for width in (64, 128, 256)
        for direction in ("fwd", "dq", "dkv")
    }
    table = tile_table()
    assert set(table) == keys
    for tile, halved, source in table.values():
        assert halved <= set(OPTIONS)
        assert tile.q >= 16
        assert tile.kv >= 16
        assert tile.warps in {4, 8}
        assert source


@pytest.mark.parametrize(("dim", "width"), [(1, 16), (16, 16), (80, 128), (96, 128), (129, 256)])
def test_padded(dim, width):
    assert padded(dim) == width


def test_a_tile_divides_the_block():
    def listed(*key):
        return tile_table()[TileKey(*key)].tile

    assert [largest_tile(block) for block in (16, 48, 128, 136)] == [16, 16, 128, 8]
    assert choose(90, 2, 128, "fwd", 512, 512) == listed(90, 16, 128, "fwd")
    assert choose(103, 2, 128, "fwd", 512, 512) == listed(100, 16, 128, "fwd")  # its family
    assert choose(90, 2, 16, "fwd", 48, 32) == Tile(16, 32, 4, listed(90, 16, 64, "fwd").stages)


@pytest.mark.parametrize(("direction", "side"), [("fwd", "kv"), ("dq", "kv"), ("dkv", "q")])
def test_options_take_half_per_step_where_the_table_says_so(direction, side):
    for key, (tile, halved, _) in tile_table().items():
        if key.direction != direction:
            continue
        half = replace(tile, **{side: max(getattr(tile, side) // 2, 16)})
        for option in OPTIONS:
            found = choose(
                key.architecture, key.bits // 8, key.width, direction, 512, 512, options={option}
            )
            assert found == (half if option in halved else tile)
        both = choose(
            key.architecture, key.bits // 8, key.width, direction, 512, 512, options={"cap", "bias"}
        )
        assert both == half


def test_tiles_of_a_caller():
    mine = Tile(64, 32, 4, 2)
    assert Tiles(dq=mine).of("dq") == mine
    assert Tiles(dq=mine).of("fwd") is None
