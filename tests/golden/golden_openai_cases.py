"""Golden autoencoders of OpenAI's code: TopK with normalised tokens, ReLU without; decoder its own or tied."""

from pathlib import Path

import torch
from make_formats import D_IN, D_SAE, K, case, probe, truth, weights
from sparse_autoencoder.model import Autoencoder, TopK
from torch import Tensor, nn


def written(folder: Path, activation: nn.Module, *, tied: bool = False) -> dict[str, Tensor]:
    """Saved by torch.save, read by from_state_dict (which does not know tied ones)."""
    made = Autoencoder(D_SAE, D_IN, activation=activation, tied=tied, normalize=isinstance(activation, TopK))
    ours = weights()
    made.encoder.weight.copy_(ours["W_enc"].T)
    made.latent_bias.copy_(ours["b_enc"])
    made.pre_bias.copy_(ours["b_dec"])
    if not tied:
        made.decoder.weight.copy_(ours["W_dec"].T)
    place = folder / "resid_post_mlp_v5_32k" / "autoencoders"
    place.mkdir(parents=True)
    # present torch lets the inner module write its settings too, which from_state_dict refuses
    state = {name: value for name, value in made.state_dict().items() if not name.startswith("activation.")}
    torch.save(state, place / "6.pt")
    loaded = made if tied else Autoencoder.from_state_dict(torch.load(place / "6.pt", weights_only=True))
    latents, info = loaded.encode(probe())
    return truth(latents, loaded.decode(latents, info))


case("openai", "TopK")(lambda folder: written(folder, TopK(K)))
case("openai", "ReLU")(lambda folder: written(folder, nn.ReLU()))
case("openai", "ReLU-tied")(lambda folder: written(folder, nn.ReLU(), tied=True))
