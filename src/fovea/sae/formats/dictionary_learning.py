"""dictionary_learning: ae.pt (a state dict, read without unpickling) and config.json of the trainer.

    class                    encoder                      reads            latents
    AutoEncoder              encoder.weight encoder.bias  x - bias         ReLU, along decoder rows of length 1
    AutoEncoderNew           encoder.weight encoder.bias  x                ReLU
    GatedAutoEncoder         encoder.weight gate_bias ..  x - decoder_bias gate, magnitude
    AutoEncoderTopK          encoder.weight encoder.bias  x - b_dec        ReLU, k largest
    BatchTopKSAE             encoder.weight encoder.bias  x - b_dec        above one threshold
    MatryoshkaBatchTopKSAE   W_enc b_enc                  x - b_dec        above one threshold
    JumpReluAutoEncoder      W_enc b_enc                  x                above a threshold each

encoder.weight is [d_sae d_in], decoder.weight [d_in d_sae]; W_enc and W_dec are as ours. The scale of training is in
the saved weights already. A threshold below 0 says that none was measured: then every positive latent fires.

Source: dictionary_learning 0.1.0, dictionary.py, trainers/ and utils.load_dictionary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.base import SAE
from fovea.sae.blocks import ARCHITECTURE
from fovea.sae.files import SAEMetadata
from fovea.sae.formats.guard import found, read_json
from fovea.sae.formats.pickled import read_pickled
from fovea.sae.formats.plain import (
    Plain,
    cfg_of,
    check_claims,
    check_shapes,
    matrix,
    own_metadata,
    refuse_other_tensors,
    row_lengths,
    scalar,
    section,
    text_or_none,
    units_of_decoder,
    vector,
    whole_or_none,
)

WEIGHTS, CONFIG = "ae.pt", "config.json"

_LINEAR = {"encoder.weight", "decoder.weight"}
_TENSORS = {
    "AutoEncoder": _LINEAR | {"encoder.bias", "bias"},
    "AutoEncoderNew": _LINEAR | {"encoder.bias", "decoder.bias"},
    "GatedAutoEncoder": _LINEAR | {"decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "AutoEncoderTopK": _LINEAR | {"encoder.bias", "b_dec", "k", "threshold"},
    "BatchTopKSAE": _LINEAR | {"encoder.bias", "b_dec", "k", "threshold"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold", "group_sizes"},
    "JumpReluAutoEncoder": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
}
_OUTPUT_BIAS = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
_NO_PRE_BIAS = ("AutoEncoderNew", "JumpReluAutoEncoder")
_SITES = {
    "resid_post": "resid_post",
    "resid": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "attention": "attn_out",
}


def is_layout(folder: Path) -> bool:
    """Whether the files are those of dictionary_learning."""
    return found(folder, WEIGHTS) is not None


def read(folder: Path) -> Plain:
    """An SAE of dictionary_learning.

    Raises:
        SAEError: a file is damaged or implausible, holds other things than tensors, or its class is unknown.
    """
    path, where = found(folder, WEIGHTS), str(folder)
    if path is None:
        raise SAEError(f"{folder} holds no {WEIGHTS}; give a folder such as trainer_0")
    described = found(folder, CONFIG)
    said = {} if described is None else read_json(described)
    trainer, buffer = section(said, "trainer"), section(said, "buffer")
    raw = read_pickled(path)
    kind = text_or_none(trainer.get("dict_class")) or _guessed(raw, where)
    if kind not in _TENSORS:
        raise SAEError(f"{where}: dict_class {kind!r:.100} is not read; only {', '.join(_TENSORS)} are")
    if buffer.get("io") in ("in", "in_and_out"):
        raise SAEError(
            f"{where} was trained on a module's input (io = {buffer['io']!r}); only outputs can be read here"
        )
    refuse_other_tensors(raw, _TENSORS[kind], where=where)
    plain = _converted(kind, raw, trainer, where)
    d_in, d_sae = matrix(plain.tensors, "W_enc", where=where).shape
    check_claims(
        {"activation_dim": (trainer.get("activation_dim"), d_in), "dict_size": (trainer.get("dict_size"), d_sae)},
        where=where,
    )
    return plain._replace(metadata=own_metadata(said, _metadata(trainer, buffer, kind), where=where))


def _converted(kind: str, raw: dict[str, Any], trainer: dict[str, Any], where: str) -> Plain:
    """Names, orientation and conventions of one class."""
    tensors = _shared(kind, raw, where)
    check_shapes(tensors, where=where)
    d_sae = tensors["W_enc"].shape[1]
    none = SAEMetadata()
    if kind == "GatedAutoEncoder":
        own = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
        gated = {ours: vector(raw, theirs, where=where) for ours, theirs in own.items()}
        return Plain(cfg_of("gated", pre_bias=True), {**tensors, **gated}, none, ())
    if kind == "AutoEncoderTopK":
        return Plain(cfg_of("topk", pre_bias=True, k=_k(raw, trainer, where)), tensors, none, ())
    if kind == "JumpReluAutoEncoder":
        threshold = vector(raw, "threshold", where=where)
        return Plain(cfg_of("jumprelu", pre_bias=False), {**tensors, "threshold": threshold}, none, ())
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        _k(raw, trainer, where)
        threshold = scalar(raw, "threshold", where=where)
        notes = [f"its one threshold {threshold:.6g} is repeated for every latent"]
        if threshold < 0:
            notes = [f"its threshold is {threshold:.6g}: none was measured, so every positive latent fires"]
        if kind == "MatryoshkaBatchTopKSAE":
            notes.append("all groups of latents are active")
        tensors["threshold"] = torch.full((d_sae,), threshold)
        return Plain(cfg_of("jumprelu", pre_bias=True), tensors, none, tuple(notes))
    lengths = row_lengths(tensors)
    if kind == "AutoEncoder" and not torch.allclose(lengths, torch.ones_like(lengths)):
        note = "latents are measured along decoder rows of length 1, as dictionary_learning does on loading"
        return Plain(cfg_of("standard", pre_bias=True), units_of_decoder(tensors, "b_enc", where=where), none, (note,))
    return Plain(cfg_of("standard", pre_bias=kind not in _NO_PRE_BIAS), tensors, none, ())


def _shared(kind: str, raw: dict[str, Any], where: str) -> dict[str, Tensor]:
    """Matrices and biases by SAELens name."""
    b_dec = vector(raw, _OUTPUT_BIAS.get(kind, "b_dec"), where=where)
    if "W_enc" in _TENSORS[kind]:
        named = {name: matrix(raw, name, where=where) for name in ("W_enc", "W_dec")}
        return {**named, "b_enc": vector(raw, "b_enc", where=where), "b_dec": b_dec}
    named = {
        "W_enc": matrix(raw, "encoder.weight", where=where).T,
        "W_dec": matrix(raw, "decoder.weight", where=where).T,
    }
    biases = {} if kind == "GatedAutoEncoder" else {"b_enc": vector(raw, "encoder.bias", where=where)}
    return {**named, **biases, "b_dec": b_dec}


def _k(raw: dict[str, Any], trainer: dict[str, Any], where: str) -> int:
    """k, where config and weights agree."""
    k = scalar(raw, "k", where=where)
    if not k.is_integer():
        raise SAEError(f"{where}: k = {k} is not a whole number; download or write the SAE again")
    check_claims({"k": (trainer.get("k"), int(k))}, where=where)
    return int(k)


def _guessed(raw: dict[str, Any], where: str) -> str:
    """The class whose tensors these are, if only one is."""
    able = [kind for kind, names in _TENSORS.items() if names == raw.keys()]
    if len(able) == 1:
        return able[0]
    raise SAEError(
        f"{where} holds no {CONFIG} with trainer.dict_class, and its tensors fit {' and '.join(able) or 'no class'}; "
        "put the "
        f"trainer's {CONFIG} beside {WEIGHTS}"
    )


def _metadata(trainer: dict[str, Any], buffer: dict[str, Any], kind: str) -> SAEMetadata:
    module, layer = text_or_none(trainer.get("submodule_name")), whole_or_none(trainer.get("layer"))
    site = "resid_post" if module is None else _SITES.get(module.partition("_layer")[0].removesuffix("_out"))
    trained = {"BatchTopKSAE": "batch_topk", "MatryoshkaBatchTopKSAE": "matryoshka"}
    return SAEMetadata(
        model_name=text_or_none(trainer.get("lm_name")),
        hook_name=None if layer is None or site is None else f"blocks.{layer}.hook_{site}",
        context_size=whole_or_none(buffer.get("ctx_len")),
        training_architecture=trained.get(kind),
        other={} if module is None else {"submodule_name": module},
    )


def contents(sae: SAE, metadata: SAEMetadata, *, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `sae` is in dictionary_learning: the state dict of ae.pt and config.json.

    A pre-bias that the class has not is folded into the encoder biases.

    Raises:
        SAEError: no class of dictionary_learning computes what it does.
    """
    form = sae.inference_form()
    if form.token_norm != "none":
        raise SAEError(
            f"{where} normalises every token ({form.token_norm}), which no class of dictionary_learning does"
        )
    if form.file_architecture == ARCHITECTURE:
        raise SAEError(
            f"{where} has blocks of latents that compete, which no class of dictionary_learning holds; export it in "
            "the saelens layout, or the two SAEs apart"
        )
    named = form.tensors()
    kind = _class_for(form)
    tied = kind not in _NO_PRE_BIAS
    if tied and not form.pre_bias_is_tied:
        named |= form.biases_at(form.b_dec)
    if not tied and form.pre_bias is not None:
        named |= form.biases_at(torch.zeros_like(form.b_dec))
    matrices = {"encoder.weight": named["W_enc"].T, "decoder.weight": named["W_dec"].T}
    tensors = {
        "gated": lambda: {
            **matrices,
            "decoder_bias": named["b_dec"],
            "r_mag": named["r_mag"],
            "gate_bias": named["b_gate"],
            "mag_bias": named["b_mag"],
        },
        "topk": lambda: {
            **matrices,
            "encoder.bias": named["b_enc"],
            "b_dec": named["b_dec"],
            "k": torch.tensor(form.file_settings()["k"], dtype=torch.int32),
            "threshold": torch.tensor(-1.0),
        },
        "jumprelu": lambda: {name: named[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")},
        "standard": lambda: {**matrices, "encoder.bias": named["b_enc"], "decoder.bias": named["b_dec"]},
    }[form.file_architecture]()
    trainer = {
        "dict_class": kind,
        "activation_dim": form.d_in,
        "dict_size": form.d_sae,
        "lm_name": metadata.model_name,
        "layer": _layer(metadata.hook_name),
        "submodule_name": metadata.hf_hook_name,
        **form.file_settings(),
    }
    buffer = {"ctx_len": metadata.context_size, "io": "out"}
    return tensors, {"trainer": trainer, "buffer": buffer, "fovea": metadata.model_dump(mode="json", exclude_none=True)}


def save_state_dict(tensors: dict[str, Tensor], path: Path) -> None:
    """Write ae.pt. The one place that writes a pickle: the layout is one. Tensors only, so any torch reads it "
    "safely."""
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _class_for(form: SAE) -> str:
    """The class that holds this architecture; a ReLU SAE goes where decoder rows may have any length."""
    return {
        "gated": "GatedAutoEncoder",
        "topk": "AutoEncoderTopK",
        "jumprelu": "JumpReluAutoEncoder",
        "standard": "AutoEncoderNew",
    }[form.file_architecture]


def _layer(hook_name: str | None) -> int | None:
    parts = (hook_name or "").split(".")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None
