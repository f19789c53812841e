"""How often each latent fired, and how long ago."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Firing:
    """Counts over the tokens of one job. A latent is dead once `dead_after_tokens` tokens passed without it."""

    def __init__(self, d_sae: int, *, dead_after_tokens: int, device: torch.device | str = "cpu") -> None:
        self.dead_after_tokens = dead_after_tokens
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.n_batches_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        "Steps in which the latent fired at least once."

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        return self.tokens_since_fired >= self.dead_after_tokens

    def update(self, fired: Bool[Tensor, " d_sae"], n_tokens: int) -> None:
        """Take in one step: which latents fired, out of how many tokens."""
        self.tokens_since_fired += n_tokens
        self.tokens_since_fired[fired] = 0
        self.n_batches_fired += fired

    def state_dict(self) -> dict[str, Int[Tensor, " d_sae"]]:
        return {"tokens_since_fired": self.tokens_since_fired, "n_batches_fired": self.n_batches_fired}

    def load_state_dict(self, state: dict[str, Int[Tensor, " d_sae"]]) -> None:
        self.tokens_since_fired.copy_(state["tokens_since_fired"])
        self.n_batches_fired.copy_(state["n_batches_fired"])
