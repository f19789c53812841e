"""An SAE in another library's layout, checked as it is written.

SAE --contents--> a folder that is not there yet --read back by us, and by the library if it is installed-->
    compared on a probe, which stays in the folder (probe.safetensors: x, x_hat) --> the folder gets its name

A folder that exists has passed. What a library cannot hold exactly is refused, not approximated.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.atomic import new_folder, write_json
from fovea.errors import ConfigError, SAEError
from fovea.sae.base import SAE
from fovea.sae.blocks import ARCHITECTURE
from fovea.sae.files import SAEMetadata, fingerprint, read_cfg, save_sae
from fovea.sae.formats import dictionary_learning, sparsify
from fovea.sae.formats.layouts import read_any
from fovea.sae.stack import MAX_RELATIVE_ERROR, StackCheck, stack, verify_stack, within_rounding
from fovea.tensorfile import write_tensors

PROBE = "probe.safetensors"
PROBE_ROWS = 64
"Tokens kept in the folder, so that whoever reads it with other tools can compare."


class WriteCheck(NamedTuple):
    """What a comparison of an SAE with what was written of it found."""

    n_tokens: int
    max_relative_error: float
    "Largest |difference| / |x_hat| of a token without a tie."
    n_flips: int
    "Latents that fire in one and not in the other, and not for rounding."
    n_ties: int
    "Latents that do so within rounding of their threshold."
    library: str | None
    "The library that computed the same; None where it is not installed."


class Writer(NamedTuple):
    """How a layout is written, and how its library reads it."""

    write: Callable[[SAE, Path, SAEMetadata], None]
    layout: str
    "Our reader of it."
    module: str
    "What must be importable for the library to be asked."
    in_library: Callable[[Path, Tensor], tuple[Tensor, Tensor]]
    "Latents and x_hat as the library computes them."


@torch.no_grad()
def write_sae(
    sae: SAE, folder: Path, *, layout: str, metadata: SAEMetadata, probe_x: Float[Tensor, "tokens d_in"]
) -> WriteCheck:
    """Write the inference form of `sae` to `folder`, which must not exist, in the layout of another library.

    Raises:
        ConfigError: the layout is unknown.
        SAEError: the layout cannot hold the SAE, or what was written does not compute the same.
        OSError: the disk is full or not writable; then there is no folder.
    """
    if layout not in WRITERS:
        raise ConfigError(f"layout {layout!r} is unknown; allowed: {', '.join(WRITERS)}")
    writer, form = WRITERS[layout], sae.inference_form()
    with new_folder(folder) as temporary:
        writer.write(form, temporary, metadata)
        written = read_any(temporary, layout=writer.layout, reference=str(temporary)).sae
        check = verify(form, (written.encode(probe_x), written(probe_x)), probe_x, where=f"{folder}, read back,")
        if importlib.util.find_spec(writer.module) is not None:
            theirs = writer.in_library(temporary, probe_x)
            check = verify(form, theirs, probe_x, where=f"{folder}, in {writer.module},")._replace(
                library=writer.module
            )
        kept = probe_x[:PROBE_ROWS]
        write_tensors(temporary / PROBE, {"x": kept, "x_hat": form(kept)})
    return check


def write_stack(
    general: SAE,
    domain: SAE,
    folder: Path,
    *,
    probe_x: Float[Tensor, "tokens d_in"],
    metadata: SAEMetadata,
    layout: str = "saelens",
) -> tuple[StackCheck, WriteCheck]:
    """Stack, compare with the two blocks, then `write_sae`. `metadata.fovea["job"]` names the second block.

    Raises:
        ConfigError, OSError: as `write_sae`.
        SAEError: as `stack` and `write_sae`, or the stack is not the sum of its blocks; then there is no folder.
    """
    one = stack(general, domain)
    found = verify_stack(general, domain, one, probe_x=probe_x)
    edges = (0, general.d_sae, one.d_sae)
    names = ("general", str(metadata.fovea.get("job", "domain")))
    blocks = [
        {"name": names[i], "start": edges[i], "stop": edges[i + 1], "sha256": fingerprint(sae)}
        for i, sae in enumerate((general, domain))
    ]
    said = metadata.model_copy(update={"fovea": {**metadata.fovea, "blocks": blocks}})
    return found, write_sae(one, folder, layout=layout, metadata=said, probe_x=probe_x)


@torch.no_grad()
def verify(sae: SAE, made: tuple[Tensor, Tensor], probe_x: Float[Tensor, "tokens d_in"], *, where: str) -> WriteCheck:
    """How `sae` and the latents and x_hat that something else made of `probe_x` differ.

    Raises:
        SAEError: the relative error of a token exceeds MAX_RELATIVE_ERROR, or a latent flips for more than rounding.
    """
    latents, x_hat = sae.encode(probe_x), sae(probe_x)
    differ = (latents > 0) != (made[0] > 0)
    ties = within_rounding(sae, probe_x, differ)
    n_flips, clean = int((differ & ~ties).sum()), ~differ.any(dim=1)
    relative = (made[1] - x_hat).norm(dim=1) / x_hat.norm(dim=1).clamp_min(1e-30)
    worst = float(relative[clean].max()) if bool(clean.any()) else 0.0
    if n_flips or not worst <= MAX_RELATIVE_ERROR:
        raise SAEError(
            f"{where} differs from the SAE: relative error {worst:.1e} (allowed {MAX_RELATIVE_ERROR:.0e}), {n_flips} "
            f"flipped latents (allowed 0) on {len(probe_x)} tokens; please report this"
        )
    return WriteCheck(len(probe_x), worst, n_flips, int(ties.sum()), None)


def _write_saelens(sae: SAE, folder: Path, metadata: SAEMetadata) -> None:
    save_sae(sae, folder, metadata=metadata)


def _write_sparsify(sae: SAE, folder: Path, metadata: SAEMetadata) -> None:
    tensors, cfg = sparsify.contents(sae, metadata, where="this SAE")
    write_tensors(folder / sparsify.WEIGHTS, tensors)
    write_json(folder / sparsify.CFG, cfg)


def _write_dictionary_learning(sae: SAE, folder: Path, metadata: SAEMetadata) -> None:
    tensors, config = dictionary_learning.contents(sae, metadata, where="this SAE")
    dictionary_learning.save_state_dict(tensors, folder / dictionary_learning.WEIGHTS)
    write_json(folder / dictionary_learning.CONFIG, config)


def _saelens(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    if read_cfg(folder)["architecture"] == ARCHITECTURE:
        importlib.import_module("fovea.sae.saelens_blocks").register()
    sae: Any = importlib.import_module("sae_lens").SAE.load_from_disk(str(folder))
    return sae.encode(x), sae(x)


def _sparsify(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    coder: Any = importlib.import_module("sparsify").SparseCoder.load_from_disk(folder)
    top, indices, _ = coder.encode(x)
    return torch.zeros(len(x), coder.num_latents).scatter(-1, indices, top), coder(x).sae_out


def _dictionary_learning(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    loaded: Any = importlib.import_module("dictionary_learning.utils").load_dictionary(str(folder), "cpu")[0]
    return loaded.encode(x), loaded(x)


WRITERS: Mapping[str, Writer] = {
    "saelens": Writer(_write_saelens, "sae_lens", "sae_lens", _saelens),
    "sparsify": Writer(_write_sparsify, "sparsify", "sparsify", _sparsify),
    "dictionary_learning": Writer(
        _write_dictionary_learning, "dictionary_learning", "dictionary_learning", _dictionary_learning
    ),
}
"""By the name that `fovea export --format` takes."""
