"""Integer histograms of activations whose range is not known before the end.

activation --> one of 512 bins of (0, 2^e]; when a larger one comes, neighbouring bins join and e grows
at the end --> n equal bins of (0, highest]: each fine bin falls where its middle lies, at most highest / 512 off
"""

import numpy as np
from numpy.typing import NDArray

from fovea.features.files import Ints

N_FINE = 512
_NEVER = -200
"Exponent of a latent that has not fired."


class Histograms:
    """Counts of activations above zero, per latent; the order of reading does not matter."""

    def __init__(self, d_sae: int) -> None:
        self.counts = np.zeros((d_sae, N_FINE), dtype=np.int64)
        self.exponents = np.full(d_sae, _NEVER, dtype=np.int64)

    def add(self, latents: Ints, values: NDArray[np.float32], *, largest: NDArray[np.float32]) -> None:
        """Count activations, all above zero; `largest` is the largest of each latent so far, these included."""
        fired = np.flatnonzero(largest)
        # frexp: value = m 2^e with m in [0.5, 1), so 2^e is above it.
        self._widen(fired, np.frexp(largest[fired])[1].astype(np.int64))
        scale = np.ldexp(float(N_FINE), -self.exponents)
        bins = np.clip(np.ceil(values * scale[latents]).astype(np.int64) - 1, 0, N_FINE - 1)
        np.add.at(self.counts.reshape(-1), latents * N_FINE + bins, 1)

    def _widen(self, latents: Ints, exponents: Ints) -> None:
        grown = exponents - self.exponents[latents]
        for steps in np.unique(grown[grown > 0]):
            rows = latents[grown == steps]
            n_joined = min(2 ** int(min(steps, 20)), N_FINE)
            halved = self.counts[rows].reshape(len(rows), N_FINE // n_joined, n_joined).sum(axis=2)
            self.counts[rows] = 0
            self.counts[rows, : N_FINE // n_joined] = halved
            self.exponents[rows] += steps


def rebinned(counts: Ints, exponents: Ints, *, highest: NDArray[np.float32], n_bins: int) -> Ints:
    """[d_sae n_bins] the counts in equal bins of (0, highest]; zeros where highest is 0."""
    found = np.zeros((len(counts), n_bins), dtype=np.int64)
    rows, fine = np.nonzero(counts)
    middles = np.ldexp((fine + 0.5) / N_FINE, exponents[rows])
    bins = np.minimum((middles / highest[rows].astype(np.float64) * n_bins).astype(np.int64), n_bins - 1)
    np.add.at(found, (rows, bins), counts[rows, fine])
    return found
