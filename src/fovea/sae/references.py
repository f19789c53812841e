"""What an SAE reference names.

FOLDER               any known layout (fovea.sae.formats.layouts), or a repository in a local cache of the Hub
bundled:NAME         weights that come with fovea
hf:OWNER/REPO/PATH   a folder of a Hugging Face repository, any known layout
saelens:RELEASE/ID   an SAE of the SAELens registry, read by sae_lens itself (extra "saelens")
LAYOUT:REFERENCE     the layout said instead of told by the files, as in sparsify:hf:OWNER/REPO/layers.3
"""

from pathlib import Path

from fovea.errors import SAEError, UnknownReferenceError
from fovea.foreign import Refusal, expanded
from fovea.sae.files import LoadedSAE, read_sae
from fovea.sae.formats.layouts import LAYOUTS, read_any

_PATH = Refusal(UnknownReferenceError, "give an existing folder")


def load(reference: str) -> LoadedSAE:
    """The SAE that `reference` names.

    Raises:
        UnknownReferenceError: the reference does not resolve.
        SAEError: what it resolves to cannot be used.
    """
    scheme, colon, rest = reference.partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](rest)._replace(reference=reference)
    layout, place = (scheme, rest) if colon and scheme in LAYOUTS else (None, reference)
    path = fetched(place.removeprefix("hf:")) if place.startswith("hf:") else expanded(place, _PATH)
    try:
        return read_any(path, layout=layout, reference=reference)
    except OSError as error:
        raise SAEError(f"SAE {reference!r} cannot be read ({error}); check the files and their permissions") from None


def _bundled(name: str) -> LoadedSAE:
    from fovea.bundled.general import general_folder

    return read_sae(general_folder(name))


def fetched(rest: str) -> Path:
    """Where the cache has what OWNER/REPO/PATH names, downloaded if need be; without a network, what is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    parts = rest.split("/")
    if len(parts) < 2 or not all(parts):
        raise UnknownReferenceError(f"SAE 'hf:{rest}' does not name a repository; write hf:OWNER/REPO/PATH")
    if any(part in (".", "..") or "\\" in part or any(c in part for c in "*?[") for part in parts):
        raise UnknownReferenceError(f"SAE 'hf:{rest}' is not a path inside a repository; write hf:OWNER/REPO/PATH")
    repository, path = "/".join(parts[:2]), "/".join(parts[2:])
    above = "/".join(parts[2:-1])
    patterns = [path, f"{path}/*", f"{above}/config.json".lstrip("/")] if path else ["*"]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns)) / path
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnknownReferenceError(
            f"SAE 'hf:{rest}' cannot be fetched ({error}); check the name and the network, or give a local folder"
        ) from error


def _saelens(rest: str) -> LoadedSAE:
    from fovea.sae.saelens import from_registry

    release, slash, sae_id = rest.partition("/")
    if not slash or not release or not sae_id:
        raise UnknownReferenceError(f"SAE 'saelens:{rest}' does not name an SAE; write saelens:RELEASE/ID")
    return from_registry(release, sae_id)


_SCHEMES = {"bundled": _bundled, "saelens": _saelens}
