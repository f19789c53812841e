"""kill -9 at random moments, then --resume: the same bytes of weights and metrics as a run that was never stopped.

The commands run in children of one process that has imported fovea, so that 20 kills do not cost 20 imports.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from fovea.experiment.config import resolve
from tests.experiment.nursery import Nursery, result_hash
from tests.experiment.tiny import experiment

N_KILLS = 20


@pytest.fixture(scope="module")
def nursery():
    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def straight(nursery, tmp_path_factory) -> tuple[Path, str, float]:
    """The experiment file, the hash of an uninterrupted run and the seconds it took."""
    folder = tmp_path_factory.mktemp("resume")
    path = folder / "experiment.toml"
    tables = experiment(folder)
    tables["job"] = [
        {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 4}},
        {"method": {"kind": "ssae", "silence": 0.25}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 2}},
    ]
    tables["train"].update(n_tokens=3200, checkpoint_seconds=0.05)
    path.write_text(resolve(tables, where="test").to_toml())
    for name in ("first", "straight"):  # the first one also waits for the imports
        began = time.monotonic()
        nursery.start("run", str(path), "--out", str(folder / name))
        assert nursery.wait() == 0
    return path, result_hash(folder / "straight"), time.monotonic() - began


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lead_to_one_final_hash(nursery, straight, tmp_path):
    path, wanted, seconds = straight
    draw = random.Random(0)
    kills = 0
    attempt = 0
    while kills < N_KILLS:
        out = tmp_path / f"run-{attempt}"
        attempt += 1
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            child = nursery.start("run", str(path), "--out", str(out), "--resume")
            if not nursery.ends_within(draw.uniform(0.02, 1.1) * seconds):
                os.kill(child, signal.SIGKILL)
            code = nursery.wait()
            kills += code == -signal.SIGKILL
        assert code == 0
        assert result_hash(out) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_exits_130_and_resumes_to_the_same_bytes(nursery, straight, tmp_path, number):
    path, wanted, _ = straight
    out = tmp_path / "run"
    child = nursery.start("run", str(path), "--out", str(out))
    while not list(out.glob("checkpoints/*/step-*")) and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    os.kill(child, number)
    assert nursery.wait() == 130
    nursery.start("run", str(path), "--out", str(out), "--resume")
    assert nursery.wait() == 0
    assert result_hash(out) == wanted


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_written_and_a_second_one_harm_nothing(nursery, straight, tmp_path):
    path, wanted, _ = straight
    out = tmp_path / "run"
    for n_signals in (1, 2, 3):
        child = nursery.start("run", str(path), "--out", str(out), "--resume")
        while not list(out.glob("checkpoints/words/.*.partial")) and not (out / "metrics.jsonl").exists():
            pass
        for _ in range(n_signals):
            os.kill(child, signal.SIGTERM)
            time.sleep(0.002)
        assert nursery.wait() == 130
    assert nursery.run("run", str(path), "--out", str(out), "--resume") == 0
    assert result_hash(out) == wanted
