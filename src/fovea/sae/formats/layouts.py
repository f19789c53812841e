"""Which layouts there are, how each is known by its files, and how it is read.

path --(named, or known by its files)--> layout --read--> Plain --> LoadedSAE
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.files import CFG, WEIGHTS, LoadedSAE
from fovea.sae.formats import dictionary_learning, gemma_scope, llamascopium, openai, saelens, sparsify
from fovea.sae.formats.guard import existing_folder
from fovea.sae.formats.plain import Plain


class Layout(NamedTuple):
    """How a library keeps one SAE."""

    is_it: Callable[[Path], bool]
    read: Callable[[Path], Plain]
    files: str
    "What marks it, for messages."


LAYOUTS: Mapping[str, Layout] = {
    "sae_lens": Layout(saelens.is_layout, saelens.read, f"{CFG} + {WEIGHTS}"),
    "sparsify": Layout(sparsify.is_layout, sparsify.read, "cfg.json + sae.safetensors"),
    "dictionary_learning": Layout(dictionary_learning.is_layout, dictionary_learning.read, "ae.pt + config.json"),
    "gemma_scope": Layout(gemma_scope.is_1, gemma_scope.read_1, "params.npz"),
    "gemma_scope_2": Layout(gemma_scope.is_2, gemma_scope.read_2, "params.safetensors + config.json"),
    "llamascopium": Layout(llamascopium.is_layout, llamascopium.read, "config.json + sae_weights.safetensors"),
    "openai": Layout(openai.is_layout, openai.read, "a .pt file"),
}
"""By the name that a reference may begin with. Tried in this order."""

_INNER = ("params.npz", "params.safetensors", "ae.pt", "sae.safetensors", WEIGHTS, CFG)
"Files that stand for the folder they are in."

MAX_LISTED = 20


def read_any(path: Path, *, layout: str | None = None, reference: str) -> LoadedSAE:
    """The SAE at `path`: a folder, a repository in a local cache of the Hub, or the file that holds the weights.

    Args:
        layout: Name of the layout; None to tell it by the files.

    Raises:
        UnknownReferenceError: there is nothing, or no known layout.
        SAEError: what is there cannot be used.
    """
    place = _place(path, reference)
    name = _detected(place, reference) if layout is None else layout
    return LAYOUTS[name].read(place).load(name, where=reference)


def _place(path: Path, reference: str) -> Path:
    if path.is_file():
        return path.parent if path.name in _INNER else path
    if not path.is_dir():
        raise UnknownReferenceError(
            f"SAE {reference!r} is not a folder; give a folder, bundled:NAME, hf:OWNER/REPO/PATH or saelens:RELEASE/ID"
        )
    return existing_folder(path)


def _detected(place: Path, reference: str) -> str:
    for name, layout in LAYOUTS.items():
        if layout.is_it(place):
            return name
    marks = "; ".join(f"{name}: {layout.files}" for name, layout in LAYOUTS.items())
    if place.is_dir() and (inside := _inside(place)):
        raise UnknownReferenceError(
            f"{reference!r} holds no {CFG}, but several SAEs: {inside}; give one of these folders"
        )
    if place.is_dir() and (place / CFG).is_file():
        raise SAEError(f"{place / WEIGHTS} is missing beside {CFG}; write or download the SAE again")
    raise UnknownReferenceError(
        f"{reference!r} holds no {CFG} or other files of an SAE; the layouts that are read are {marks}"
    )


def _inside(folder: Path) -> str:
    """Names of the folders in `folder` that hold an SAE, if any."""
    marks = {"params.npz", "params.safetensors", "ae.pt", "sae.safetensors", WEIGHTS}
    names = [
        each.name for each in sorted(folder.iterdir()) if each.is_dir() and any((each / m).exists() for m in marks)
    ]
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
