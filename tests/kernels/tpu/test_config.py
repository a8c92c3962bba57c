import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu import KernelConfig
from maskc_kernels.tpu.bits import ROWS
from maskc_kernels.tpu.config import LANES, ORDERS, Cut


@pytest.mark.parametrize(
    ("cut", "rows", "columns", "height", "width"),
    [
        (Cut(512, 512, 0), 128, 128, 128, 128),
        (Cut(512, 512, 0), 1024, 1024, 512, 512),
        (Cut(512, 512, 0), 384, 768, 384, 384),
        (Cut(256, 256, 0), 512, 1024, 256, 256),
        (Cut(300, 300, 0), 512, 512, 256, 256),
        (Cut(512, 256, 0, whole=(512, 512)), 512, 512, 512, 512),
        (Cut(512, 256, 0, whole=(512, 512)), 512, 1024, 256, 512),
        (Cut(512, 256, 0, whole=(512, 512)).exact(), 512, 512, 256, 512),
    ],
)
def test_tiles_cover_the_block_once(cut, rows, columns, height, width):
    seen = np.zeros((rows, columns), int)
    for tile in cut.tiles(rows, columns):
        seen[tile.rows, tile.columns] += 1
        assert seen[tile.rows, tile.columns].shape == (height, width)
        assert tile.rows.start % ROWS == tile.columns.start % LANES == 0
    assert (seen == 1).all()


@pytest.mark.parametrize("cut", [Cut(512, 256, 2), Cut(256, 512, 1)])
def test_a_block_under_a_mask_has_few_pieces(cut):
    assert cut.masked(512, 512) is cut
    tiles = cut.masked(1024, 1024).tiles(1024, 1024)
    assert [tile.rows for tile in tiles] == [slice(0, 1024)] * 2


def test_configs_are_static():
    assert hash(KernelConfig()) == hash(KernelConfig())
    assert dataclasses.replace(KernelConfig(), chunk=8) != KernelConfig()


@pytest.mark.parametrize(("generation", "known"), [(4, 5), (5, 5), (6, 6), (7, 7), (8, 7)])
def test_a_chip_can_be_overruled(generation, known, monkeypatch):
    info = SimpleNamespace(generation=generation)
    monkeypatch.setattr(pltpu, "get_tpu_info", lambda: info)
    assert KernelConfig().order == ORDERS[known]
    order = KernelConfig(ahead=2, compute=128, rows=256).order
    assert [cut[:3] for cut in order] == [(128, 256, 2)] * len(order)
    assert [cut.shape(512, 512) for cut in order] == [(256, 128)] * len(order)
