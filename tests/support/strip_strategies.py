"""Dense masks that look like strips, and their strip forms."""

import numpy as np
from hypothesis import strategies as st

from maskc.strips import normal


def read(mask):
    """The strip form of a dense mask, a row at a time."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    ends = np.zeros((len(starts), 4), int)
    ends[:, 0], ends[:, 1] = starts, stops
    ptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(mask))))
    return normal(mask.shape[1], np.arange(len(mask) + 1), ptr, ends)


@st.composite
def arrays(draw, shape):
    """Dense masks with slopes, steps and noise: windows cut, shifted and spoilt in places."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, kv = np.arange(shape[0])[:, None], np.arange(shape[1])
    out = np.zeros(shape, bool)
    for _ in range(draw(st.integers(0, 4))):
        low, high = np.sort(random.integers(-shape[0], shape[1] + 1, 2))
        piece = (kv - q >= low) & (kv - q <= high)
        piece &= (q >= random.integers(shape[0] + 1)) ^ (kv < random.integers(shape[1] + 1))
        out ^= piece
    return out ^ (random.random(shape) < draw(st.sampled_from([0, 0, 0.05, 0.5])))


SHAPES = st.tuples(st.integers(1, 14), st.integers(1, 14))
