"""What a half-finished run does when its folder, its corpus, its lm or the disk is not what it was."""

import errno
import json
import logging
import os
import shutil
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fovea.cli import app
from fovea.errors import DamagedError, RunError
from fovea.eval.records import read_metrics
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.experiment.fit import remove_working_files
from fovea.experiment.folder import RunFolder, hold_run
from fovea.experiment.run import run_experiment
from fovea.experiment.sharing import settle
from fovea.features.config import FeaturesConfig
from fovea.ranks import ALONE
from fovea.report.rundata import read_run
from fovea.train.checkpoint import save_checkpoint
from tests.experiment.nursery import result_hash
from tests.experiment.tiny import experiment

pytestmark = pytest.mark.slow

JOB = {"method": {"kind": "ssae", "silence": 0.25}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 2}}


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """As without the report extra: figures have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    tables = experiment(tmp_path_factory.mktemp("crash"), job=[JOB], controls=False, features=False)
    tables["domain"][0]["max_train_tokens"] = 1024  # less than is trained on, so that every chunk is read again
    tables["train"] = {"n_tokens": 2560, "batch_size": 128, "buffer_rows": 256, "checkpoint_seconds": 1e-6}
    return resolve(tables, where="test")


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    run_experiment(config, out)
    return out


def stopped_after_a_checkpoint(config: ExperimentConfig, out: Path, *, n_checkpoints: int = 3) -> Path:
    """A run that was stopped in training, right after some checkpoint."""
    left = n_checkpoints

    def save_and_stop(*arguments, **named):
        nonlocal left
        save_checkpoint(*arguments, **named)
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fovea.train.loop.save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, out)
    return out


@pytest.fixture(scope="module")
def half(config, tmp_path_factory) -> Path:
    return stopped_after_a_checkpoint(config, tmp_path_factory.mktemp("half") / "run")


@pytest.fixture
def folder(half, tmp_path) -> Path:
    """A copy of the half-finished run."""
    shutil.copytree(half, tmp_path / "run")
    return tmp_path / "run"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [cut, flip, empty, Path.unlink]


def said(run: Path) -> str:
    """What the log of a run warns of."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return "\n".join(line["message"] for line in lines if line["level"] == "warning")


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize(
    "name",
    [
        "calibration/filter.json",
        "calibration/general.safetensors",
        "calibration/words.safetensors",
        "activations/words/chunk-*.safetensors",
        "activations/words/manifest.json",
        "general/sae_weights.safetensors",
        "provenance.json",
    ],
)
def test_a_damaged_file_that_can_be_made_again_is_said_and_made_again(straight, config, folder, name, damage):
    path = min(folder.glob(name))
    damage(path)
    run_experiment(config, folder, resume=True)
    assert "damaged" in said(folder)
    assert str(path) in said(folder) or f"{path.parent} is damaged" in said(folder)
    assert result_hash(folder) == result_hash(straight)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    [
        "corpora/words/train.tokens.u32",
        "corpora/general/heldout.documents.i32",
        "corpora/words/manifest.json",
        "checkpoints/words/step-*/state.json",
        "checkpoints/words/step-*/tensors.safetensors",
        "checkpoints/words/step-*/shard-0000.safetensors",
    ],
)
def test_a_damaged_file_that_decides_the_result_is_refused_with_what_to_do(straight, config, folder, name, damage):
    path = next(folder.glob(name))
    damage(path)
    with pytest.raises(RunError, match="delete") as refused:
        run_experiment(config, folder, resume=True)
    assert str(path.parent) in str(refused.value)
    if damage is flip:
        shutil.rmtree(path.parent)
        run_experiment(config, folder, resume=True)
        assert result_hash(folder) == result_hash(straight)


