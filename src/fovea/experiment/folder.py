"""The run folder (DESIGN section 6): whose it is, what it was made with, and one owner at a time."""

import fcntl
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fovea import __version__
from fovea.atomic import write_json, write_text
from fovea.config import load_toml
from fovea.errors import FoveaError, RunError
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.ranks import ALONE, Ranks

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "datasets", "pydantic")


class RunFolder:
    """Paths of one run, and the ranks that work in it: all may read, the first writes what they share."""

    def __init__(self, path: Path, ranks: Ranks = ALONE) -> None:
        self.path, self.ranks = path, ranks
        self.experiment = path / "experiment.toml"
        self.provenance = path / "provenance.json"
        self.corpora = path / "corpora"
        self.general = path / "general"
        self.saes = path / "saes"
        self.checkpoints = path / "checkpoints"
        self.activations = path / "activations"
        self.calibration = path / "calibration"
        self.evaluation = path / "evaluation"
        self.features = path / "features"
        self.metrics = path / "metrics.jsonl"
        self.report = path / "report.html"
        self.log = path / "log.jsonl"

    def config(self) -> ExperimentConfig:
        """The resolved experiment.

        Raises:
            RunError: this is not a run folder.
        """
        if not self.experiment.exists():
            raise RunError(f"{str(self.path)!r} holds no experiment.toml, so it is not a run; give the folder of a run")
        return resolve(load_toml(self.experiment), where=str(self.experiment))


@contextmanager
def open_run(path: Path, config: ExperimentConfig, *, resume: bool, ranks: Ranks = ALONE) -> Generator[RunFolder]:
    """The folder, locked for this process and the other ranks of its job, holding this experiment and no other.

    Raises:
        RunError: the folder holds something else, another experiment, or a run in progress.
    """
    if not ranks.is_first:
        ranks.by_first(_nothing)
        with _logging_to(path / f"log-rank-{ranks.rank}.jsonl", logging.WARNING):
            yield RunFolder(path, ranks)
        return
    with _opened(path, config, resume=resume) as run:
        ranks.by_first(_nothing)
        run.ranks = ranks
        yield run


def _nothing() -> None:
    """What the first rank has done when the others may go on."""


@contextmanager
def _opened(path: Path, config: ExperimentConfig, *, resume: bool) -> Generator[RunFolder]:
    _refuse_foreign(RunFolder(path), config, resume=resume)
    is_new = not RunFolder(path).experiment.exists()
    path.mkdir(parents=True, exist_ok=True)
    with hold_run(path) as run:
        if not run.experiment.exists():
            write_text(run.experiment, config.to_toml())
        try:
            yield run
        except FoveaError:
            if is_new:
                _give_back(run)
            raise


def _give_back(run: RunFolder) -> None:
    """Empty a new folder again after a mistake that was found before the lm had worked: put right, the command runs."""
    if any(folder.exists() for folder in (run.calibration, run.activations, run.checkpoints, run.saes)):
        return
    for folder in (run.corpora, run.general):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run.experiment, run.provenance):
        file.unlink(missing_ok=True)


@contextmanager
def hold_run(path: Path) -> Generator[RunFolder]:
    """The folder of a run, locked for this process, its log open, leftovers of killed processes removed.

    Raises:
        RunError: another process is working in it.
    """
    run = RunFolder(path)
    with _locked(path), _logging_to(run.log):
        for leftover in path.rglob(".*.partial"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield run


def _refuse_foreign(run: RunFolder, config: ExperimentConfig, *, resume: bool) -> None:
    where = str(run.path)
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"--out {where!r} is a file; give a new folder")
    held = (
        [entry.name for entry in run.path.iterdir() if entry.name != ".lock" and not entry.match("log*.jsonl")]
        if run.path.exists()
        else []
    )
    if not held:
        return
    if not run.experiment.exists():
        raise RunError(f"--out {where!r} is not empty and not a run (it holds {held[0]!r}); give a new folder")
    if not resume:
        raise RunError(f"--out {where!r} already holds a run; add --resume to continue it, or give a new folder")
    before, now = run.experiment.read_text(), config.to_toml()
    if before != now and _decisive(before) != _decisive(now):
        changed = sorted(set(before.splitlines()) ^ set(now.splitlines()))
        raise RunError(
            f"--out {where!r} holds another experiment (differs in {'; '.join(changed[:4])}); "
            "restore those settings to resume it, or give a new folder"
        )


def _decisive(experiment: str) -> dict[str, Any]:
    """An experiment file as tables, without where its SAEs train: that may change from one start to the next."""
    tables = tomllib.loads(experiment)
    tables.get("train", {}).pop("device", None)
    return tables


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another process is working in {str(path)!r}; wait for it or give a new folder") from None
        yield


class _JsonFormat(logging.Formatter):
    """Each record as one json line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def _logging_to(path: Path, level: int = logging.INFO) -> Generator[None]:
    """Append records of `level` and above to a file that is made with the first of them."""
    logger = logging.getLogger("fovea")
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(_JsonFormat())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before)


def write_provenance(run: RunFolder, *, command: str, fingerprints: dict[str, Any]) -> None:
    """What makes this run: versions and fingerprints as of the latest start, and every start with its commit."""
    starts: list[dict[str, Any]] = []
    if run.provenance.exists():
        starts = json.loads(run.provenance.read_text())["starts"]
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    starts.append({"time_utc": began, "command": command, "commit": _commit(), "torch": _version("torch")})
    write_json(
        run.provenance,
        {
            "fovea": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _PACKAGES},
            "machine": {
                "system": platform.system(),
                "architecture": platform.machine(),
                "processor": _processor(),
                "cores": os.cpu_count(),
            },
            "starts": starts,
            **fingerprints,
        },
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree that fovea runs from, "-dirty" if changed; None when it is not a checkout."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    asked = subprocess.run(
        ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def command_line() -> str:
    """The command as typed, for provenance; the program's own path is left out."""
    return " ".join(["fovea", *sys.argv[1:]])
