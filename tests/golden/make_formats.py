"""Golden SAEs of other libraries: their files, and what they compute on a fixed probe -> tests/golden/formats/.

    python tests/golden/make_formats.py sae_lens            sae-lens 6.54.12
    python tests/golden/make_formats.py dictionary_learning dictionary-learning 0.1.0
    python tests/golden/make_formats.py sparsify            eai-sparsify 1.3.3
    python tests/golden/make_formats.py llamascopium        llamascopium 2.0.0b34
    python tests/golden/make_formats.py openai              sparse_autoencoder/model.py of openai/sparse_autoencoder at
                                                            764586a on PYTHONPATH

Each in an environment with that library. Every case is a folder with the library's own files and truth.safetensors:
latents and x_hat as the library computes them after it has read those files back. versions.json says what made them.
tests/sae/formats/test_golden.py reads the files with ours and compares.
"""

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).with_name("formats")
SEED, D_IN, D_SAE, N_TOKENS, K = 0, 8, 24, 32, 4
SCALE = 0.37
"sqrt(d_in) over the mean length of x, where a library scales."

HOOK = "blocks.3.hook_resid_post"
MODEL = "EleutherAI/pythia-70m"

CASES: dict[str, dict[str, Callable[[Path], dict[str, Tensor]]]] = {}
"Library -> case -> what writes its files and returns the library's truth."


def case(library: str, name: str) -> Callable[[Callable[[Path], dict[str, Tensor]]], Callable[..., dict[str, Tensor]]]:
    """Register what makes a case."""

    def register(make: Callable[[Path], dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
        CASES.setdefault(library, {})[name] = make
        return make

    return register


def probe() -> Tensor:
    """Activation vectors with a mean far from zero, float32."""
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(N_TOKENS, D_IN, generator=generator) + torch.linspace(-1.0, 2.0, D_IN)


def weights() -> dict[str, Tensor]:
    """Weights by SAELens name, so that nothing cancels: rows of different lengths, biases, thresholds."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    return {
        "W_enc": normal(D_IN, D_SAE, scale=0.4),
        "W_dec": normal(D_SAE, D_IN, scale=0.5),
        "b_enc": normal(D_SAE, scale=0.3),
        "b_dec": normal(D_IN),
        "threshold": normal(D_SAE, scale=0.3).abs() + 0.1,
        "b_gate": normal(D_SAE, scale=0.3),
        "b_mag": normal(D_SAE, scale=0.3),
        "r_mag": normal(D_SAE, scale=0.3),
    }


def truth(latents: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    """What a case returns."""
    return {"latents": latents.detach().float().contiguous(), "x_hat": x_hat.detach().float().contiguous()}


def main(library: str) -> None:
    """Write all cases of one library."""
    module = f"{library}_cases"
    importlib.import_module(f"golden_{module}")
    FOLDER.mkdir(exist_ok=True)
    save_file({"x": probe()}, FOLDER / "probe.safetensors")
    for name, make in CASES[library].items():
        folder = FOLDER / library / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with torch.no_grad():
            save_file(make(folder), folder / "truth.safetensors")
    versions = FOLDER / "versions.json"
    known = json.loads(versions.read_text()) if versions.exists() else {}
    package = {"dictionary_learning": "dictionary-learning", "sparsify": "eai-sparsify", "sae_lens": "sae-lens"}
    made_by = "764586a" if library == "openai" else importlib.metadata.version(package.get(library, library))
    known[library] = {"version": made_by, "torch": torch.__version__, "seed": SEED}
    versions.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.modules["make_formats"] = sys.modules["__main__"]
    sys.path.insert(0, str(Path(__file__).parent))
    main(sys.argv[1])
