"""A run whose SAEs lie on a second device: the results of a run on the CPU."""

import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fovea.errors import ConfigError
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.experiment.run import run_experiment
from fovea.experiment.sharing import sae_device
from fovea.train.loop import Interrupted
from tests.elsewhere import elsewhere
from tests.experiment.test_ranks import assert_same_results
from tests.experiment.tiny import experiment

JOBS = [
    {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 4}},
    {"method": {"kind": "direct"}, "sae": {"kind": "gated", "expansion": 2, "l1": 0.5}},
    {"method": {"kind": "direct"}, "sae": {"kind": "relu", "expansion": 2, "l1": 0.5}},
    {"method": {"kind": "finetune"}, "sae": {"kind": "batch_topk", "k": 4}},
    {"method": {"kind": "ssae", "silence": 0.25}, "sae": {"kind": "jumprelu", "expansion": 2, "target_l0": 2}},
    {"method": {"kind": "mix"}, "sae": {"kind": "topk", "expansion": 2, "k": 4}},
]


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


def config_with(folder: Path, *, lm: str = "cpu", **train) -> ExperimentConfig:
    tables = experiment(folder)
    tables["job"] = [{**job, "optimiser": {"dead_after_tokens": 256}} for job in JOBS]
    tables["lm"] |= {"device": lm}
    tables["train"] |= {"n_tokens": 1280, "checkpoint_seconds": 60.0} | train
    tables["evaluate"] |= {"n_resamples": 20, "density_tokens": 400}
    return resolve(tables | {"features": {"tokens": 400}}, where="test")


def run(config: ExperimentConfig, out: Path, *, resume: bool = False) -> None:
    torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other
    run_experiment(config, out, resume=resume)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> Path:
    """A run on the CPU."""
    folder = tmp_path_factory.mktemp("devices")
    run(config_with(folder), folder / "cpu")
    return folder / "cpu"


@pytest.mark.slow
def test_a_whole_run_on_another_device_ends_where_one_on_the_cpu_ends(on_cpu: Path):
    out = on_cpu.parent / "away"
    with elsewhere():
        run(config_with(on_cpu.parent, device="cuda"), out)
    assert_same_results(out, on_cpu)


@pytest.mark.slow
def test_a_run_stopped_on_one_device_goes_on_on_another(on_cpu: Path, monkeypatch):
    out, folder = on_cpu.parent / "moved", on_cpu.parent

    def stop(step: int, jobs, logs) -> None:
        del jobs, logs
        if step == 0:
            signal.raise_signal(signal.SIGTERM)

    with elsewhere(), monkeypatch.context() as patch:
        patch.setattr("fovea.experiment.fit._log_step", stop)
        with pytest.raises(Interrupted, match="stopped after step 1 of 10"):
            run(config_with(folder, device="cuda"), out)
    (saved,) = out.glob("checkpoints/*/step-00000001")
    tensors = [tensor for path in saved.glob("*.safetensors") for tensor in load_file(path).values()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    run(config_with(folder, device="cpu"), out, resume=True)
    assert_same_results(out, on_cpu)


@pytest.mark.parametrize(
    ("lm", "device", "said"),
    [
        ("cuda:7", "auto", "lm.device = 'cuda:7' cannot be used"),
        ("cpu", "cuda", "train.device = 'cuda' cannot be used"),
        ("cpu", "meta", "train.device = 'meta' cannot be used"),
        ("cpu", "gpu", "train.device = 'gpu' cannot be used"),
    ],
)
def test_a_device_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path, lm, device, said):
    with pytest.raises(ConfigError, match=said):
        run_experiment(config_with(tmp_path, lm=lm, device=device), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_saes_follow_the_lm_unless_told_otherwise(tmp_path: Path, monkeypatch):
    with elsewhere():
        assert sae_device(config_with(tmp_path, lm="cuda")).type == "cuda"
        assert sae_device(config_with(tmp_path, lm="cuda", device="cpu")).type == "cpu"
        assert sae_device(config_with(tmp_path, device="cuda")).type == "cuda"
        monkeypatch.setenv("LOCAL_RANK", "3")
        assert sae_device(config_with(tmp_path, lm="cuda")) == torch.device("cuda:3")
        assert sae_device(config_with(tmp_path, lm="cuda:1")) == torch.device("cuda:1")
    assert sae_device(config_with(tmp_path)).type == "cpu"
