"""The general SAE g: inference form, float32, never trained, never a child of a trained module.

x --(chunks of rows)--> encode --> the few active latents --(embedding_bag)--> x_hat
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.sae.base import SAE
from fovea.sae.encoder import CHUNK_ELEMENTS
from fovea.sae.files import fingerprint
from fovea.sae.sparse import SparseCode, decode, sparse_code


class FrozenSAE:
    """An SAE that only reads and rebuilds.

    Not an nn.Module, so a module that holds it does not list its weights. `fingerprint()` before and after a run shows
    that they did not move.
    """

    def __init__(self, sae: SAE, *, device: torch.device | str = "cpu") -> None:
        self.sae = sae.inference_form().requires_grad_(False).eval().to(device)

    @property
    def d_in(self) -> int:
        """Width that it reads."""
        return self.sae.d_in

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.sae.d_sae

    def fingerprint(self) -> str:
        """Hash of the weights as they are now."""
        return fingerprint(self.sae)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents of x, as one matrix."""
        return torch.cat([self.sae.encode(part) for part in self._chunks(x)])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_in"]:
        """Reconstruction from latents."""
        return self.sae.decode(latents)

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "tokens d_in"]) -> Iterator[SparseCode]:
        """Active latents of consecutive rows in ragged form; the matrix of all latents is never held."""
        for part in self._chunks(x):
            yield sparse_code(self.sae.encode(part.float()))

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """g(x) in float32."""
        own = torch.cat([decode(code, self.sae.W_dec) for code in self.codes(x)]) + self.sae.b_dec
        return self.sae.restore(x.float(), own)

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(64, CHUNK_ELEMENTS // self.d_sae))
