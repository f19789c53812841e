"""Does an SAE rebuild what it is given, and if not, would it under another convention?

x --(as read; under each other convention)--> x_hat --> FVU --(bad, another far better)--> a warning that names it

A convention that a file does not state is the usual cause of a general SAE that "does not work": latents fire, nothing
fails, and every number is wrong. FVU = sum |x - x_hat|^2 / sum |x - mean|^2 over the tokens given.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.sae.base import SAE
from fovea.sae.token_norm import TokenNorm

SUSPICIOUS_FVU = 0.5
"General SAEs of some use are well below; published ones are at 0.05 to 0.3 on general text."

FAR_BETTER = 0.5
"Another convention is named if its FVU is less than this times the FVU as read."


class Sanity(NamedTuple):
    """FVU of an SAE as it was read, and of the best other reading."""

    fvu: float
    other: str
    "The other convention, in words."
    other_fvu: float

    @property
    def warning(self) -> str | None:
        """What to tell the user; None if nothing is suspicious."""
        if self.fvu <= SUSPICIOUS_FVU:
            return None
        if self.other_fvu < FAR_BETTER * self.fvu:
            return (
                f"it leaves {self.fvu:.2f} of the variance of x unexplained, but {self.other_fvu:.2f} if "
                f"{self.other}: a "
                "convention of its file looks misread, or the file does not state it; check its source"
            )
        return (
            f"it leaves {self.fvu:.2f} of the variance of x unexplained, and no other convention helps (best: "
            f"{self.other_fvu:.2f} if {self.other}); check that lm, hook point and layer are those it was trained on"
        )


@torch.no_grad()
def sanity(sae: SAE, x: Float[Tensor, "tokens d_in"]) -> Sanity:
    """FVU on `x` (general text, without special and massive tokens) as read, and under the best other convention."""
    other, lowest = min(
        ((name, _fvu(x, rebuild(x))) for name, rebuild in _others(sae, x).items()), key=lambda one: one[1]
    )
    return Sanity(_fvu(x, sae(x)), other, lowest)


def _fvu(x: Tensor, x_hat: Tensor) -> float:
    """Infinite where a reading gives no numbers."""
    total = (x.double() - x.double().mean(dim=0)).square().sum()
    found = float((x.double() - x_hat.double()).square().sum() / total)
    return found if found == found else float("inf")


def _others(sae: SAE, x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """The readings that files are known to leave open, by what each assumes."""
    scale = x.shape[1] ** 0.5 / float(x.norm(dim=1).mean())
    norms: dict[TokenNorm, str] = {
        "none": "it reads raw activations",
        "layer_norm": "every token is brought to mean 0 and deviation 1",
        "constant_norm_rescale": "every token is brought to length sqrt(d_in)",
    }
    found: dict[str, Callable[[Tensor], Tensor]] = {
        words: _normalising(sae, norm) for norm, words in norms.items() if norm != sae.token_norm
    }
    found[f"x is multiplied by {scale:.4g} (mean length to sqrt(d_in))"] = lambda rows: sae(rows * scale) / scale
    found["the mean over each token's entries is removed (TransformerLens' centred weights)"] = lambda rows: (
        sae(rows - rows.mean(dim=1, keepdim=True)) + rows.mean(dim=1, keepdim=True)
    )
    if sae.pre_bias_is_tied or (sae.pre_bias is None and bool(sae.b_dec.any())):
        words = "b_dec is not subtracted from x" if sae.pre_bias_is_tied else "b_dec is subtracted from x"
        found[f"{words} before the encoder"] = _other_pre_bias(sae)
    return found


def _normalising(sae: SAE, norm: TokenNorm) -> SAE:
    other = copy.deepcopy(sae)
    other.token_norm = norm
    return other


def _other_pre_bias(sae: SAE) -> SAE:
    other = copy.deepcopy(sae)
    other.pre_bias_is_tied = not sae.pre_bias_is_tied
    return other
