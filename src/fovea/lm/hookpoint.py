"""Names of places in a language model, in every spelling that the field uses.

"blocks.12.hook_resid_post"   TransformerLens  --+
"model.layers.12"             Hugging Face     --+--> HookPoint(12, "resid_post") --> str(), .hugging_face(prefix)
"12-res"                      Neuronpedia      --+
"12.resid_post"               short            --+

resid_pre --+--> attention --> attn_out --(+)--> resid_mid --+--> mlp --> mlp_out --(+)--> resid_post
            +----------------------------^                   +-----------------------^
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fovea.errors import ModelError

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]

SITES: tuple[Site, ...] = get_args(Site)
"The five places in a layer, in the order of TransformerLens."

_CHILDREN: dict[str, dict[str, Site]] = {
    "model.layers": {"": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"},
    "gpt_neox.layers": {"": "resid_post", "attention": "attn_out", "mlp": "mlp_out"},
    "transformer.h": {"": "resid_post", "attn": "attn_out", "mlp": "mlp_out"},
}
"Where Hugging Face models keep their layers, and which module's output is which site."

_NEURONPEDIA: dict[str, Site] = {"res": "resid_post", "att": "attn_out", "mlp": "mlp_out"}
# A longer source such as "6-res-jb" is refused: its suffix names a release, and that one is hooked at resid_pre.

_LAYER = r"(?P<layer>0|[1-9][0-9]*)"
_SITE = rf"(?P<site>{'|'.join(SITES)})"
_SPELLINGS = {
    "transformer_lens": re.compile(rf"blocks\.{_LAYER}\.hook_{_SITE}"),
    "short": re.compile(rf"{_LAYER}\.{_SITE}"),
    "neuronpedia": re.compile(rf"{_LAYER}-(?P<site>{'|'.join(_NEURONPEDIA)})"),
    "hugging_face": re.compile(rf"(?P<prefix>{'|'.join(map(re.escape, _CHILDREN))})\.{_LAYER}(?:\.(?P<site>\w+))?"),
}

ACCEPTED = (
    "blocks.12.hook_resid_post (also resid_pre, resid_mid, attn_out, mlp_out), 12.resid_post, 12-res, 12-att, 12-mlp, "
    "model.layers.12, model.layers.12.self_attn, model.layers.12.mlp, gpt_neox.layers.12 or transformer.h.12"
)
"The accepted spellings, for messages and help texts."


@dataclass(frozen=True)
class HookPoint:
    """A place in a language model whose activations are read or replaced: a site in a layer.

    Args:
        layer: Index of the layer, from 0.
        site: resid_pre is the layer's input, resid_post its output; attn_out and mlp_out are what attention and mlp add
            to the residual stream (after the extra norms of Gemma 2 and 3); resid_mid is the stream between the two.

    Raises:
        ModelError: the layer is negative or the site is unknown.
    """

    layer: int
    site: Site

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise ModelError(f"hook point layer = {self.layer}, but layers count from 0; give 0 or more")
        if self.site not in SITES:
            raise ModelError(f"hook point site = {self.site!r} is unknown; allowed: {', '.join(SITES)}")

    @classmethod
    def parse(cls, text: str) -> "HookPoint":
        """The hook point that `text` names, in any accepted spelling; `model.layers.12` is resid_post of layer 12.

        Raises:
            ModelError: no spelling fits; the message lists the accepted ones.
        """
        for name, pattern in _SPELLINGS.items():
            if match := pattern.fullmatch(text.strip()):
                site = _site(name, match)
                if site is not None:
                    return cls(int(match["layer"]), site)
        raise ModelError(f"hook point {text!r} is not understood; write it like one of these: {ACCEPTED}")

    def __str__(self) -> str:
        return self.transformer_lens

    @property
    def transformer_lens(self) -> str:
        """TransformerLens spelling, such as `blocks.12.hook_resid_post`."""
        return f"blocks.{self.layer}.hook_{self.site}"

    def hugging_face(self, prefix: str = "model.layers") -> str:
        """Module path whose output is this site, such as `model.layers.12.self_attn`.

        Raises:
            ModelError: the prefix is unknown, or no module's output is this site (resid_pre, resid_mid).
        """
        if prefix not in _CHILDREN:
            raise ModelError(f"module prefix {prefix!r} is unknown; allowed: {', '.join(_CHILDREN)}")
        for child, site in _CHILDREN[prefix].items():
            if site == self.site:
                return f"{prefix}.{self.layer}" + (f".{child}" if child else "")
        raise ModelError(
            f"{self.transformer_lens} is not the output of a module, so it has no Hugging Face path; "
            "use resid_post, attn_out or mlp_out, or the TransformerLens spelling"
        )


def _site(spelling: str, match: re.Match[str]) -> Site | None:
    if spelling == "hugging_face":
        return _CHILDREN[match["prefix"]].get(match["site"] or "")
    if spelling == "neuronpedia":
        return _NEURONPEDIA[match["site"]]
    return next(site for site in SITES if site == match["site"])
