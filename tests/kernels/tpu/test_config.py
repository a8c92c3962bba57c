import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu import KernelConfig
from maskc_kernels.tpu.bits import ROWS
from maskc_kernels.tpu.config import LANES, ORDERS


@pytest.mark.parametrize(
    ("config", "rows", "columns", "height", "width"),
    [
        (KernelConfig(interpret=True), 128, 128, 128, 128),
        (KernelConfig(interpret=True), 1024, 1024, 512, 512),
        (KernelConfig(interpret=True), 384, 768, 384, 384),
        (KernelConfig(interpret=True, compute=256, rows=256), 512, 1024, 256, 256),
        (KernelConfig(interpret=True, compute=300, rows=300), 512, 512, 256, 256),
    ],
)
def test_tiles_cover_the_block_once(config, rows, columns, height, width):
    seen = np.zeros((rows, columns), int)
    for tile in config.tiles(rows, columns, config.order.forward):
        seen[tile.rows, tile.columns] += 1
        assert seen[tile.rows, tile.columns].shape == (height, width)
        assert tile.rows.start % ROWS == tile.columns.start % LANES == 0
    assert (seen == 1).all()


def test_configs_are_static():
    assert hash(KernelConfig()) == hash(KernelConfig())
    assert dataclasses.replace(KernelConfig(), chunk=8) != KernelConfig()


@pytest.mark.parametrize("size", ORDERS)
def test_a_chip_can_be_overruled(size, monkeypatch):
    monkeypatch.setattr(pltpu, "get_tpu_info", lambda: SimpleNamespace(mxu_column_size=size))
    assert KernelConfig().order == ORDERS[size]
    assert KernelConfig(ahead=2, compute=128).order == (2, 128, 128, 128)
