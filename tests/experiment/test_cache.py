"""Runs that share activations: another seed and sparsity pays for no forward of the lm over training text."""

import json
import sys
from pathlib import Path

import pytest

from fovea.data.activations import ActivationChunks
from fovea.errors import ConfigError
from fovea.experiment.config import resolve
from fovea.experiment.run import run_experiment
from tests.experiment.test_resume import result_hash
from tests.experiment.tiny import experiment


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Corpus and split of every chunk for which the lm ran."""
    found: list[str] = []
    make = ActivationChunks._made

    def noted(self: ActivationChunks, index: int):
        found.append(f"{self.packed.name} {self.packed.split}")
        return make(self, index)

    monkeypatch.setattr(ActivationChunks, "_made", noted)
    return found


def _run(folder: Path, name: str, *, k: int = 4, seed: int = 0, **train) -> Path:
    tables = experiment(folder)
    tables["job"] = [
        {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": k}, "seed": seed},
        {"method": {"kind": "mix"}, "sae": {"kind": "topk", "expansion": 2, "k": k}, "seed": seed},
    ]
    tables["text"] |= train.pop("text", {})
    tables["domain"][0]["max_train_tokens"] = tables["general"]["max_train_tokens"] = 1024  # all of it is read
    tables["train"] |= {"n_tokens": 1280, "checkpoint_seconds": 60.0} | train
    tables["evaluate"] |= {"heldout_tokens": 128, "train_tokens": 64, "general_tokens": 128, "density_tokens": 400}
    run_experiment(resolve(tables | {"seed": seed, "features": False, "controls": False}, where="test"), folder / name)
    return folder / name


@pytest.mark.slow
def test_another_seed_and_sparsity_never_runs_the_lm_again_and_a_cache_changes_no_byte(tmp_path: Path, made):
    plain = _run(tmp_path, "plain")
    n_plain = len(made)
    made.clear()
    cached = _run(tmp_path, "cached", cache_folder=str(tmp_path / "cache"))
    assert len(made) == n_plain > 0
    assert result_hash(cached) == result_hash(plain)
    made.clear()
    other = _run(tmp_path, "other", k=2, seed=7, cache_folder=str(tmp_path / "cache"))
    assert made == []
    assert result_hash(other) != result_hash(plain)
    _run(tmp_path, "longer", cache_folder=str(tmp_path / "cache"), text={"context_size": 20})
    assert {"words train", "general train"} <= set(made)


@pytest.mark.slow
def test_reading_ahead_and_a_measured_batch_change_no_byte(tmp_path: Path, made):
    chosen = _run(tmp_path, "chosen", text={"contexts_per_batch": "auto"}, cache_folder=str(tmp_path / "cache"))
    size = json.loads((chosen / "calibration" / "batch.json").read_text())["contexts_per_batch"]
    said = _run(tmp_path, "said", text={"contexts_per_batch": size}, cache_gigabytes=0, read_ahead=2)
    assert result_hash(said) == result_hash(chosen)
    made.clear()
    again = _run(tmp_path, "again", text={"contexts_per_batch": "auto"}, cache_folder=str(tmp_path / "cache"), seed=3)
    assert json.loads((again / "calibration" / "batch.json").read_text())["contexts_per_batch"] == size
    assert made == [], "the choice is shared with the activations"


def test_a_folder_that_may_hold_nothing_is_refused(tmp_path: Path):
    tables = experiment(tmp_path)
    tables["train"] |= {"cache_folder": "somewhere", "cache_gigabytes": 0}
    with pytest.raises(ConfigError, match="keeps nothing"):
        resolve(tables, where="test")
