"""Where the parts of a layer are, found by looking at the modules and checked on numbers.

    model --(names of a layer's modules)--> Structure (a row of STRUCTURES) --> LayerParts of every layer
          --(one layer run on a few tokens)--> pre + attn_out + mlp_out = post ?  input of `mid` = pre + attn_out ?

A new family of models is one row of STRUCTURES if its layers add attention and mlp to the residual stream unscaled.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fovea.errors import ModelError
from fovea.lm.running import LayerParts, Tap, capture


@dataclass(frozen=True)
class Structure:
    """How a family of models names the parts of its layers."""

    name: str
    layers: str = "layers"
    "Attribute of the base model that holds the list of layers."
    attn: str = "self_attn"
    mlp: str = "mlp"
    norms: tuple[str, ...] = ()
    "All norms of a layer. A layer with other modules (dropouts left out) computes something else and is not matched."
    attn_norm: str | None = None
    "Norm between attention and the stream, if there is one."
    mlp_norm: str | None = None
    "Norm between the mlp and the stream, if there is one."
    mid: str | None = None
    "Module whose input is resid_mid if attention and mlp are sequential; None where the family is always parallel."


_PRE = ("input_layernorm", "post_attention_layernorm")
_POST = ("post_attention_layernorm", "post_feedforward_layernorm")

STRUCTURES = (
    Structure("Llama-like (Llama, Mistral, Qwen2, Qwen3, ...)", norms=_PRE, mid="post_attention_layernorm"),
    Structure("GPT-2", layers="h", attn="attn", norms=("ln_1", "ln_2"), mid="ln_2"),
    Structure("GPT-NeoX (Pythia)", attn="attention", norms=_PRE, mid="post_attention_layernorm"),
    Structure(
        "Gemma 2 and Gemma 3 (text)",
        norms=("input_layernorm", "pre_feedforward_layernorm", *_POST),
        attn_norm="post_attention_layernorm",
        mlp_norm="post_feedforward_layernorm",
        mid="pre_feedforward_layernorm",
    ),
    Structure(
        "OLMo 2", norms=_POST, attn_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm", mid="mlp"
    ),
    Structure("parallel with one norm (Phi, Cohere)", norms=("input_layernorm",)),
)


class Anatomy(NamedTuple):
    """What is known about a model's layers."""

    layers_path: str
    "Module path of the list of layers, such as `model.layers`."
    layers: tuple[LayerParts, ...]


def dissect(model: PreTrainedModel) -> Anatomy:
    """The layers of `model` and their parts.

    Raises:
        ModelError: no known structure fits, or the layers do not add up as the structure says.
    """
    structure = _match(model)
    layers = [_parts(layer, structure) for layer in _layers_of(model.base_model, structure)]
    if not _is_sequential(model, structure, parts=layers[0]):
        layers = [parts._replace(mid=None) for parts in layers]
    return Anatomy(f"{model.base_model_prefix}.{structure.layers}", tuple(layers))


def _match(model: PreTrainedModel) -> Structure:
    for structure in STRUCTURES:
        names = frozenset((structure.attn, structure.mlp, *structure.norms))
        layers = _layers_of(model.base_model, structure)
        if layers and all(_part_names(layer) == names for layer in layers):
            return structure
    raise _unsupported(model, "its layers are built in a way that fovea does not know")


def _layers_of(base: nn.Module, structure: Structure) -> list[nn.Module]:
    found = dict(base.named_children()).get(structure.layers)
    return list(found) if isinstance(found, nn.ModuleList) else []


def _part_names(layer: nn.Module) -> frozenset[str]:
    return frozenset(name for name, module in layer.named_children() if not isinstance(module, nn.Dropout))


def _parts(layer: nn.Module, structure: Structure) -> LayerParts:
    children = dict(layer.named_children())
    return LayerParts(
        layer=layer,
        attn=children[structure.attn],
        attn_out=children[structure.attn_norm or structure.attn],
        mlp=children[structure.mlp],
        mlp_out=children[structure.mlp_norm or structure.mlp],
        mid=None if structure.mid is None else children[structure.mid],
    )


def _is_sequential(model: PreTrainedModel, structure: Structure, *, parts: LayerParts) -> bool:
    """True if the mlp of the first layer reads the stream after attention, measured on a few tokens.

    Names alone do not tell: GPT-NeoX has both forms, and models with Llama's modules may scale what they add.
    """
    taps = [Tap(parts.layer, "input"), Tap(parts.attn_out, "output"), Tap(parts.mlp_out, "output")]
    if parts.mid is not None:
        taps.append(Tap(parts.mid, "input"))
    tokens = torch.arange(min(8, model.config.get_text_config().vocab_size), device=model.device)[None]
    with _plain_outputs(model, parts):
        seen = capture(model.base_model, tokens, taps=[*taps, Tap(parts.layer, "output")])
    pre, attn_out, mlp_out, *mid, post = (x.float() for x in seen)
    if post.isfinite().all() and _differs(pre + attn_out + mlp_out, post, eps=torch.finfo(model.dtype).eps):
        raise _unsupported(model, f"it has the modules of {structure.name}, but scales or gates what a layer adds")
    return bool(mid) and bool((mid[0] - pre - attn_out).norm() <= (mid[0] - pre).norm())


@contextmanager
def _plain_outputs(model: PreTrainedModel, parts: LayerParts) -> Generator[None]:
    """Inside it, a layer or mlp that returns more than hidden states (some mixtures of experts) is refused."""

    def refuse(*call: Any) -> None:
        if not isinstance(call[-1], Tensor):
            raise _unsupported(model, f"its {type(call[0]).__name__} returns more than hidden states")

    handles = [module.register_forward_hook(refuse, prepend=True) for module in (parts.mlp, parts.layer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _differs(a: Tensor, b: Tensor, *, eps: float) -> bool:
    # A sum of three tensors is rounded at most twice; 8 leaves room for a largest term that cancels in the sum.
    return bool((a - b).norm() > 8 * eps * b.norm())


def _unsupported(model: PreTrainedModel, why: str) -> ModelError:
    known = "; ".join(structure.name for structure in STRUCTURES)
    return ModelError(
        f"{type(model).__name__} is not supported: {why}. Supported: {known}. Use a model of one of these"
    )
