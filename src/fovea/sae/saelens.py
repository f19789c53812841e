"""SAEs of the SAELens registry: sae_lens reads them, we copy the tensors out and let it go."""

from importlib import import_module
from typing import Any

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.files import LoadedSAE, SAEMetadata
from fovea.sae.formats.saelens import converted


def from_registry(release: str, sae_id: str) -> LoadedSAE:
    """The SAE `sae_id` of `release`, folded by nothing but sae_lens's own loader.

    Raises:
        UnknownReferenceError: sae_lens is not installed, or does not know the release or id.
        SAEError: it uses a convention that we do not read.
    """
    try:
        sae_lens = import_module("sae_lens")
    except ImportError:
        raise UnknownReferenceError(
            f"SAE 'saelens:{release}/{sae_id}' needs the sae_lens package; install fovea-sae[saelens]"
        ) from None
    try:
        found = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu")
    except (ValueError, KeyError, OSError) as error:
        raise UnknownReferenceError(
            f"sae_lens cannot load release {release!r}, id {sae_id!r} ({error}); see its table of pretrained SAEs"
        ) from error
    return from_object(found, reference=f"saelens:{release}/{sae_id}")


def from_object(found: Any, *, reference: str) -> LoadedSAE:
    """A sae_lens SAE as ours: its tensors and the metadata that we know.

    Raises:
        SAEError: it uses a convention that we do not read.
    """
    cfg: dict[str, Any] = found.cfg.to_dict()
    if "architecture" not in cfg:
        raise SAEError(f"{reference}: the sae_lens object does not name its architecture; update sae_lens")
    tensors = {name: tensor.detach().float().cpu() for name, tensor in found.state_dict().items()}
    loaded = converted(cfg, tensors, where=reference).load("sae_lens", where=reference)
    said: dict[str, Any] = cfg.get("metadata", {})
    known = ("model_name", "hook_name", "hf_hook_name", "prepend_bos", "context_size", "training_architecture")
    metadata = SAEMetadata(
        **{key: said[key] for key in known if said.get(key) is not None}, fovea=loaded.metadata.fovea
    )
    return loaded._replace(metadata=metadata)
