"""The block class in the terms of sae_lens, so that its loader reads our stacks of per-token TopK.

cfg.json, architecture fovea_blocks --sae_lens.SAE.load_from_disk, after register()--> an SAE like any of its own

Source: sae_lens 6.54.12, saes/sae.py and registry.py: subclass SAE and SAEConfig, then register_sae_class.
"""

from collections.abc import Iterator
from dataclasses import field, make_dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.base import Block
from fovea.sae.blocks import ARCHITECTURE, fire, read_blocks

EQUAL_LENGTHS = 1e-4
"Decoder rows of a block that competes may differ by this much, relative, to count as equally long."


@cache
def register() -> type[Any]:
    """The class, which sae_lens knows from now on under `fovea_blocks`.

    Raises:
        UnknownReferenceError: sae_lens is not installed.
    """
    try:
        sae_lens: Any = import_module("sae_lens")
    except ImportError:
        raise UnknownReferenceError("sae_lens is not installed; install fovea-sae[saelens]") from None
    config_class = _config_class(sae_lens.SAEConfig)
    sae_class = _sae_class(sae_lens.SAE)
    sae_lens.register_sae_class(ARCHITECTURE, sae_class, config_class)
    return sae_class


def _config_class(base: Any) -> type[Any]:
    """Settings: sae_lens's own and `blocks`, size and k of each; k None: each latent has its threshold.

    Made by a call, since sae_lens gives it a plain dict for its metadata, which checks of annotations would refuse.
    """
    blocks = ("blocks", list[dict[str, int | None]], field(default_factory=list[dict[str, int | None]]))
    methods = {"architecture": classmethod(lambda _cls: ARCHITECTURE)}
    return make_dataclass("FoveaBlocksSAEConfig", [blocks], bases=(base,), namespace=methods)


def _sae_class(base: Any) -> type[Any]:
    class BlocksSAE(base):
        """An SAE whose latents fall into blocks, some of which compete (fovea.sae.blocks)."""

        b_enc: Tensor
        threshold: Tensor

        def __init__(self, cfg: Any, use_error_term: bool = False) -> None:
            super().__init__(cfg, use_error_term)
            self.rules = read_blocks({"blocks": cfg.blocks}, cfg.d_sae, where="a stack of blocks")

        def initialize_weights(self) -> None:
            """Zero biases and thresholds beside sae_lens's own matrices."""
            super().initialize_weights()
            for name in ("b_enc", "threshold"):
                zeros = torch.zeros(self.cfg.d_sae, dtype=self.dtype, device=self.device)
                self.register_parameter(name, nn.Parameter(zeros))

        def encode(self, x: Tensor) -> Tensor:
            """Latents of x."""
            sae_in = self.process_sae_in(x)
            pre = self.hook_sae_acts_pre(sae_in @ self.W_enc + self.b_enc)
            return self.hook_sae_acts_post(fire(pre, self.threshold, self.rules))

        def decode(self, latents: Tensor) -> Tensor:
            """Reconstruction, in the units of x."""
            out = self.hook_sae_recons(latents @ self.W_dec + self.b_dec)
            return self.reshape_fn_out(self.run_time_activation_norm_fn_out(out), self.d_head)

        @torch.no_grad()
        def fold_W_dec_norm(self) -> None:
            """Bring decoder rows to length 1 and let latents take the lengths; of a block that competes, one length."""
            lengths = torch.cat([_lengths(rows, rule) for rows, rule in self._by_block()])
            self.W_dec.data.div_(lengths[:, None])
            for tensor in (self.W_enc, self.b_enc, self.threshold):
                tensor.data.mul_(lengths)

        def _by_block(self) -> Iterator[tuple[Tensor, Block]]:
            sizes = [rule.size for rule in self.rules]
            return zip(self.get_W_dec_norm().split(sizes), self.rules, strict=True)

    BlocksSAE.__name__ = BlocksSAE.__qualname__ = "FoveaBlocksSAE"
    return BlocksSAE


def _lengths(rows: Tensor, block: Block) -> Tensor:
    """What the rows of a block are divided by: one length for all that compete, or other latents would win.

    Raises:
        SAEError: they compete and their rows differ in length.
    """
    if block.k is None:
        return rows
    if float(rows.max() / rows.min()) > 1 + EQUAL_LENGTHS:
        raise SAEError(
            f"decoder rows of a block with k = {block.k} are {rows.min():.4g} to {rows.max():.4g} long; folding these "
            "lengths would let other latents win, so leave fold_W_dec_norm out"
        )
    return rows.mean().expand_as(rows)
