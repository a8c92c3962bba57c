"""Masks in pairs: ours and JAX's, built by the same words from the two modules."""

import functools

import numpy as np
from hypothesis import strategies as st
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as jax_masks
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as jax_info

__all__ = ["assert_same_info", "fitting", "jax_info", "jax_masks", "subclass", "twins"]


@functools.cache
def subclass(module):
    """A user's mask: every `step`-th diagonal at or below the queries' own."""

    class Diagonals(module._ComputableMask):
        def __init__(self, shape, step):
            self.step = step
            super().__init__(shape, lambda q, kv: (q >= kv) & ((q - kv) % step == 0))

        def __eq__(self, other):
            return (
                isinstance(other, Diagonals)
                and self.step == other.step
                and self.shape == other.shape
                and np.array_equal(self.q_sequence, other.q_sequence)
            )

        def __hash__(self):
            return hash((self.shape, self.step, self.q_sequence.tobytes()))

    return Diagonals


@functools.cache
def plain_subclass(module):
    """A user's mask that is not computable: rows of one parity."""

    class Parity(module.Mask):
        def __init__(self, shape, parity):
            self._shape, self.parity = shape, parity

        @property
        def shape(self):
            return self._shape

        def __getitem__(self, idx):
            q, kv = (np.arange(n)[part] for n, part in zip(self._shape, idx, strict=True))
            return (q[:, None] + 0 * kv[None, :]) % 2 == self.parity

        def __eq__(self, other):
            return isinstance(other, Parity) and vars(self) == vars(other)

        def __hash__(self):
            return hash((self._shape, self.parity))

    return Parity


def _reordered(build, order):
    def made(module):
        mask = build(module)
        mask.q_sequence = np.array(order, np.int32)
        return mask

    return made


@st.composite
def _leaf(draw, shape):
    offset = draw(st.integers(-shape[0] - 2, shape[1] + 2))
    side = st.none() | st.integers(-3, shape[1] + 2)
    window, chunk, seed = draw(st.tuples(side, side)), draw(st.integers(1, 9)), draw(st.integers(0))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    array = np.random.default_rng(seed % 1000).random(shape) < share
    builds = [
        lambda m: m.CausalMask(shape, offset),
        lambda m: m.CausalMask(shape),
        lambda m: m.LocalMask(shape, window, offset),
        lambda m: m.ChunkedCausalMask(shape, chunk),
        lambda m: subclass(m)(shape, chunk),
        lambda m: m.FullMask(shape),
        lambda m: m.NumpyMask(array),
        lambda m: m.NumpyMask(m.CausalMask(shape, offset)[:, :]),
        lambda m: plain_subclass(m)(shape, chunk % 2),
    ]
    kind = draw(st.integers(0, len(builds) - 1))
    if kind < 5 and draw(st.booleans()):
        if draw(st.booleans()):
            order = draw(st.permutations(range(shape[0])))
        else:
            place = st.integers(-3, 2 * shape[0])
            order = draw(st.lists(place, min_size=shape[0], max_size=shape[0]))
        return _reordered(builds[kind], order)
    return builds[kind]


def twins(shape):
    """Functions that build one mask of a module: `build(splash)` is ours, `build(jax_masks)`."""

    def operators(children):
        pairs = st.tuples(children, children)
        return pairs.map(lambda ab: lambda m: ab[0](m) & ab[1](m)) | pairs.map(
            lambda ab: lambda m: ab[0](m) | ab[1](m)
        )

    return st.recursive(_leaf(shape), operators, max_leaves=3)


@st.composite
def fitting(draw):
    """Blocks, lengths and layouts that fit each other, and masks for the heads."""
    blocks = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([2, 4, 8]))
    q_seq_shards, head_shards = (
        draw(st.sampled_from([1, 1, 2, 3])),
        draw(st.sampled_from([1, 1, 2])),
    )
    shape = blocks[0] * q_seq_shards * draw(st.integers(1, 4)), blocks[1] * draw(st.integers(1, 6))
    pool = draw(st.lists(twins(shape), min_size=1, max_size=3))
    count = head_shards * draw(st.integers(1, 2))
    heads = draw(st.lists(st.sampled_from(pool), min_size=count, max_size=count))
    layout = {
        "head_shards": head_shards,
        "q_seq_shards": q_seq_shards,
        "shrink_grid": draw(st.booleans()),
        "downcast_smem_data": draw(st.booleans()),
    }
    return heads, blocks, layout


def assert_same_info(ours, theirs):
    """Every field: None alike, else values and dtypes alike."""
    assert type(ours)._fields == type(theirs)._fields
    for name in theirs._fields:
        a, b = getattr(ours, name), getattr(theirs, name)
        if b is None or isinstance(b, bool):
            assert a is b, name
        else:
            assert isinstance(a, np.ndarray), name
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
