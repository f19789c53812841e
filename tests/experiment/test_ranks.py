"""A whole run on two ranks: what one process ends in, and what a lost rank does to it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fovea.cli
import fovea.experiment.run  # noqa: F401  (forked children find it imported)
from fovea.config import load_toml
from fovea.data.activations import ActivationChunks
from fovea.errors import ConfigError
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.experiment.sharing import settle
from fovea.ranks import ALONE, Ranks
from tests.experiment.test_resume import result_hash
from tests.experiment.tiny import experiment
from tests.ranked import fork_ranks


def command(*arguments: str) -> int:
    """The command line in this process, its output in a file beside the run; the exit code."""
    sys.modules["vl_convert"] = None  # as without the report extra
    sys.argv = ["fovea", *arguments]
    out = Path(arguments[arguments.index("--out") + 1])
    with (out.parent / f"said-{out.name}-{os.environ.get('RANK')}").open("w") as said:
        sys.stdout = sys.stderr = said
        try:
            fovea.cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def codes(n_ranks: int, *arguments: str, until=None) -> list[int]:
    """Exit codes of the command on so many ranks; `until(processes)` may interfere. Killed: minus the signal."""
    started = fork_ranks(n_ranks, command, *arguments)
    if until is not None:
        until([process for process, _ in started])
    found = []
    for process, pipe in started:
        try:
            found.append(pipe.recv())
            process.join()
        except EOFError:
            process.join()
            found.append(process.exitcode)
    return found


def when_saved(out: Path, then) -> None:
    """Do `then` as soon as there is a checkpoint."""
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/*/step-*")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    then()


def tables(folder: Path) -> dict:
    made = experiment(folder)
    made["job"] = [
        {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 4}},
        {"method": {"kind": "mix"}, "sae": {"kind": "jumprelu", "expansion": 2, "target_l0": 3}},
    ]
    made["train"].update(n_tokens=6400, checkpoint_seconds=0.05, shards=2, rank_timeout_seconds=60.0)
    made["evaluate"].update(n_resamples=20)
    return made


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, Path]:
    """The experiment file and a run of it on two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("ranks")
    path = folder / "experiment.toml"
    path.write_text(resolve(tables(folder), where="test").to_toml())
    assert codes(2, "run", str(path), "--out", str(folder / "two")) == [0, 0]
    return path, folder / "two"


def assert_same_results(found: Path, wanted: Path) -> None:
    """Weights to rounding, metrics to what that moves them."""
    files = sorted(wanted.glob("saes/*/sae_weights.safetensors"))
    assert files
    for path in files:
        weights = load_file(found / path.relative_to(wanted))
        for name, tensor in load_file(path).items():
            np.testing.assert_allclose(
                weights[name], tensor, rtol=1e-4, atol=1e-5, err_msg=f"{path.parent.name} {name}"
            )
    records, others = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (found, wanted)
    )
    assert len(records) == len(others)
    for record, other in zip(records, others, strict=True):
        where = (record["job"], record["metric"], record["corpus"], record["split"])
        assert where == (other["job"], other["metric"], other["corpus"], other["split"])
        assert (record["n_tokens"], record["n_documents"]) == (other["n_tokens"], other["n_documents"])
        if record["value"] is None or other["value"] is None:
            assert record["value"] == other["value"], where
        else:
            assert record["value"] == pytest.approx(other["value"], rel=1e-3, abs=1e-4), where


@pytest.mark.slow
def test_two_ranks_end_where_one_process_ends(straight, tmp_path):
    path, two = straight
    assert codes(1, "run", str(path), "--out", str(tmp_path / "one")) == [0]
    assert_same_results(tmp_path / "one", two)
    ledgers = [
        json.loads(next(run.glob("saes/direct*/job.json")).read_text())["ledger"] | {"seconds": 0}
        for run in (tmp_path / "one", two)
    ]
    assert ledgers[0] == pytest.approx(ledgers[1])
    assert {file.name for file in (tmp_path / "one" / "features").rglob("*.parquet")} == {
        file.name for file in (two / "features").rglob("*.parquet")
    }


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_3_and_resume_ends_in_the_same_bytes(straight, tmp_path):
    path, two = straight
    out = tmp_path / "run"
    arguments = ("run", str(path), "--out", str(out))
    kill = codes(2, *arguments, until=lambda ranks: when_saved(out, lambda: os.kill(ranks[1].pid, signal.SIGKILL)))
    assert kill == [3, -signal.SIGKILL]
    said = (tmp_path / "said-run-0").read_text()
    assert "lost another rank during" in said
    assert "--resume" in said
    assert codes(2, *arguments, "--resume") == [0, 0]
    assert result_hash(out) == result_hash(two)


