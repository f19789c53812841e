"""What every layout is turned into: SAELens names, raw units, and a list of what had to be converted.

tensors and settings of a library --its module--> Plain --fovea.sae.files.assemble--> LoadedSAE
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.files import LoadedSAE, SAEMetadata, assemble


class Plain(NamedTuple):
    """An SAE in the terms of cfg.json, before anything is checked."""

    cfg: dict[str, Any]
    "architecture, apply_b_dec_to_input, normalize_activations, k; widths are taken from W_enc."
    tensors: dict[str, Tensor]
    metadata: SAEMetadata
    converted: tuple[str, ...]
    "What differs between the file and the SAE, a sentence each."

    def load(self, layout: str, *, where: str) -> LoadedSAE:
        """The SAE, with the layout and what was converted in its metadata.

        Raises:
            SAEError: something is missing, of the wrong shape, NaN or infinite, or not supported.
        """
        d_in, d_sae = matrix(self.tensors, "W_enc", where=where).shape
        sae = assemble({**self.cfg, "d_in": d_in, "d_sae": d_sae}, self.tensors, where=where)
        return LoadedSAE(
            sae, self.metadata.model_copy(update={"fovea": {**self.metadata.fovea, **self._notes(layout)}}), where
        )

    def _notes(self, layout: str) -> dict[str, Any]:
        """What the metadata says of the file; nothing of one in our own layout that was taken as it is."""
        if layout == "sae_lens" and not self.converted:
            return {}
        return {"layout": layout, **({"converted": list(self.converted)} if self.converted else {})}


def cfg_of(architecture: str, *, pre_bias: bool, k: Any = None) -> dict[str, Any]:
    """The settings that `Plain` needs. `pre_bias`: the encoder subtracts b_dec."""
    return {"architecture": architecture, "apply_b_dec_to_input": pre_bias, **({} if k is None else {"k": k})}


def matrix(tensors: Mapping[str, Any], name: str, *, where: str) -> Tensor:
    """A tensor of two axes.

    Raises:
        SAEError: it is missing or has another number of axes.
    """
    return _with_axes(tensors, name, 2, where)


def vector(tensors: Mapping[str, Any], name: str, *, where: str) -> Tensor:
    """A tensor of one axis.

    Raises:
        SAEError: it is missing or has another number of axes.
    """
    return _with_axes(tensors, name, 1, where)


def scalar(tensors: Mapping[str, Any], name: str, *, where: str) -> float:
    """The one number in a tensor.

    Raises:
        SAEError: it is missing, or holds more or less than one number.
    """
    found = tensors.get(name)
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise SAEError(f"{where}: {name!r} is not one number; {_found(tensors)}; download or write the SAE again")
    return float(found)


def check_claims(claims: Mapping[str, tuple[object, int | float]], *, where: str) -> None:
    """Refuse a description that belongs to other weights. What it does not say is not held against it.

    Args:
        claims: What it says and what is so, by the name of the setting.

    Raises:
        SAEError: one of them differs.
    """
    for name, (said, real) in claims.items():
        if said is not None and said != real:
            raise SAEError(
                f"{where}: the description says {name} = {said!r:.100}, but the weights have {real}; one of the two "
                "belongs "
                "to another SAE"
            )


def refuse_other_tensors(tensors: Mapping[str, Any], known: set[str], *, where: str) -> None:
    """Refuse weights that would be left out: then the SAE is not what we take it for.

    Raises:
        SAEError: there are some.
    """
    if unknown := sorted(tensors.keys() - known):
        raise SAEError(
            f"{where}: {', '.join(map(repr, unknown))[:300]} would be ignored, so this is another kind of SAE than its "
            f"layout says; known are {', '.join(sorted(known))}"
        )


def check_shapes(tensors: Mapping[str, Tensor], *per_latent: str, where: str) -> None:
    """Refuse matrices and biases that do not fit each other, before anything is multiplied.

    Raises:
        SAEError: a tensor is missing or of the wrong shape.
    """
    d_in, d_sae = matrix(tensors, "W_enc", where=where).shape
    for name, shape in {"W_dec": (d_sae, d_in), "b_dec": (d_in,), **dict.fromkeys(per_latent, (d_sae,))}.items():
        if tuple(_with_axes(tensors, name, len(shape), where).shape) != shape:
            raise SAEError(
                f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}, but W_enc [{d_in}, {d_sae}] needs "
                f"{shape}; "
                "download or write the SAE again"
            )


def units_of_decoder(tensors: dict[str, Tensor], *biases: str, where: str) -> dict[str, Tensor]:
    """Latents measured along decoder rows of length 1: x_hat is unchanged; rows of length 0 stay. Products in float64.

    Raises:
        SAEError: the shapes do not fit each other.
    """
    check_shapes(tensors, *biases, where=where)
    lengths = row_lengths(tensors)
    scaled = {name: (tensors[name].double() * lengths).float() for name in biases}
    W_enc = (tensors["W_enc"].double() * lengths).float()
    W_dec = (tensors["W_dec"].double() / lengths[:, None]).float()
    return {**tensors, "W_enc": W_enc, "W_dec": W_dec, **scaled}


def row_lengths(tensors: Mapping[str, Tensor]) -> Tensor:
    """Length of every decoder row, float64; 1 where it is 0."""
    lengths = torch.linalg.vector_norm(tensors["W_dec"].double(), dim=1)
    return torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def text_or_none(value: object) -> str | None:
    """`value` if it is a text with something in it."""
    return value if isinstance(value, str) and value else None


def whole_or_none(value: object) -> int | None:
    """`value` if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def own_metadata(settings: Mapping[str, Any], otherwise: SAEMetadata, *, where: str) -> SAEMetadata:
    """What we wrote beside another library's settings, under "fovea"; `otherwise` if we did not write them.

    Raises:
        SAEError: something is of the wrong type.
    """
    if "fovea" not in settings:
        return otherwise
    try:
        return SAEMetadata.model_validate(settings["fovea"])
    except ValidationError as error:
        raise SAEError(f"{where} has metadata of the wrong type: {str(error)[:300]}; correct it") from None


def section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A table in a description; empty if it is not there or is no table."""
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _with_axes(tensors: Mapping[str, Any], name: str, n_axes: int, where: str) -> Tensor:
    found = tensors.get(name)
    if not isinstance(found, Tensor):
        raise SAEError(f"{where}: tensor {name!r} is missing; {_found(tensors)}; download or write the SAE again")
    if found.ndim != n_axes:
        raise SAEError(
            f"{where}: tensor {name!r} has shape {tuple(found.shape)}, but one of {n_axes} axes is needed; download or "
            "write the SAE again"
        )
    return found.float()


def _found(tensors: Mapping[str, Any]) -> str:
    return f"found {', '.join(sorted(tensors))[:300] or 'nothing'}"
