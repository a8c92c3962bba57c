"""Plans for the fault drivers: many keys with contents of their own, small and large."""

import dataclasses
import functools

import numpy as np

from maskc import Causal, Documents, Local, MultiHead, compile_mask
from maskc_cache import Plan, encode

__all__ = ["even", "large_image", "many", "tiny"]


@functools.cache
def tiny(splash: bool = True) -> Plan:
    """A plan of every kind of section, in about 3 kB; or of few."""
    heads = MultiHead([Causal(), Local(3, 1) & Documents([0, 9, 20])])
    return compile_mask(
        heads, q_len=20, block_q=8, block_kv=4, block_q_dkv=4, splash=splash, row_bounds=splash
    )


@functools.cache
def even() -> Plan:
    """A plan whose sections are stored by every codec that sees runs and grids."""
    return compile_mask(Causal(), q_len=512, block_q=8, block_kv=8)


@functools.cache
def many(count: int) -> tuple[Plan, ...]:
    """Plans that differ in key and in content."""
    return tuple(
        compile_mask(Local(at % 61, at // 61), q_len=64, block_q=16, block_kv=16)
        for at in range(count)
    )


@functools.cache
def large_image(megabytes: int) -> bytes:
    """The file of a plan of so many MB, of which nothing can be compressed away."""
    rows = 32 * megabytes
    base = compile_mask(Causal(), q_len=512 * 16, block_q=512, block_kv=512, splash=False)
    blocks = np.random.default_rng(0).integers(0, 256, (rows, 512, 64), np.uint8)
    lists = dataclasses.replace(base.fwd, partial_blocks=blocks)
    dkv = dataclasses.replace(base.dkv, partial_blocks=blocks)
    return encode(dataclasses.replace(base, fwd=lists, dq=lists, dkv=dkv))
