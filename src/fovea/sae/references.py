"""What an SAE reference names.

FOLDER               the SAELens v6 layout
bundled:NAME         weights that come with fovea
hf:OWNER/REPO/PATH   a folder of a Hugging Face repository
saelens:RELEASE/ID   an SAE of the SAELens registry, read by sae_lens itself (extra "saelens")
"""

from pathlib import Path

from fovea.errors import UnknownReferenceError
from fovea.sae.files import LoadedSAE, read_sae


def load(reference: str) -> LoadedSAE:
    """The SAE that `reference` names.

    Raises:
        UnknownReferenceError: the reference does not resolve.
        SAEError: what it resolves to cannot be used.
    """
    scheme, colon, rest = reference.partition(":")
    if not colon or scheme not in _SCHEMES:
        return read_sae(_folder(reference))._replace(reference=reference)
    return _SCHEMES[scheme](rest)._replace(reference=reference)


def _folder(reference: str) -> Path:
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        raise UnknownReferenceError(
            f"SAE {reference!r} is not a folder; give a folder, bundled:NAME, hf:OWNER/REPO/PATH or saelens:RELEASE/ID"
        )
    return folder


def _bundled(name: str) -> LoadedSAE:
    from fovea.bundled.general import general_folder

    return read_sae(general_folder(name))


def _hub(rest: str) -> LoadedSAE:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    parts = rest.split("/")
    if len(parts) < 2 or not all(parts):
        raise UnknownReferenceError(f"SAE 'hf:{rest}' does not name a repository; write hf:OWNER/REPO/PATH")
    repository, path = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        snapshot = snapshot_download(repository, allow_patterns=[f"{path}/*" if path else "*"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnknownReferenceError(
            f"SAE 'hf:{rest}' cannot be fetched ({error}); check the name and the network, or give a local folder"
        ) from error
    return read_sae(Path(snapshot) / path)


def _saelens(rest: str) -> LoadedSAE:
    from fovea.sae.saelens import from_registry

    release, slash, sae_id = rest.partition("/")
    if not slash or not release or not sae_id:
        raise UnknownReferenceError(f"SAE 'saelens:{rest}' does not name an SAE; write saelens:RELEASE/ID")
    return from_registry(release, sae_id)


_SCHEMES = {"bundled": _bundled, "hf": _hub, "saelens": _saelens}
