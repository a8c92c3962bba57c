import dataclasses

import pytest

from maskc_kernels.tpu import KernelConfig


@pytest.mark.parametrize(
    ("compute", "block", "width"),
    [(None, 128, 128), (None, 1024, 512), (None, 768, 384), (256, 1024, 256), (300, 512, 256)],
)
def test_compute_width_divides_the_block(compute, block, width):
    assert KernelConfig(compute=compute).compute_width(block) == width


def test_configs_are_static():
    assert hash(KernelConfig()) == hash(KernelConfig())
    assert dataclasses.replace(KernelConfig(), chunk=8) != KernelConfig()
