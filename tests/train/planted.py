"""Activations with a known sparse dictionary: directions of general text, and directions that only D has."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.data.activations import Chunk

D_IN, N_GENERAL, N_DOMAIN = 128, 96, 24


class Planted(NamedTuple):
    """The truth behind the activations."""

    general: Float[Tensor, "n_general d_in"]
    domain: Float[Tensor, "n_domain d_in"]
    mean: Float[Tensor, " d_in"]


def planted(seed: int = 0) -> Planted:
    """Random unit directions and a mean."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(N_GENERAL + N_DOMAIN, D_IN, generator=generator), dim=-1)
    return Planted(directions[:N_GENERAL], directions[N_GENERAL:], torch.randn(D_IN, generator=generator))


class PlantedChunks:
    """Chunks of such activations: 4 general latents a token, and on D one domain latent in two tokens of three."""

    dtype = torch.float32
    d_in = D_IN

    def __init__(self, truth: Planted, *, is_domain: bool, n_chunks: int = 32, rows: int = 2048) -> None:
        self.truth, self.is_domain, self.n_chunks, self.rows = truth, is_domain, n_chunks, rows

    def chunk(self, index: int) -> Chunk:
        """Chunk number `index`, a function of it alone."""
        generator = torch.Generator().manual_seed(1000 * index + self.is_domain)
        latents = self._draw(N_GENERAL, 4 / N_GENERAL, generator)
        x = self.truth.mean + latents @ self.truth.general
        if self.is_domain:
            x = x + self._draw(N_DOMAIN, 0.67 / N_DOMAIN, generator) @ self.truth.domain
        x = x + 0.01 * torch.randn(self.rows, D_IN, generator=generator)
        position = torch.arange(self.rows)
        return Chunk(x, position // 64, position % 64, position // 64)

    def _draw(self, n: int, probability: float, generator: torch.Generator) -> Float[Tensor, "tokens n"]:
        fires = torch.rand(self.rows, n, generator=generator) < probability
        return fires * (1.0 + torch.rand(self.rows, n, generator=generator))
