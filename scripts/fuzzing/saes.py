"""SAE files: every layout that is read, from the golden SAEs of other libraries."""

from pathlib import Path

import torch
from scripts.fuzzing.mutations import Files
from scripts.fuzzing.reader import Reader

from fovea.sae.files import load_sae

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "formats"


def seeds(folder: Path | None = None) -> dict[str, Files]:  # noqa: ARG001
    """One golden SAE of every kind: name -> the files of its folder."""
    found: dict[str, Files] = {}
    for truth in sorted(GOLDEN.glob("*/*/truth.safetensors")):
        paths = [path for path in truth.parent.rglob("*") if path.is_file() and path != truth]
        weights = max(paths, key=lambda path: path.stat().st_size)
        folder = weights.parent.parent if weights.parent.name == "checkpoints" else weights.parent
        found[str(truth.parent.relative_to(GOLDEN))] = {
            str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_relative_to(folder)
        }
    return found


def read(folder: Path, seed: str) -> None:
    """Load it, and run it on two tokens."""
    place = next(iter(folder.iterdir()), folder) if seed.startswith("openai") else folder
    sae = load_sae(place).sae
    with torch.no_grad():
        sae(torch.ones(2, sae.d_in))


SAES = Reader("sae", seeds, read, share=80)
