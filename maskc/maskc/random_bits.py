"""The elements of `Random`, 64 of a row at a time.

An element compares a random number with the sparsity, and the first binary digit in which the two
differ decides. One hash gives one digit of 64 neighboring elements: a sparsity of a half takes a
single hash for all of them, any other about eight, until none of the 64 is open.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["random_elements", "random_words"]

Words = npt.NDArray[np.uint64]
_Ints = npt.NDArray[Any]

_DIGITS = 64
_SPARSE = 7  # digits after which most words are decided, and the others are worth picking out
_TILE = 1 << 15  # words at a time, so that they stay in the cache
_SPLITMIX = tuple(
    np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def random_elements(sparsity: float, seed: int, q: _Ints, kv: _Ints) -> npt.NDArray[np.bool_]:
    """The elements at broadcast positions."""
    words = random_words(sparsity, seed, q, kv >> 6)
    return (words >> (kv & 63).astype(np.uint64) & np.uint64(1)).astype(np.bool_)


def random_words(sparsity: float, seed: int, q: _Ints, word: _Ints) -> Words:
    """Elements 64 * word to 64 * word + 63 of rows q, at broadcast positions, as bits.

    Args:
        sparsity: share of False, strictly between 0 and 1.
        seed: of the mask.
        q: rows.
        word: columns divided by 64.
    """
    rows = _mixed(_mixed(np.array([seed], np.uint64)) + q.astype(np.uint64))
    counters = rows + (word.astype(np.uint64) << np.uint64(6))
    share, flat = int(sparsity * 2.0**_DIGITS), counters.ravel()
    for start in range(0, len(flat), _TILE):
        flat[start : start + _TILE] = _at_least(share, flat[start : start + _TILE])
    return flat.reshape(counters.shape)


def _at_least(share: int, counters: Words) -> Words:
    """Which of the numbers, whose digits are hashes of counters, are not below `share`."""
    greater, equal = np.zeros_like(counters), ~np.zeros_like(counters)
    open_words: _Ints | None = None  # None is all of them
    for place in range(_DIGITS):
        if not share << place & (1 << _DIGITS) - 1:  # only zeros follow: equal is at least
            break
        digits = _mixed(counters + np.uint64(place))
        if share >> (_DIGITS - 1 - place) & 1:
            equal &= digits
        elif open_words is None:
            greater |= equal & digits
            equal &= ~digits
        else:
            greater[open_words] |= equal & digits
            equal &= ~digits
        if place >= _SPARSE:
            left = np.flatnonzero(equal)
            open_words = left if open_words is None else open_words[left]
            counters, equal = counters[left], equal[left]
    if open_words is None:
        return greater | equal
    greater[open_words] |= equal
    return greater


def _mixed(x: Words) -> Words:
    """SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    x = x + _SPLITMIX[0]
    x ^= x >> np.uint64(30)
    x *= _SPLITMIX[1]
    x ^= x >> np.uint64(27)
    x *= _SPLITMIX[2]
    x ^= x >> np.uint64(31)
    return x
