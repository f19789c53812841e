"""The run folder (DESIGN section 6): whose it is, one owner at a time, and its log."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fovea.atomic import write_text
from fovea.config import load_toml
from fovea.errors import FoveaError, RunError
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.ranks import ALONE, Ranks

log = logging.getLogger("fovea")
_LEFT_BY_A_START = (".lock", "log*.jsonl", ".*.partial")
"Names of what a start that was killed at once may leave in a folder that holds no run yet."


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
        if is_new and run.experiment.exists():  # another process was quicker, and has ended
            _refuse_foreign(run, config, resume=resume)
        elif is_new:
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
    for file in (run.provenance, run.experiment):  # what makes it a run goes last
        file.unlink(missing_ok=True)


@contextmanager
def hold_run(path: Path) -> Generator[RunFolder]:
    """The folder of a run, locked for this process, its log open, leftovers of killed processes removed.

    Raises:
        RunError: another process is working in it.
    """
    run = RunFolder(path)
    with _locked(path) as unlocked, _logging_to(run.log):
        if unlocked:
            log.warning("%s cannot be locked (%s): a second run in it would not be noticed", path, unlocked)
        for leftover in list(path.rglob(".*.partial")):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        yield run


def _refuse_foreign(run: RunFolder, config: ExperimentConfig, *, resume: bool) -> None:
    where = str(run.path)
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"--out {where!r} is a file; give a new folder")
    held = (
        [entry.name for entry in run.path.iterdir() if not any(map(entry.match, _LEFT_BY_A_START))]
        if run.path.exists()
        else []
    )
    if not held:
        return
    if not run.experiment.exists():
        raise RunError(f"--out {where!r} is not empty and not a run (it holds {held[0]!r}); give a new folder")
    if not resume:
        raise RunError(f"--out {where!r} already holds a run; add --resume to continue it, or give a new folder")
    # Both as settings: a file of a version that knew fewer of them is the same experiment at today's defaults.
    before, now = _decisive(run.config()), _decisive(config)
    if before != now:
        changed = _changes(before, now)
        more = f"; and {len(changed) - 6} more" if len(changed) > 6 else ""
        raise RunError(
            f"--out {where!r} holds another experiment (differs in {'; '.join(changed[:6])}{more}); "
            "restore those settings to resume it, or give a new folder"
        )


def _decisive(config: ExperimentConfig) -> dict[str, Any]:
    """An experiment's settings, without where its SAEs train: that may change from one start to the next."""
    return {name: value for name, value in config.flat().items() if name != "train.device"}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, each from what to what."""
    names = [name for name in {**before, **now} if before.get(name, "none") != now.get(name, "none")]
    return [f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}" for name in names]


@contextmanager
def _locked(path: Path) -> Generator[str]:
    """Hold the folder by a lock of the operating system: it goes with the process, however that ends.

    Yields why there is none, where the file system has no locks.
    """
    unlocked = ""
    with (path / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                who = file.read(200).strip()
                raise RunError(
                    f"another process is working in {str(path)!r}{f' ({who})' if who else ''}; wait for it or give a "
                    "new folder"
                ) from None
            unlocked = error.strerror or str(error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")  # for people; the lock is what counts
        file.flush()
        yield unlocked


class _JsonFormat(logging.Formatter):
    """Each record as one json line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        return json.dumps(line, ensure_ascii=False)


class _LogFile(logging.FileHandler):
    """A log in a file; when that cannot be written, one line says so, and the run goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        try:
            super().emit(record)
        except OSError:  # the file cannot even be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say it the first time."""
        del record
        reason = sys.exc_info()[1]
        if not getattr(self, "has_failed", False):
            self.has_failed = True
            sys.stderr.write(f"fovea: {self.baseFilename} cannot be written ({reason})\n")


@contextmanager
def _logging_to(path: Path, level: int = logging.INFO) -> Generator[None]:
    """Append records of `level` and above to a file that is made with the first of them."""
    logger = logging.getLogger("fovea")
    _end_last_line(path)
    handler = _LogFile(path, delay=True, encoding="utf-8")
    handler.setFormatter(_JsonFormat())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # what a full disk did not take was said
            handler.close()
        logger.setLevel(before)


def _end_last_line(path: Path) -> None:
    """A last line that a kill or a full disk has torn stays alone on its line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
