"""A blind study as a folder of a run: made, opened, rated, unblinded.

RUN/studies/NAME/protocol.md    what will be done, with the commitment; its hash is in the database
                 study.toml     the settings, every default written out
                 study.sqlite   blind evidence, orders and the event log
                 sealed.json    which item is which feature; nobody opens it before the unblinding
                 links.json     the raters' tokens (owner only)
                 result.json    after the unblinding
"""

import fcntl
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fovea.atomic import new_folder, read_checked_json, write_json
from fovea.config import dump_toml
from fovea.errors import FoveaError, StudyError
from fovea.features.read import Features
from fovea.foreign import Refusal, damage, is_there, read_object
from fovea.rating.config import StudyConfig, study_config
from fovea.rating.power import Power, power_of
from fovea.rating.protocol import protocol
from fovea.rating.sampling import Excluded, Sample, Source, draw
from fovea.rating.sealing import Sealed, commitment, deal, is_token
from fovea.rating.session import RaterSession
from fovea.rating.state import Progress, RaterState
from fovea.rating.store import OWNER, Store, Stored, create_store

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"Of a study: safe as a folder and in an address."
_COPY = Refusal(StudyError, "restore the study from a copy")
_EXISTS = "study {!r} exists; give the new one another name (studies are never changed)"


class RaterStatus(NamedTuple):
    """How far one rater is."""

    name: str
    kind: str
    progress: Progress
    last_event_at: float | None


class Status(NamedTuple):
    """All that may be known of a study before it is unblinded."""

    name: str
    raters: tuple[RaterStatus, ...]
    unblinded: dict[str, Any] | None
    "is_forced, reason, locked; None before."
    power: str
    commitment: str
    excluded: tuple[Excluded, ...]

    @property
    def is_ready(self) -> bool:
        """All raters have locked."""
        return all(rater.progress.phase == "locked" for rater in self.raters)


class Study:
    """An open study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.store = Store(folder / "study.sqlite")
        try:
            with damage(folder / "study.sqlite", _COPY):
                facts = self.store.facts
                self.config: StudyConfig = study_config(facts["config"], where=str(folder / "study.sqlite"))
                Power(**facts["power"])
                for each in facts["excluded"]:
                    Excluded(**each)
                for name in ("name", "question", "commitment", "protocol_sha256", "made"):
                    if not isinstance(facts[name], str):
                        raise TypeError(f"{name} is no text")
        except FoveaError:
            self.store.close()
            raise
        self._sessions: dict[int, RaterSession] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, run: Path, name: str) -> "Study":
        """The study `name` of a run.

        Raises:
            StudyError: the run has no such study, or another version wrote it.
        """
        known = study_names(run)
        if name not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none; make one with `fovea study new`"
            raise StudyError(f"the run has no study {name!r}; {has}")
        return cls(run / "studies" / name)

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    def rater(self, token: str) -> RaterSession:
        """The rater to whom the token was given.

        Raises:
            StudyError: the token is nobody's.
        """
        found = [rater for rater in self.store.raters if is_token(token, rater.token_sha256)]
        if not found:
            raise StudyError("this link belongs to no rater of the study; ask its owner for yours")
        return self.session(found[0].number)

    def session(self, number: int) -> RaterSession:
        """The rater of that number, 1 and up."""
        with self._lock:
            if number not in self._sessions:
                self._sessions[number] = RaterSession(self.store, self.store.raters[number - 1])
            return self._sessions[number]

    def tokens(self) -> dict[str, str]:
        """Rater -> token, for the owner who hands out links.

        Raises:
            FileNotFoundError: links.json is missing.
            StudyError: it is damaged.
        """
        path = self.folder / "links.json"
        if not is_there(path, self.folder, _COPY):
            raise FileNotFoundError(path)
        return read_object(path, self.folder, _COPY)

    def secret(self) -> bytes | None:
        """What only the owner's folder holds and outlives a server; None where links.json is missing."""
        path = self.folder / "links.json"
        return path.read_bytes() if is_there(path, self.folder, _COPY) else None

    def status(self) -> Status:
        """Where the study stands; nothing here differs by method.

        Raises:
            StudyError: its log is damaged.
        """
        with damage(self.folder / "study.sqlite", _COPY, sqlite3.Error):
            return self._status()

    def _status(self) -> Status:
        raters: list[RaterStatus] = []
        for rater in self.store.raters:
            events = self.store.events(rater.number)
            state = RaterState(self.store.items(rater.number))
            state.apply(events)
            raters.append(RaterStatus(rater.name, rater.kind, state.progress(), events[-1].at if events else None))
        facts = self.store.facts
        unblinded = self._unblinding()
        return Status(
            self.name,
            tuple(raters),
            None if unblinded is None else unblinded.body,
            Power(**facts["power"]).sentence,
            facts["commitment"],
            tuple(Excluded(**each) for each in facts["excluded"]),
        )

    def _unblinding(self) -> Stored | None:
        events = self.store.events(OWNER)
        return events[0] if events else None

    def unblind(self, *, force_reason: str | None = None) -> Path:
        """Open the mapping and write result.json; a second time, write it again.

        Args:
            force_reason: Unblind before all have locked; goes into the log, the result and the report.

        Raises:
            StudyError: a rater has not locked, or what was sealed is not what was committed to.
        """
        sealed = self.sealed()
        with self.store.writing():
            if self._unblinding() is None:
                self.store.append(OWNER, "unblind", kind="unblind", item=None, body=self._may_unblind(force_reason))
        from fovea.rating.result import result_of

        path = self.folder / "result.json"
        with damage(self.folder, _COPY, sqlite3.Error):
            result = result_of(self, sealed)
        write_json(path, result)
        return path

    def _may_unblind(self, force_reason: str | None) -> dict[str, Any]:
        status = self.status()
        locked = [rater.name for rater in status.raters if rater.progress.phase == "locked"]
        waiting = [rater.name for rater in status.raters if rater.name not in locked]
        if waiting and not (force_reason or "").strip():
            raise StudyError(
                f"{', '.join(waiting)} of study {self.name!r} has not locked; wait, or force the unblinding with a "
                "reason, which the result and the report will show"
            )
        return {
            "is_forced": bool(waiting),
            "reason": force_reason if waiting else None,
            "locked": locked,
            "not_locked": waiting,
            "protocol_is_intact": self.protocol_is_intact(),
        }

    def protocol_is_intact(self) -> bool:
        """protocol.md is as it was made."""
        path = self.folder / "protocol.md"
        data = path.read_bytes() if is_there(path, self.folder, _COPY) else b""
        return hashlib.sha256(data).hexdigest() == self.store.facts["protocol_sha256"]

    def sealed(self) -> Sealed:
        """The mapping, verified; for the unblinding only.

        Raises:
            StudyError: sealed.json is missing or was changed.
        """
        path = self.folder / "sealed.json"
        data = path.read_bytes() if is_there(path, self.folder, _COPY) else b""
        if commitment(data) != self.store.facts["commitment"]:
            raise StudyError(
                f"{path} is not what was committed to in protocol.md (SHA-256 {commitment(data)}, committed "
                f"{self.store.facts['commitment']}); restore the file, the study cannot be unblinded without it"
            )
        with damage(path, _COPY):
            return Sealed.from_bytes(data)

    @property
    def is_unblinded(self) -> bool:
        return self._unblinding() is not None


