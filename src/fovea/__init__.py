"""fovea: domain-specific sparse autoencoders, trained side by side, measured honestly, handed over.

    run = load_run(folder)            run.metrics(), run.sae(job), with run.patched(lm, job): ...
    lm, sae = load_lm(ref), load_sae(ref)      encode_text(lm, sae, text)

`import fovea` costs nothing: each function loads what it needs when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fovea.api import Encoding, Run
    from fovea.lm.model import LM
    from fovea.sae.files import LoadedSAE

__version__ = "0.1.0"

__all__ = ["encode_text", "load_lm", "load_run", "load_sae"]


def load_run(folder: str | Path) -> "Run":
    """A run folder: its settings, metrics and SAEs.

    Raises:
        ConfigError, RunError: the folder is not a run.
    """
    from fovea.api import Run

    return Run(Path(folder))


def load_lm(reference: str, *, device: str = "cpu") -> "LM":
    """A language model: Hub id, local folder or bundled:NAME.

    Raises:
        UnknownReferenceError, ModelError: it does not resolve, or its architecture is not supported.
    """
    from fovea.lm.load import load_lm

    return load_lm(reference, device=device)


def load_sae(reference: str) -> "LoadedSAE":
    """An SAE with what its file says about it: folder, saelens:RELEASE/ID, hf:OWNER/REPO/PATH or bundled:NAME.

    Raises:
        UnknownReferenceError, SAEError: it does not resolve, or cannot be used.
    """
    from fovea.sae.files import load_sae

    return load_sae(reference)


def encode_text(lm: "LM", sae: "LoadedSAE", text: str) -> "Encoding":
    """Tokens of `text` and their latents [tokens d_sae], at the hook point that the SAE's file names.

    Raises:
        SAEError: the file names no hook point.
    """
    from fovea.api import encode_text

    return encode_text(lm, sae, text)
