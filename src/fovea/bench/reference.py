"""A TopK SAE trained the plain way: dense tensors, autograd, fp32. What fast paths are timed and judged against.

    x --(- b_dec, W_enc, b_enc)--> pre --(topk, ReLU, scatter)--> latents --(W_dec, b_dec)--> x_hat

The same objective, optimiser, schedule and start as fovea's TopK job, written without any of its code but the schedule.
"""

import torch
from torch import Tensor

from fovea.sae.base import SAE
from fovea.sae.terms import AUX_WEIGHT
from fovea.train.job import OptimiserConfig
from fovea.train.schedules import learning_rate


class DenseTopK:
    """Weights, optimiser and counts of one dense TopK SAE, starting from the weights of `sae`."""

    def __init__(self, sae: SAE, *, k: int, optimiser: OptimiserConfig, n_steps: int) -> None:
        start = sae.tensors()
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (
            start[name].clone().requires_grad_() for name in ("W_enc", "b_enc", "W_dec", "b_dec")
        )
        self.k, self.n_steps, self._settings = k, n_steps, optimiser
        self.parameters = [self.W_enc, self.b_enc, self.W_dec, self.b_dec]
        self._adam = torch.optim.Adam(self.parameters, lr=optimiser.lr.peak, betas=(0.9, 0.999))
        self.tokens_since_fired = torch.zeros(sae.d_sae, dtype=torch.int64, device=self.W_enc.device)
        self._step = 0

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations [tokens d_sae]."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def latents(self, pre: Tensor) -> Tensor:
        """The k largest of each row, where positive [tokens d_sae]."""
        top = pre.topk(self.k, dim=1)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_hat [tokens d_in] and latents [tokens d_sae]."""
        latents = self.latents(self.pre(x))
        return latents @ self.W_dec + self.b_dec, latents

    def step(self, x: Tensor) -> None:
        """Learn from one batch [tokens d_in]."""
        pre = self.pre(x)
        latents = self.latents(pre)
        x_hat = latents @ self.W_dec + self.b_dec
        loss = (x_hat - x).square().sum(dim=1).mean()
        dead = self.tokens_since_fired >= self._settings.dead_after_tokens
        if dead.any():
            loss = loss + AUX_WEIGHT * self._auxk(pre, (x - x_hat).detach(), dead)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(self._settings.lr, self._step, self.n_steps)
        self._adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert self.W_dec.grad is not None
            self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True) * self.W_dec
            torch.nn.utils.clip_grad_norm_(self.parameters, self._settings.clip_norm)
            self._adam.step()
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
            self.tokens_since_fired += len(x)
            self.tokens_since_fired[(latents > 0).any(dim=0)] = 0
        self._step += 1

    def _auxk(self, pre: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        k_aux = min(max(1, error.shape[1] // 2), int(dead.sum()))
        of_dead = pre.masked_fill(~dead, -torch.inf)
        top = of_dead.topk(k_aux, dim=1)
        latents = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        return (latents @ self.W_dec - error).square().sum(dim=1).mean()
