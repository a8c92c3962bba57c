import pytest

from maskc_kernels.gpu.config import TABLE, Tile, choose, largest_tile, padded


def test_every_architecture_dtype_width_and_direction_has_a_tile():
    keys = {
        (architecture, size, width, direction)
        for architecture in (80, 90)
        for size in (2, 4)
        for width in (64, 128, 256)
        for direction in ("fwd", "dq", "dkv")
    }
    assert set(TABLE) == keys
    assert all(t.q >= 16 and t.kv >= 16 and t.warps in {4, 8} for t in TABLE.values())


@pytest.mark.parametrize(("dim", "width"), [(1, 16), (16, 16), (80, 128), (96, 128), (129, 256)])
def test_padded(dim, width):
    assert padded(dim) == width


def test_a_tile_divides_the_block():
    assert [largest_tile(block) for block in (16, 48, 128, 136)] == [16, 16, 128, 8]
    whole = TABLE[90, 2, 128, "fwd"]
    assert choose(90, 2, 128, "fwd", 512, 512) == whole
    assert choose(100, 2, 128, "fwd", 512, 512) == whole  # newer than the table
    assert choose(75, 2, 64, "fwd", 512, 512) == TABLE[80, 2, 64, "fwd"]
    assert choose(90, 2, 16, "fwd", 48, 32) == Tile(16, 32, 4, TABLE[90, 2, 64, "fwd"].stages)
