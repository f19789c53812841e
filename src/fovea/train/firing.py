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

    def n_dead_after(self, fired: Bool[Tensor, " d_sae"], n_tokens: int) -> Int[Tensor, ""]:
        """How many latents will be dead once `update` has taken in this step."""
        return (~fired & (self.tokens_since_fired + n_tokens >= self.dead_after_tokens)).sum()

    def update(self, fired: Bool[Tensor, " d_sae"], n_tokens: int) -> None:
        """Take in one step: which latents fired, out of how many tokens."""
        self.tokens_since_fired.add_(n_tokens).masked_fill_(fired, 0)
        self.n_batches_fired += fired

    def state_dict(self) -> dict[str, Int[Tensor, " d_sae"]]:
        return {"tokens_since_fired": self.tokens_since_fired, "n_batches_fired": self.n_batches_fired}

    def load_state_dict(self, state: dict[str, Int[Tensor, " d_sae"]]) -> None:
        self.tokens_since_fired.copy_(state["tokens_since_fired"])
        self.n_batches_fired.copy_(state["n_batches_fired"])