def study_names(run: Path) -> list[str]:
    """Studies of a run."""
    folder = run / "studies"
    found = [path.parent.name for path in folder.glob("*/study.sqlite")] if folder.is_dir() else []
    return sorted(name for name in found if NAME.fullmatch(name))


class Plan(NamedTuple):
    """What a study would be, before it is made."""

    sample: Sample
    power: Power


def plan(run: Path, config: StudyConfig, *, source: Source | None = None) -> Plan:
    """Draw the sample and compute what the design can find; nothing is written.

    Raises:
        StudyError: the sample cannot be drawn, or a job of an arm has diverged.
        RunError: the run has no evidence, or it is stale.
    """
    _refuse_diverged(run, config)
    sample = draw(source or Features(run), config)
    n_per_arm = config.features_per_arm * len({feature.domain for feature in sample.features})
    power = power_of(n_per_arm, len(config.rater), n_points=len(config.rubric.points), seed=config.seed)
    return Plan(sample, power)


def create(run: Path, name: str, config: StudyConfig, *, source: Source | None = None) -> Study:
    """Sample, seal and write a new study.

    Args:
        source: Evidence; by default that of the run.

    Raises:
        StudyError: the name is taken or wrong, or the sample cannot be drawn.
        RunError: the run has no evidence, or it is stale.
    """
    if not NAME.fullmatch(name):
        raise StudyError(f"{name!r} cannot name a study; use up to 40 small letters, digits, - and _")
    folder = run / "studies" / name
    if folder.exists():
        raise StudyError(_EXISTS.format(name))
    sample, power = plan(run, config, source=source)
    facts: dict[str, Any] = {
        "name": name,
        "config": config.model_dump(mode="json"),
        "question": config.rubric.question,
        "points": list(config.rubric.points),
        "writes_explanation": config.writes_explanation,
        "arms": sorted(arm.name for arm in config.arm),
        "excluded": [each._asdict() for each in sample.excluded],
        "power": power._asdict(),
    }
    dealt = deal(sample, config, facts)
    data = dealt.sealed.to_bytes()
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = protocol(name, config, sample, power=power, commitment=commitment(data), made=made).encode()
    facts |= {"commitment": commitment(data), "protocol_sha256": hashlib.sha256(text).hexdigest(), "made": made}
    with _alone(folder), new_folder(folder) as temporary:
        (temporary / "protocol.md").write_bytes(text)
        (temporary / "study.toml").write_text(dump_toml(config))
        _write_secret(temporary / "sealed.json", data)
        _write_secret(temporary / "links.json", json.dumps(dealt.tokens, indent=1).encode())
        create_store(temporary / "study.sqlite", dealt.content)
    return Study(folder)


def _refuse_diverged(run: Path, config: StudyConfig) -> None:
    """Nothing, if every job of every arm was trained to its end: an arm stands for its method."""
    again = "put it back, or leave the job out of the arm"
    for arm in config.arm:
        for job in arm.jobs:
            path = run / "saes" / job / "job.json"
            stopped = read_checked_json(path, again, within=run).get("stopped") if path.exists() else None
            if stopped is not None:
                raise StudyError(
                    f"arm {arm.name!r}: the training of job {job!r} diverged and was stopped early, so its features do "
                    "not speak for its method; take it out of the arm, or train it again with a lower learning rate"
                )


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """No other process makes a study of this run meanwhile: two halves must not become one folder.

    Raises:
        StudyError: the name was taken meanwhile, or another process is making a study.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".making").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(
                f"another process is making a study in {folder.parent}; try again when it is done"
            ) from None
        if folder.exists():
            raise StudyError(_EXISTS.format(folder.name))
        yield


def _write_secret(path: Path, data: bytes) -> None:
    """A file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
