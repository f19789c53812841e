"""What is this SAE: a description for people."""

from collections.abc import Mapping

from fovea.sae.base import SAE
from fovea.sae.blocks import BlocksSAE
from fovea.sae.files import LoadedSAE, fingerprint, load_sae

_TOKEN_NORMS = {
    "none": "none: reads raw activations",
    "layer_norm": "every token to mean 0 and deviation 1, and back (layer_norm); cannot be stacked or trained further",
    "constant_norm_rescale": "every token to length sqrt(d_in), and back; cannot be stacked or trained further",
}


def describe(reference: str) -> str:
    """Lines that say architecture, shapes, hook point, conventions and origin of an SAE.

    Raises:
        UnknownReferenceError: the reference does not resolve.
        SAEError: what it resolves to cannot be used.
    """
    loaded = load_sae(reference)
    return described({**_shape(loaded), **_place(loaded), **_origin(loaded)})


def described(facts: Mapping[str, str]) -> str:
    """Facts as lines of a name and what is so, aligned."""
    width = max(18, *map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def _shape(loaded: LoadedSAE) -> dict[str, str]:
    sae = loaded.sae
    trained_as = loaded.metadata.training_architecture
    trained = f", trained as {trained_as}" if trained_as and trained_as != sae.file_architecture else ""
    norms = sae.W_dec.norm(dim=1)
    own = "none" if sae.pre_bias is None else "a vector of its own"
    return {
        "SAE": loaded.reference,
        "architecture": sae.file_architecture + trained + _blocks(sae),
        "d_in": str(sae.d_in),
        "d_sae": f"{sae.d_sae} ({sae.d_sae / sae.d_in:g} x d_in)",
        "pre-bias": "b_dec" if sae.pre_bias_is_tied else own,
        "output bias": "b_dec" if sae.has_output_bias else "none (its output is added to another SAE's)",
        "decoder norms": f"{norms.min():.4g} to {norms.max():.4g}",
        "input scale": _TOKEN_NORMS[sae.token_norm],
    }


def _blocks(sae: SAE) -> str:
    """The rules of a stack whose latents compete."""
    if not isinstance(sae, BlocksSAE):
        return ""
    rules = [f"{block.size} with {f'k = {block.k}' if block.k else 'thresholds'}" for block in sae.blocks]
    return f": {' + '.join(rules)}; sae_lens reads it after `import fovea.saelens`"


def _place(loaded: LoadedSAE) -> dict[str, str]:
    metadata = loaded.metadata
    return {
        "lm": metadata.model_name or "not said",
        "hook point": metadata.hook_name or "not said",
        "Hugging Face module": metadata.hf_hook_name or "not said",
        "context size": "not said" if metadata.context_size is None else str(metadata.context_size),
        "BOS first": "not said" if metadata.prepend_bos is None else str(metadata.prepend_bos).lower(),
    }


def _origin(loaded: LoadedSAE) -> dict[str, str]:
    known = {**loaded.metadata.other, **loaded.metadata.fovea}
    lines = {str(name): str(value) for name, value in known.items() if name not in ("blocks", "converted")}
    blocks = known.get("blocks")
    for block in blocks if isinstance(blocks, list) else []:
        if isinstance(block, dict) and isinstance(block.get("stop"), int):
            lines[f"latents {block.get('start')} to {block['stop'] - 1}"] = (
                f"{block.get('name')} ({str(block.get('sha256'))[:12]})"
            )
    notes = known.get("converted")
    for number, note in enumerate(notes if isinstance(notes, list) else [], 1):
        lines[f"converted {number}"] = str(note)
    return {**lines, "sha256": fingerprint(loaded.sae)}