def test_a_torn_last_line_of_the_metrics_is_said_and_written_again(straight, config, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    cut(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(RunError, match="(?s)line .*--resume"):
        read_metrics(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(RunError, match="(?s)line .*--resume"):
        read_run(tmp_path / "run")
    run_experiment(config, tmp_path / "run", resume=True)
    assert result_hash(tmp_path / "run") == result_hash(straight)


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize(
    "name", ["evaluation/words/words-heldout.safetensors", "evaluation/words/firing-*.safetensors"]
)
def test_a_damaged_part_of_the_evaluation_is_measured_again(straight, config, tmp_path, name, damage):
    shutil.copytree(straight, tmp_path / "run")
    damage(next((tmp_path / "run").glob(name)))
    run_experiment(config, tmp_path / "run", resume=True)
    assert "damaged" in said(tmp_path / "run")
    assert result_hash(tmp_path / "run") == result_hash(straight)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("sae_weights.safetensors", flip),
        ("sae_weights.safetensors", cut),
        ("sae_weights.safetensors", Path.unlink),
        ("job.json", flip),
        ("job.json", Path.unlink),
    ],
)
def test_a_damaged_sae_is_not_measured_and_can_be_trained_again(straight, config, tmp_path, name, damage):
    shutil.copytree(straight, tmp_path / "run")
    folder = tmp_path / "run" / "saes" / config.job[0].name
    damage(folder / name)
    if (name, damage) != ("job.json", Path.unlink):  # without its record a job counts as one that has not been saved
        with pytest.raises(DamagedError, match=f"damaged.*delete .*{folder.name}"):
            run_experiment(config, tmp_path / "run", resume=True)
        shutil.rmtree(folder)
    run_experiment(config, tmp_path / "run", resume=True)
    assert result_hash(tmp_path / "run") == result_hash(straight)


def test_a_torn_line_of_the_log_stays_alone(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"level": "info", "mess')
    with hold_run(tmp_path):
        logging.getLogger("fovea").info("on we go")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines[0] == '{"level": "info", "mess'
    assert json.loads(lines[1])["message"] == "on we go"


def test_a_changed_corpus_is_refused_with_what_changed(config, folder):
    corpus = folder.parent / "domain.jsonl"
    shutil.copy(config.domain[0].corpus, corpus)
    moved = config.model_copy(update={"domain": (config.domain[0].model_copy(update={"corpus": str(corpus)}),)})
    (folder / "experiment.toml").write_text(settle(moved, folder.parent / "none", ALONE).to_toml())
    corpus.write_text(json.dumps({"text": "w3 w4 w5 " * 20}) + "\n" + corpus.read_text())
    with pytest.raises(RunError, match="content of domain.jsonl.*put the old text or settings back"):
        run_experiment(moved, folder, resume=True)
    shutil.rmtree(folder / "corpora" / "words")
    shutil.rmtree(folder / "activations")
    with pytest.raises(RunError, match="tokens of corpus 'words' are not those that this run began with"):
        run_experiment(moved, folder, resume=True)


def test_a_changed_lm_is_refused_even_where_no_activations_are_kept(config, tmp_path):
    shutil.copytree(config.lm.model, tmp_path / "lm")
    changes = {
        "lm": config.lm.model_copy(update={"model": str(tmp_path / "lm")}),
        "train": config.train.model_copy(update={"cache_gigabytes": 0.0}),
    }
    moved = config.model_copy(update=changes)
    stopped_after_a_checkpoint(moved, tmp_path / "run")
    weights = tmp_path / "lm" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] += 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(RunError, match="the lm has changed since this run began.*fingerprint.*->.*new folder"):
        run_experiment(moved, tmp_path / "run", resume=True)


def test_a_changed_g_is_refused(config, folder, tmp_path):
    shutil.copytree(config.general.sae, tmp_path / "g")
    moved = config.model_copy(update={"general": config.general.model_copy(update={"sae": str(tmp_path / "g")})})
    (folder / "experiment.toml").write_text(settle(moved, tmp_path / "none", ALONE).to_toml())
    tensors = load_file(tmp_path / "g" / "sae_weights.safetensors")
    tensors["b_dec"] += 1e-3
    save_file(tensors, tmp_path / "g" / "sae_weights.safetensors")
    with pytest.raises(RunError, match="the general SAE has changed since this run began.*->.*put the old one back"):
        run_experiment(moved, folder, resume=True)


def test_changed_settings_are_refused_from_what_to_what(config, folder):
    train = config.train.model_copy(update={"n_tokens": 5120, "buffer_rows": 512})
    with pytest.raises(RunError, match=r"train.n_tokens: 2560 -> 5120; train.buffer_rows: 256 -> 512"):
        run_experiment(config.model_copy(update={"train": train}), folder, resume=True)


def test_a_file_that_lacks_a_setting_of_today_is_the_same_experiment_at_its_default(config, folder):
    text = (folder / "experiment.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("rank_timeout_seconds")]
    assert len(lines) == len(text.splitlines()) - 1
    (folder / "experiment.toml").write_text("\n".join(lines) + "\n")
    run_experiment(config, folder, resume=True)


def test_changed_code_and_packages_are_said_and_noted_and_the_run_goes_on(straight, config, folder, monkeypatch):
    monkeypatch.setattr("fovea.experiment.provenance._code", lambda: "0123456789ab")
    monkeypatch.setattr("fovea.experiment.provenance._version", {"torch": "99.1"}.get)
    run_experiment(config, folder, resume=True)
    assert f"torch {version('torch')} -> 99.1" in said(folder)
    assert "code of fovea" in said(folder)
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert "changed" not in starts[0]
    assert "-> 0123456789ab" in starts[1]["changed"]
    assert result_hash(folder) == result_hash(straight)
    run_experiment(config, folder, resume=True)
    assert "changed" not in json.loads((folder / "provenance.json").read_text())["starts"][2]


@pytest.mark.parametrize("name", [".experiment.toml.71.partial", ".lock", "log.jsonl"])
def test_a_folder_in_which_a_kill_left_no_run_yet_can_be_started(config, tmp_path, name):
    (tmp_path / name).write_text("")
    run_experiment(config, tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_kill_while_working_files_are_removed_leaves_all_or_none(straight, config, tmp_path, monkeypatch):
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "activations" / "words").mkdir(parents=True)
    for name in ("manifest.json", "chunk-000000.safetensors"):
        (tmp_path / "run" / "activations" / "words" / name).write_text("{}")

    def killed(path: Path, **_):
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("fovea.atomic.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_working_files(RunFolder(tmp_path / "run"))
    monkeypatch.undo()
    assert not (tmp_path / "run" / "activations").exists()
    run_experiment(config, tmp_path / "run", resume=True)
    assert not list((tmp_path / "run").glob("**/*.partial"))


def test_a_disk_that_is_full_at_any_write_is_one_error_and_costs_nothing_that_was_finished(
    straight, config, tmp_path, monkeypatch
):
    """Every write ends in fsync, which fails once at the first and once at the third file of each part of the run."""
    real, n_written, places = os.fsync, Counter(), set()
    config = config.model_copy(update={"features": FeaturesConfig(tokens=200)})
    out = tmp_path / "run"

    def fsync(descriptor: int) -> None:
        folders = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(out).parent.parts
        n_written[folders[:1]] += 1
        if n_written[folders[:1]] in (1, 3):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr("fovea.atomic.os.fsync", fsync)
    is_finished = False
    while not is_finished:
        try:
            run_experiment(config, out, resume=True)
            is_finished = True
        except OSError as error:
            places.add((error.errno, Path(error.filename).relative_to(out).parts[0]))
        left_over = list(out.rglob("*.partial"))
        assert not left_over
    assert result_hash(out) == result_hash(straight)
    assert {(errno.ENOSPC, name) for name in ("checkpoints", "features")} < places, "the test shows nothing"


def test_activations_that_a_full_disk_cannot_keep_are_computed_each_time(straight, config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fovea.data.store.write_tensors", full)
    run_experiment(config, tmp_path / "run")
    assert "no more activations are kept" in said(tmp_path / "run")
    assert result_hash(tmp_path / "run") == result_hash(straight)


def test_a_folder_that_cannot_be_written_is_one_message(straight, tmp_path, monkeypatch):
    def refuse(self: Path, *_, **__):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        found = CliRunner().invoke(
            app, ["run", str(straight / "experiment.toml"), "--out", str(tmp_path / "new" / "run")]
        )
    assert found.exit_code == 2
    assert f"cannot use {tmp_path / 'new' / 'run'}: Read-only file system" in found.stderr
    shutil.copytree(straight, tmp_path / "run")
    opened = Path.open

    def refuse_to_write(self: Path, mode: str = "r", *rest, **named):
        return opened(self, mode, *rest, **named) if set(mode) <= set("rb") else refuse(self)

    monkeypatch.setattr(Path, "open", refuse_to_write)
    command = ["run", str(straight / "experiment.toml"), "--out", str(tmp_path / "run"), "--resume"]
    found = CliRunner().invoke(app, command)
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
    assert "Read-only file system; put that right and run the command again, with --resume" in found.stderr


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(tmp_path, capfd):
    with hold_run(tmp_path):
        logger = logging.getLogger("fovea")
        (tmp_path / "log.jsonl").mkdir()
        logger.info("first")
        logger.info("second")
    assert capfd.readouterr().err.count("cannot be written") == 1


def test_who_holds_a_folder_is_said_and_a_lock_is_no_matter_of_what_the_file_says(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on a machine that is long gone\n")
    refused = pytest.raises(RunError, match=f"another process.*process {os.getpid()} on")
    with hold_run(tmp_path), refused, hold_run(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fovea.experiment.folder.fcntl.flock", no_locks)
    with hold_run(tmp_path):
        pass
    assert "cannot be locked (No locks available): a second run in it would not be noticed" in said(tmp_path)
