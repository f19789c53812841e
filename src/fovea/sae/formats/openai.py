"""OpenAI's GPT-2 autoencoders: one .pt file with a state dict, read without unpickling it.

    pre_bias   encoder.weight [d_sae d_in]   latent_bias   decoder.weight [d_in d_sae] (or tied)   activation

    latents = activation((x' - pre_bias) encoder.weight^T + latent_bias);   x_hat' = latents decoder.weight^T + pre_bias

With activation TopK every token is normalised first (x' = layer norm of x) and x_hat is brought back; with ReLU x' = x.
lm and hook point are in the path of the release: resid_post_mlp_v5_32k/autoencoders/6.pt.

Source: openai/sparse_autoencoder at 764586a, model.py and paths.py; the README for the places.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.files import SAEMetadata
from fovea.sae.formats.guard import check_inside
from fovea.sae.formats.pickled import read_pickled
from fovea.sae.formats.plain import Plain, cfg_of, matrix, refuse_other_tensors, section, vector, whole_or_none

_WEIGHTS = {"pre_bias", "encoder.weight", "latent_bias", "decoder.weight"}
_OTHER = {
    "decoder.linear.weight",
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
    "activation",
    "activation_state_dict",
    "activation.k",
    "activation.postact_fn",
}
_SITES = {
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
}
_PLACE = re.compile(rf"(?P<site>{'|'.join(_SITES)})(?:_v\d\w*)?/(?:autoencoders/)?(?P<layer>\d+)\.pt$")


def is_layout(path: Path) -> bool:
    """Whether this is a file that may be one of OpenAI's."""
    return path.suffix == ".pt" and path.is_file()


def read(path: Path) -> Plain:
    """An autoencoder of OpenAI's.

    Raises:
        SAEError: the file is damaged or implausible, or has another activation than TopK or ReLU.
    """
    where = str(path)
    if not path.is_file():
        raise SAEError(f"{where} is not a file; give the .pt file itself")
    check_inside(path, path.parent)
    raw = read_pickled(path)
    refuse_other_tensors(raw, _WEIGHTS | _OTHER, where=where)
    encoder = matrix(raw, "encoder.weight", where=where)
    decoder = encoder.T if "decoder.weight" not in raw else matrix(raw, "decoder.weight", where=where)
    if "decoder.weight" not in raw and "decoder.linear.weight" not in raw:
        raise SAEError(f"{where} has no decoder; download the SAE again")
    tensors: dict[str, Tensor] = {
        "W_enc": encoder.T,
        "W_dec": decoder.T,
        "b_enc": vector(raw, "latent_bias", where=where),
        "b_dec": vector(raw, "pre_bias", where=where),
    }
    return _with_activation(raw, tensors, where)._replace(metadata=_metadata(path))


def _with_activation(raw: dict[str, Any], tensors: dict[str, Tensor], where: str) -> Plain:
    kind, state = raw.get("activation", "ReLU"), section(raw, "activation_state_dict")
    none = SAEMetadata()
    if kind == "ReLU":
        return Plain(cfg_of("standard", pre_bias=True), tensors, none, ())
    if kind != "TopK" or state.get("postact_fn") != "ReLU":
        chosen = f"{kind!r:.50} with {state.get('postact_fn')!r:.50}"
        raise SAEError(
            f"{where} has activation {chosen}; only ReLU, and TopK with ReLU after it, have an architecture here"
        )
    cfg = cfg_of("topk", pre_bias=True, k=whole_or_none(state.get("k"))) | {"normalize_activations": "layer_norm"}
    note = "every token is brought to mean 0 and deviation 1, as OpenAI's code does for TopK; the file does not say so"
    return Plain(cfg, tensors, none, (note,))


def _metadata(path: Path) -> SAEMetadata:
    place = _PLACE.search(path.absolute().as_posix())
    if place is None:
        return SAEMetadata()
    return SAEMetadata(
        model_name="openai-community/gpt2",
        hook_name=f"blocks.{int(place['layer'])}.hook_{_SITES[place['site']]}",
        prepend_bos=None,
        context_size=64,
    )
