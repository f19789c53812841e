"""The frozen language model: run to a hook point and stop, resume from it with another activation, or patch it.

    tokens --> activations(hook) = x                                  layers after the hook never run
    tokens --> prefix(hook) --> resume(prefix, x_hat) --> hidden --> logits     layers before it run once for many x_hat
    with lm.patched(hook, fn): lm.model.generate(...)                 the plain Hugging Face model, patched

Legend: x is float32, an exact upcast of the compute dtype; `hidden` is after the final norm, in the compute dtype.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from fovea.errors import ModelError
from fovea.lm import fingerprint, running
from fovea.lm.hookpoint import SITES, HookPoint
from fovea.lm.running import Feed, LayerParts, Tap
from fovea.lm.structure import dissect

if TYPE_CHECKING:
    from fovea.lm.compiled import CompiledLayers


class Prefix(NamedTuple):
    """A forward pass that stopped at a hook point, with what `LM.resume` needs to go on."""

    hook_point: HookPoint
    x: Float[Tensor, "batch pos d_model"]
    "Activation at the hook point, float32."
    resid_pre: Float[Tensor, "batch pos d_model"] | None
    "Input of the hooked layer, compute dtype; kept for attn_out and mlp_out only."
    attn_out: Float[Tensor, "batch pos d_model"] | None
    "Output of attention, compute dtype; kept for mlp_out only."


class LM:
    """A frozen causal language model and its tokenizer.

    Args:
        name: Reference under which the user knows it.
        folder: Folder of its files, hashed for the fingerprint; without one the tensors in memory are hashed.
        compiled: Run whole layers as compiled code (fovea.lm.compiled) in `activations`, `prefix` and `resume`.

    Raises:
        ModelError: the architecture is not supported, or the tokenizer has no end-of-text token.
        ConfigError: compiled code is asked for where there is no compiler.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        folder: Path | None = None,
        compiled: bool = False,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self._folder = folder
        self._running = threading.RLock()
        "Held while modules carry hooks: chunks may be made in the background (fovea.data.ahead)."
        self.layers_path, self._layers = dissect(model)
        config = model.config.get_text_config()
        self.d_model: int = config.hidden_size
        self.n_layers = len(self._layers)
        self.d_vocab: int = config.vocab_size
        self.context_size: int | None = config.to_dict().get(
            config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
        )
        self.separator_id = _separator_id(tokenizer, name)
        self._compiled = _compiled_layers(self._layers, name, self.device) if compiled else None

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def computation(self) -> str:
        """What decides the last bits of activations besides the weights: for keys of what is kept."""
        return f"{self.dtype} on {self.device.type}" + (", compiled" if self._compiled else "")

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of config and weights as stored, whatever the compute dtype."""
        if self._folder is not None:
            return fingerprint.of_folder(self._folder)
        return fingerprint.of_model(self.model.config.to_diff_dict(), self.model.state_dict())

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that stand for no text: beginning, end, padding, chat marks."""
        marked = (i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special)
        return frozenset(self.tokenizer.all_special_ids) | frozenset(marked)

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-text token, if the tokenizer has one."""
        return cast(int | None, self.tokenizer.bos_token_id)

    @cached_property
    def adds_bos(self) -> bool:
        """True if the tokenizer itself puts the beginning-of-text token first."""
        ids = self.tokenizer("a")["input_ids"]
        return self.bos_id is not None and ids[:1] == [self.bos_id]

    def check(self, hook_point: HookPoint) -> None:
        """Nothing, if this model has that hook point.

        Raises:
            ModelError: the layer is out of range, or the layers have no such site.
        """
        if hook_point.layer >= self.n_layers:
            raise ModelError(
                f"hook point {hook_point} is in layer {hook_point.layer}, but {self.name} has {self.n_layers} layers; "
                f"use a layer from 0 to {self.n_layers - 1}"
            )
        if hook_point.site == "resid_mid" and self._layers[hook_point.layer].mid is None:
            allowed = ", ".join(site for site in SITES if site != "resid_mid")
            raise ModelError(
                f"hook point {hook_point} is not there: attention and mlp of {self.name} run in parallel, so no stream "
                f"lies between them; use {allowed}"
            )

    def activations(
        self, tokens: Int[Tensor, "batch pos"], hook_point: HookPoint
    ) -> Float[Tensor, "batch pos d_model"]:
        """x at the hook point; nothing after it is computed.

        Raises:
            ModelError: the hook point or the tokens do not fit the model, or x is not finite.
        """
        return self._run(tokens, hook_point, kept=[])[-1].float()

    def prefix(self, tokens: Int[Tensor, "batch pos"], hook_point: HookPoint) -> Prefix:
        """x at the hook point and what `resume` needs; the layers before it run once for all later calls.

        Raises:
            ModelError: as `activations`.
        """
        parts = self._parts(hook_point)
        kept = {
            "attn_out": [Tap(parts.layer, "input")],
            "mlp_out": [Tap(parts.layer, "input"), Tap(parts.attn_out, "output")],
        }.get(hook_point.site, [])
        *seen, x = self._run(tokens, hook_point, kept=kept)
        resid_pre, attn_out, *_ = [*seen, None, None]
        return Prefix(hook_point, x.float(), resid_pre, attn_out)

    def resume(self, prefix: Prefix, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Final hidden states, after the final norm, of the forward pass in which `x` is the hook's activation.

        Only what lies after the hook point is computed. `resume(prefix, prefix.x)` is the unpatched forward.
        """
        assert x.shape == prefix.x.shape, f"x has shape {tuple(x.shape)}, the prefix {tuple(prefix.x.shape)}"
        x = x.to(self.device, self.dtype)
        feed = _feed(prefix, x)
        inside = feed.attn_out is not None or feed.mlp_out is not None
        with self._running, self._stand_in(but=[self._layers[feed.start].layer] if inside else []):
            return running.resume(self.model.base_model, feed, layers=self._layers)

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_vocab"]:
        """Logits as the model computes them (head, scale, soft cap), float32; 4 bytes per token and vocabulary entry.

        Args:
            hidden: Final hidden states from `resume`. Callers pass a few hundred tokens at a time.
        """
        hidden = hidden.to(self.device, self.dtype)[None]
        output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)  # pyright: ignore[reportArgumentType]
        with self._running, running.overridden(self.model.base_model, lambda *_, **__: output):
            return self.model(inputs_embeds=hidden, use_cache=False, return_dict=True).logits[0].float()

    def patched(self, hook_point: HookPoint, fn: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Context in which `self.model` runs with fn(x) in place of x at the hook point, x as `activations` gives it.

        Holds for every way of running the model: `lm.model(...)`, `lm.model.generate(...)`, with or without a cache.

        Raises:
            ModelError: this model has no such hook point.
        """
        parts = self._parts(hook_point)

        def replace(x: Tensor) -> Tensor:
            return fn(x.float()).to(x)

        if hook_point.site == "resid_mid":
            return running.tapped_mid(parts, replace)
        return running.tapped(_tap(hook_point, parts), replace)

    def _parts(self, hook_point: HookPoint) -> LayerParts:
        self.check(hook_point)
        return self._layers[hook_point.layer]

    def _run(self, tokens: Tensor, hook_point: HookPoint, *, kept: list[Tap]) -> list[Tensor]:
        tap = _tap(hook_point, self._parts(hook_point))
        self._check_tokens(tokens)
        layer = self._layers[hook_point.layer].layer
        with self._running, self._stand_in(but=[] if tap.module is layer else [layer]):
            seen = running.capture(self.model.base_model, tokens.to(self.device), taps=[*kept, tap])
        if not seen[-1].isfinite().all():
            raise ModelError(
                f"{self.name} gives non-finite values at layer {hook_point.layer} ({hook_point}) in {self.dtype}: "
                "its weights are damaged, or that dtype overflows: fetch the model again or use dtype 'float32'"
            )
        return seen

    def _stand_in(self, *, but: list[nn.Module]) -> AbstractContextManager[None]:
        """Compiled layers, if there are any; a layer that is entered or left halfway runs as it is."""
        return self._compiled.stand_in(but=but) if self._compiled else nullcontext()

    def _check_tokens(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or not tokens.numel():
            raise ModelError(f"tokens have shape {tuple(tokens.shape)}; give at least one token as [batch, pos]")
        if self.context_size is not None and tokens.shape[1] > self.context_size:
            raise ModelError(
                f"tokens are {tokens.shape[1]} long, but {self.name} reads at most {self.context_size}; "
                "use a smaller context_size"
            )
        low, high = (int(value) for value in tokens.aminmax())
        if low < 0 or high >= self.d_vocab:
            wrong = low if low < 0 else high
            raise ModelError(
                f"token id {wrong} is not in the vocabulary of {self.name} (0 to {self.d_vocab - 1}); "
                "tokenize with the tokenizer of this lm"
            )


def _tap(hook_point: HookPoint, parts: LayerParts) -> Tap:
    """Where x flows at the hook point."""
    match hook_point.site:
        case "resid_pre":
            return Tap(parts.layer, "input")
        case "resid_mid":
            assert parts.mid is not None
            return Tap(parts.mid, "input")
        case "attn_out":
            return Tap(parts.attn_out, "output")
        case "mlp_out":
            return Tap(parts.mlp_out, "output")
        case "resid_post":
            return Tap(parts.layer, "output")


def _feed(prefix: Prefix, x: Tensor) -> Feed:
    """What the first layer to run is given, so that x is the activation at the hook point, to the bit."""
    layer = prefix.hook_point.layer
    match prefix.hook_point.site:
        case "resid_pre":
            return Feed(layer, x)
        case "resid_mid":
            return Feed(layer, torch.zeros_like(x), attn_out=x)
        case "attn_out":
            assert prefix.resid_pre is not None
            return Feed(layer, prefix.resid_pre, attn_out=x)
        case "mlp_out":
            assert prefix.resid_pre is not None
            return Feed(layer, prefix.resid_pre, attn_out=prefix.attn_out, mlp_out=x)
        case "resid_post":
            return Feed(layer + 1, x)


def _compiled_layers(layers: Sequence[LayerParts], name: str, device: torch.device) -> "CompiledLayers":
    from fovea.lm.compiled import CompiledLayers  # brings the compiler, a second of import that few need

    return CompiledLayers(layers, name=name, device=device)


def _separator_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name} has no end-of-text token, which separates documents; set its eos_token"
        )
    return cast(int, tokenizer.eos_token_id)
