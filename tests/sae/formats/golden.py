"""The golden SAEs of other libraries (tests/golden/make_formats.py), and how ours compares with their truth."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from fovea.sae.files import LoadedSAE, load_sae

FOLDER = Path(__file__).parents[2] / "golden" / "formats"
X = load_file(FOLDER / "probe.safetensors")["x"]

INSIDE = {
    "sae_lens/gemma_scope_1": "google--gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
    "sae_lens/gemma_scope_2": "google--gemma-scope-2-270m-pt/resid_post/layer_12_width_16k_l0_medium",
    "sae_lens/llama_scope": "fnlp--Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x",
    "sparsify/layers.3": "layers.3",
    "sparsify/h.3.mlp": "h.3.mlp",
    "sparsify/transcoder": "layers.3.mlp",
    "openai/TopK": "resid_post_mlp_v5_32k/autoencoders/6.pt",
    "openai/ReLU": "resid_post_mlp_v5_32k/autoencoders/6.pt",
    "openai/ReLU-tied": "resid_post_mlp_v5_32k/autoencoders/6.pt",
}
"Where in the case's folder the SAE is, if not there itself."

REFUSED = {
    "sparsify/transcoder": "is a transcoder",
    "llamascopium/batchtopk": "act_fn = 'batchtopk' has no inference form",
}
"Cases that must be refused, and how."

CASES = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in FOLDER.glob("*/*/truth.safetensors"))
READ = [case for case in CASES if case not in REFUSED]


class Difference(NamedTuple):
    """Ours against a library's truth."""

    n_flips: int
    "Latents that fire in one and not in the other."
    latents: float
    "Largest difference of a latent, relative to the largest latent."
    x_hat: float
    "Largest |difference| / |x_hat| of a token."


def path_of(case: str) -> Path:
    """The SAE of a case."""
    return FOLDER / case / INSIDE.get(case, "")


def load(case: str) -> LoadedSAE:
    """The SAE of a case, read by us."""
    return load_sae(path_of(case))


@torch.no_grad()
def difference(case: str, loaded: LoadedSAE | None = None) -> Difference:
    """How far ours is from the library."""
    sae, truth = (loaded or load(case)).sae, load_file(FOLDER / case / "truth.safetensors")
    latents, x_hat = sae.encode(X), sae(X)
    return compare(latents, x_hat, truth["latents"], truth["x_hat"])


def compare(
    latents: torch.Tensor, x_hat: torch.Tensor, their_latents: torch.Tensor, their_x_hat: torch.Tensor
) -> Difference:
    """How far one set of latents and reconstructions is from another."""
    flips = int(((latents > 0) != (their_latents > 0)).sum())
    largest = float((latents - their_latents).abs().max() / their_latents.abs().max())
    relative = ((x_hat - their_x_hat).norm(dim=1) / their_x_hat.norm(dim=1)).max()
    return Difference(flips, largest, float(relative))
