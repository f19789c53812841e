"""Several encoders side by side, some of whose latents compete: what a stack with a per-token TopK is.

    x --(- pre_bias, W_enc, b_enc)--> pre --(per block: k largest, or above threshold)--> latents --(W_dec)--> x_hat

    cfg.json  architecture fovea_blocks, blocks [{"size": latents, "k": k or null}, ...]   threshold 0 where k rules

No architecture of other libraries holds that: the k largest of all latents are not the k largest of each block (a joint
TopK kept the same latents on 22% of random tokens). `import fovea.saelens` teaches sae_lens this one.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fovea.errors import SAEError
from fovea.sae.base import SAE, Block, BlockRule, Elementwise, StepResult, StepState, Weights

ARCHITECTURE = "fovea_blocks"
"Name in cfg.json, and in the registry of sae_lens."

MAX_BLOCKS = 64


class BlocksSAE(SAE):
    """Sparse autoencoder whose latents fall into blocks, each with a rule of its own.

    Raises:
        SAEError: the blocks do not fill the latents, or a k exceeds its block.
    """

    file_architecture = ARCHITECTURE
    latent_tensors = ("b_enc", "threshold")

    def __init__(self, weights: Weights, blocks: tuple[Block, ...]) -> None:
        super().__init__(weights, unit_decoder=False)
        check_blocks(blocks, self.d_sae, where="a stack")
        self.blocks = blocks
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.threshold = nn.Parameter(torch.zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x: of a block with k at most k above zero in each row, of others those above their threshold."""
        return fire(self.centred(x) @ self.W_enc + self.b_enc, self.threshold, self.blocks)

    def loss(
        self, x: Float[Tensor, "tokens {self.d_in}"], target: Float[Tensor, "tokens {self.d_in}"], state: StepState
    ) -> StepResult:
        """Does not exist: a stack is what training made."""
        del x, target, state
        raise SAEError("a stack of several encoders has no objective; train its blocks apart and stack them again")

    def inference_form(self) -> "BlocksSAE":
        """A copy: there is no other form."""
        return copy.deepcopy(self).requires_grad_(False)

    def file_settings(self) -> dict[str, Any]:
        """Size and k of each block."""
        return {"blocks": [block._asdict() for block in self.blocks]}

    def elementwise(self) -> Elementwise:
        """One rule per latent, where no block competes.

        Raises:
            SAEError: one does.
        """
        for block in self.blocks:
            if block.k is not None:
                raise SAEError(
                    f"a block of this SAE is topk with k = {block.k} per token: its latents compete, so they have no "
                    "thresholds of their own"
                )
        return Elementwise(self.W_enc.detach(), self.b_enc.detach(), self.threshold.detach())

    def block_rule(self) -> BlockRule:
        """Its own blocks."""
        return BlockRule(self.W_enc.detach(), self.b_enc.detach(), self.threshold.detach(), self.blocks)


def fire(
    pre: Float[Tensor, "*batch d_sae"], threshold: Float[Tensor, " d_sae"], blocks: tuple[Block, ...]
) -> Float[Tensor, "*batch d_sae"]:
    """Latents of pre-activations: the k largest positive ones of a block with k, elsewhere those above threshold."""
    parts: list[Tensor] = []
    start = 0
    for block in blocks:
        own = pre[..., start : start + block.size]
        if block.k is None:
            above = own > threshold[start : start + block.size].clamp_min(0.0)
            parts.append(torch.where(above, own, 0.0))
        else:
            top = own.topk(block.k, dim=-1)
            parts.append(torch.zeros_like(own).scatter(-1, top.indices, top.values.relu()))
        start += block.size
    return torch.cat(parts, dim=-1)


def read_blocks(cfg: Mapping[str, Any], d_sae: int, *, where: str) -> tuple[Block, ...]:
    """The blocks that a cfg.json describes.

    Raises:
        SAEError: it describes none, or others than the weights have.
    """
    said: Any = cfg.get("blocks")
    if not isinstance(said, list) or not 1 <= len(said) <= MAX_BLOCKS:
        raise SAEError(
            f"{where}: architecture {ARCHITECTURE} needs blocks, a list of 1 to {MAX_BLOCKS} tables of size and k, but "
            f"cfg.json has {said!r:.100}; export the stack again"
        )
    blocks: list[Block] = []
    for each in said:
        size, k = _counts(each)
        if size is None:
            raise SAEError(
                f"{where}: block {each!r:.100} needs a size above 0, and k null or above 0; export the stack again"
            )
        blocks.append(Block(size, k))
    check_blocks(tuple(blocks), d_sae, where=where)
    return tuple(blocks)


def check_blocks(blocks: tuple[Block, ...], d_sae: int, *, where: str) -> None:
    """Refuse blocks that do not fill `d_sae` latents, or of which one has fewer latents than may fire.

    Raises:
        SAEError: that is so.
    """
    if (total := sum(block.size for block in blocks)) != d_sae:
        raise SAEError(f"{where}: its blocks have {total} latents, but its weights {d_sae}; export the stack again")
    for block in blocks:
        if block.k is not None and block.k > block.size:
            raise SAEError(f"{where}: k = {block.k} is more than the {block.size} latents of its block")


def _counts(each: Any) -> tuple[int | None, int | None]:
    """Size and k of a block as a file has it; no size if one of them is not a whole number above 0."""
    size, k = (each.get("size"), each.get("k")) if isinstance(each, dict) else (None, None)
    is_sound = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in (size, 1 if k is None else k))
    return (size, k) if is_sound else (None, None)
