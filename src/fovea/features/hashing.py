"""Chance that is the same for every order of reading: hashes of where a token stands and of the tokens around it.

(location, latent) --> key     the firings with the smallest keys are a uniform sample, whatever came first
tokens around a position --> window     equal windows are equal text
"""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
AROUND = 10
"Tokens on either side of a firing that make two examples the same."
_GOLDEN, _FIRST, _SECOND = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mixed(values: NDArray[np.int64] | Hashes) -> Hashes:
    """A bijection of 64-bit numbers that leaves no pattern.

    Source: splitmix64's finaliser (Steele, Lea and Flood 2014).
    """
    mixing = values.astype(np.uint64) + _GOLDEN
    mixing = (mixing ^ (mixing >> np.uint64(30))) * _FIRST
    mixing = (mixing ^ (mixing >> np.uint64(27))) * _SECOND
    return mixing ^ (mixing >> np.uint64(31))


def firing_keys(locations: NDArray[np.int64], latents: NDArray[np.int64]) -> Hashes:
    """The key of each firing."""
    return mixed(mixed(locations) ^ mixed(~latents))


def window_hashes(tokens: NDArray[np.uint32]) -> Hashes:
    """[contexts pos] hash of the tokens around each position; the ends of the context count as text of their own."""
    padded = np.pad(mixed(tokens.astype(np.uint64)), ((0, 0), (AROUND, AROUND)), constant_values=0)
    n = tokens.shape[1]
    found = np.zeros(tokens.shape, dtype=np.uint64)
    for shift in range(2 * AROUND + 1):
        found = found * _FIRST + padded[:, shift : shift + n]
    return mixed(found)
