"""Counter-based random numbers: a draw depends only on its key and its number, not on earlier draws."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def noise_key(seed: int, step: int, place: int) -> int:
    """Return the key of the draws for one place of the program, such as a value, in a training step."""
    return mix64(mix64(mix64(seed) + step) + place)


def counted(key: int, first: int, n: int) -> NDArray[np.uint64]:
    """Return draws `first` to `first` + n - 1 of a key: SplitMix64 of (key, number)."""
    with np.errstate(over="ignore"):
        return _mix64_array(np.arange(first + 1, first + n + 1, dtype=np.uint64) * _GOLDEN + np.uint64(key))


def random_words(shape: tuple[int, ...], seed: int, step: int, place: int) -> NDArray[np.uint64]:
    """Return a 32-bit draw for each element of a matrix.

    Elements are numbered row by row. Element 2k gets the lower 32 bits of draw k of the place's key,
    element 2k + 1 the upper 32 bits.
    """
    size = math.prod(shape)
    draws = counted(noise_key(seed, step, place), 0, size // 2 + 1)
    words = np.stack((draws & np.uint64(2**32 - 1), draws >> np.uint64(32)), axis=1)
    return words.ravel()[:size].reshape(shape)


def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of the rows in an epoch: a Fisher-Yates shuffle with counter-based draws.

    Step i swaps rows i and j, where j is the upper 32 bits of SplitMix64 of (seed, epoch, i) (Steele et
    al. 2014), times (i + 1), shifted right by 32.
    """
    key = mix64(mix64(seed) + epoch)
    order = np.arange(n, dtype=np.int64)
    with np.errstate(over="ignore"):
        counters = np.arange(n, dtype=np.uint64) * _GOLDEN + np.uint64(key)
        draws = _mix64_array(counters) >> np.uint64(32)
        picks = (draws * (np.arange(n, dtype=np.uint64) + np.uint64(1))) >> np.uint64(32)
    for i in range(n - 1, 0, -1):
        j = int(picks[i])
        order[i], order[j] = order[j], order[i]
    return order


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(z: int) -> int:
    """Return the finalizer of SplitMix64 for the lower 64 bits of z."""
    return int(_mix64_array(np.array([z % 2**64], dtype=np.uint64))[0])


def _mix64_array(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