@pytest.mark.slow
def test_a_run_begun_on_two_ranks_goes_on_in_one_process(straight, tmp_path):
    path, two = straight
    out = tmp_path / "run"
    arguments = ("run", str(path), "--out", str(out))
    stop = codes(2, *arguments, until=lambda ranks: when_saved(out, lambda: os.kill(ranks[1].pid, signal.SIGTERM)))
    assert stop == [130, 130]
    assert codes(1, *arguments, "--resume") == [0]
    assert_same_results(out, two)


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Chunks for which the lm ran, in any process: what it returns reads and forgets them."""
    path, make = tmp_path / "made", ActivationChunks._made

    def noted(self: ActivationChunks, index: int):
        with path.open("a") as file:
            file.write(f"{self.packed.fingerprint} {index}\n")
        return make(self, index)

    def read() -> list[str]:
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(ActivationChunks, "_made", noted)
    return read


def with_settings(path: Path, tmp_path: Path, *, k: int = 4, **train) -> Path:
    """The experiment in `path` with other settings."""
    changed = load_toml(path)
    changed["train"] |= train
    changed["job"][0]["sae"]["k"] = k
    other = tmp_path / f"experiment-{k}.toml"
    other.write_text(resolve(changed, where="test").to_toml())
    return other


@pytest.mark.slow
def test_ranks_share_a_cache_and_a_second_run_on_any_number_of_them_never_runs_the_lm(straight, tmp_path, made):
    path, two = straight
    cache = tmp_path / "cache"
    first = with_settings(path, tmp_path, cache_folder=str(cache))
    assert codes(2, "run", str(first), "--out", str(tmp_path / "first")) == [0, 0]
    chunks = made()
    assert len(set(chunks)) == len(list(cache.glob("*/chunk-*")))
    assert len(chunks) <= len(set(chunks)) + 1, "a rank that is dealt no chunk of held-out text may make one again"
    assert not list(cache.rglob("*.partial"))
    assert result_hash(tmp_path / "first") == result_hash(two)
    other = with_settings(path, tmp_path, cache_folder=str(cache), k=2)
    assert codes(2, "run", str(other), "--out", str(tmp_path / "other")) == [0, 0]
    assert made() == []
    assert codes(1, "run", str(other), "--out", str(tmp_path / "alone")) == [0]
    assert made() == []
    assert_same_results(tmp_path / "alone", tmp_path / "other")


@pytest.mark.slow
def test_ranks_that_read_ahead_end_in_the_same_bytes(straight, tmp_path):
    path, two = straight
    ahead = with_settings(path, tmp_path, read_ahead=2, cache_gigabytes=0.0)
    assert codes(2, "run", str(ahead), "--out", str(tmp_path / "ahead")) == [0, 0]
    assert result_hash(tmp_path / "ahead") == result_hash(two)


@pytest.mark.slow
def test_four_ranks_that_spread_latents_measure_what_one_process_measures(straight, tmp_path):
    path, _ = straight
    four = with_settings(path, tmp_path, shards=4, latent_shards=2)
    assert codes(4, "run", str(four), "--out", str(tmp_path / "four")) == [0] * 4
    one = with_settings(path, tmp_path, shards=4)
    assert codes(1, "run", str(one), "--out", str(tmp_path / "one")) == [0]
    assert_same_results(tmp_path / "four", tmp_path / "one")


class Several(Ranks):
    """So many ranks that are never asked for anything."""

    def __init__(self, size: int) -> None:
        self.size = size


def config_with(tmp_path: Path, **train: object) -> ExperimentConfig:
    made = tables(tmp_path)
    made["train"] |= train
    return resolve(made, where="test")


def test_shards_are_fixed_when_a_run_begins(tmp_path):
    config = config_with(tmp_path, shards="auto")
    assert settle(config, tmp_path / "run", ALONE).train.shards == 1
    settled = settle(config, tmp_path / "run", Several(4))
    assert settled.train.shards == 4
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.toml").write_text(settled.to_toml())
    assert settle(config, tmp_path / "run", Several(2)) == settled


@pytest.mark.parametrize(
    ("train", "size", "said"),
    [
        ({"shards": 3}, 2, "cannot be shared out to 2 ranks"),
        ({"shards": 6}, 2, "equal parts"),
        ({"shards": 2, "latent_shards": 3}, 2, "start a multiple of it"),
        ({"shards": 128}, 2, "which 128 shards cannot give in equal parts"),
    ],
)
def test_what_cannot_be_shared_out_is_said(tmp_path, train, size, said):
    with pytest.raises(ConfigError, match=said):
        settle(config_with(tmp_path, **train), tmp_path / "run", Several(size))
