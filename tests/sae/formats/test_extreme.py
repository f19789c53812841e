"""Weights that float32 can barely hold, in every layout: read as they are, or refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fovea.errors import SAEError
from fovea.sae.files import load_sae
from tests.sae.formats.golden import READ, path_of

EXTREME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "huge": lambda weights: torch.full_like(weights, 3e38),
    "large": lambda weights: weights * (1e38 / weights.abs().max()),
    "denormal": lambda weights: weights * 1e-42,
    "zero": torch.zeros_like,
    "a zero row and column": lambda weights: weights.index_fill(0, ZERO, 0.0).index_fill(1, ZERO, 0.0),
}
ZERO = torch.tensor([0])


@pytest.mark.parametrize("extreme", EXTREME)
@pytest.mark.parametrize("case", [case for case in READ if list(path_of(case).glob("*.safetensors"))][::4])
def test_extreme_weights_are_refused_or_read_as_they_are(case: str, extreme: str, tmp_path: Path) -> None:
    shutil.copytree(path_of(case), tmp_path / "sae")
    for path in (tmp_path / "sae").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        changed = {
            name: EXTREME[extreme](tensor) if tensor.ndim == 2 and tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(changed, path, metadata=metadata)
    sae, said = None, ""
    try:
        sae = load_sae(tmp_path / "sae").sae
    except SAEError as error:
        said = str(error)
    if sae is None:
        assert "NaN or infinite" in said
        return
    assert all(tensor.isfinite().all() for tensor in sae.state_dict().values())
    if extreme not in ("huge", "large"):
        assert sae(torch.randn(3, sae.d_in)).isfinite().all()
