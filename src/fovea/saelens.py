"""fovea's SAEs for whatever works with sae_lens: importing this module teaches sae_lens our block class.

    import fovea.saelens                        sae_lens.SAE.load_from_disk(FOLDER) reads stacks of topk too
    sae = fovea.saelens.to_saelens(reference)   any SAE that fovea reads, as a sae_lens.SAE: for SAEBench, SAEDashboard

Needs the package sae-lens (extra "saelens").
"""

import tempfile
from pathlib import Path
from typing import Any

from fovea.sae.files import LoadedSAE, load_sae, save_sae
from fovea.sae.saelens_blocks import register

register()


def to_saelens(sae: str | Path | LoadedSAE) -> Any:
    """A `sae_lens.SAE` that computes what fovea's does: of a reference (folder, hf:, bundled:, ...) or a loaded SAE.

    Raises:
        UnknownReferenceError, SAEError: it does not resolve, or cannot be used.
    """
    from sae_lens import SAE  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    loaded = sae if isinstance(sae, LoadedSAE) else load_sae(sae)
    with tempfile.TemporaryDirectory() as folder:
        save_sae(loaded.sae, Path(folder), metadata=loaded.metadata)
        found: Any = SAE.load_from_disk(folder)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return found
