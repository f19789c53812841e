"""Input scale: the shift and factor that give activations the same size for every lm.

    x --(- mean)--(* scale)--> scaled x, with mean norm sqrt(d_in)

So learning rates and sparsity penalties carry over between lms and layers.
Source: Bricken et al. 2024 (Circuits Updates, April) scale to sqrt(d_in) without the shift; the shift is ours, because
a large common mean would otherwise take up most of the norm.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.errors import CorpusError

_ROWS = 4096


class InputScale(NamedTuple):
    """A shift and a factor; apply(x) = scale * (x - mean)."""

    mean: Float[Tensor, " d_in"]
    scale: float

    @classmethod
    def fit(cls, x: Float[Tensor, "tokens d_in"]) -> "InputScale":
        """The scale under which the rows of x have mean norm sqrt(d_in); sums in float64.

        Raises:
            CorpusError: no rows, or all rows are equal.
        """
        if len(x) == 0:
            raise CorpusError("the input scale needs rows of activations, but there is none; give more text")
        parts = x.split(_ROWS)
        mean = sum((part.double().sum(dim=0) for part in parts), torch.zeros(x.shape[1], dtype=torch.float64)) / len(x)
        mean = mean.float()
        norm = sum((part.double() - mean.double()).norm(dim=1).sum().item() for part in parts) / len(x)
        if norm == 0:
            raise CorpusError(f"all {len(x)} rows of activations are equal, so they have no scale; give other text")
        return cls(mean, x.shape[1] ** 0.5 / norm)

    def apply(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """scale * (x - mean)."""
        return (x - self.mean) * self.scale

    def undo(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """x / scale + mean, the inverse of `apply`."""
        return x / self.scale + self.mean
