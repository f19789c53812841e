"""A packet: one file with all that one rater may see, to rate away from the server, and its way back into the log.

    study.sqlite --make_packet--> FILE --Packet: rated elsewhere--> FILE, longer --import_packet--> study.sqlite

A packet is a database like the study's, with one rater in it: their items, rubric, token and events so far; no mapping,
no settings, no other rater, and numbers of events of its own. It is one file after every step (no write-ahead log).
What comes back is not trusted: the file is read only, its schema and contents must be those that were given out, and
every step is checked as if the rater made it now. Steps are known by their keys: importing twice adds nothing.
"""

import hashlib
import math
import os
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from fovea.atomic import replacing
from fovea.errors import StudyError
from fovea.foreign import Refusal, damage
from fovea.rating.packetfile import LAST_SECOND, Packed, check_is_closed, check_is_packet, read_packed
from fovea.rating.sealing import is_token
from fovea.rating.session import RaterSession
from fovea.rating.state import STEPS, Phase, RaterState
from fovea.rating.steps import RaterEvent, Rubric, check, own_item, rubric_of
from fovea.rating.store import OWNER, Content, Rater, Store, Stored, create_store
from fovea.rating.study import Study

_FACTS = ("name", "question", "points", "writes_explanation", "commitment", "protocol_sha256", "made")
_ASK = Refusal(StudyError, "ask for the file again")
_LOOKS = ("open", "draft", "import")
"Kinds of events that answer nothing: to have looked in two places is no conflict."


class Packet:
    """An open packet, for the rater's pages; a Study of one rater.

    Raises:
        StudyError: the file is no packet, or another version wrote it.
    """

    def __init__(self, path: Path) -> None:
        check_is_packet(path)
        self.store = Store(path, journal="delete")  # the first read takes back what a killed process left half done
        try:
            facts = read_packed(path).facts
            self.name, self.token = str(facts["name"]), str(facts["packet"]["token"])
            with damage(path, _ASK, sqlite3.Error):
                self._session = RaterSession(self.store, self.store.raters[0])
        except StudyError:
            self.store.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    def rater(self, token: str) -> RaterSession:
        """The rater, if the token is theirs.

        Raises:
            StudyError: it is not.
        """
        if not is_token(token, self.store.raters[0].token_sha256):
            raise StudyError("this link does not belong to the packet; open the one that `fovea study rate` printed")
        return self._session

    def session(self, number: int) -> RaterSession:
        """The rater."""
        assert number == 1, "a packet has one rater"
        return self._session

    def secret(self) -> bytes:
        """What the cookies' key is made of."""
        return self.token.encode()


def make_packet(study: Study, rater: str, out: Path) -> None:
    """Write the packet of the rater of that name, with what they did so far.

    Raises:
        StudyError: `out` exists, the rater is not of the study, the study is unblinded, or links.json is missing.
    """
    if out.exists():
        raise StudyError(f"--out {str(out)!r} exists; give a new file")
    if study.is_unblinded:
        raise StudyError(f"study {study.name!r} is unblinded; nothing more can be rated")
    if study.secret() is None:
        raise StudyError(f"{study.folder / 'links.json'} is missing; restore it, a packet holds the rater's token")
    number = _number_of(study, rater)
    content = _content(study, number, study.tokens()[rater])
    with replacing(out) as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        create_store(temporary, content, journal="delete")
        store = Store(temporary, journal="delete")
        try:
            with store.writing():
                _copy([e for e in study.store.events(number) if e.kind != "import"], store)
        finally:
            store.close()


def _number_of(study: Study, rater: str) -> int:
    names = [each.name for each in study.store.raters]
    if rater not in names:
        raise StudyError(f"study {study.name!r} has no rater {rater!r}; it has: {', '.join(names)}")
    return names.index(rater) + 1


def _content(study: Study, number: int, token: str) -> Content:
    """All of a packet but its events."""
    rater = study.store.raters[number - 1]
    items = [item._replace(rater=1) for item in study.store.items(number)]
    has_guesses = any(item.phase == "guess" for item in items)
    facts: dict[str, Any] = {name: study.store.facts[name] for name in _FACTS}
    facts["arms"] = study.store.facts["arms"] if has_guesses else []
    facts["packet"] = {"rater": rater.name, "token": token}
    evidence = {identity: study.store.evidence_text(identity) for identity in {item.evidence for item in items}}
    return Content(facts, [Rater(1, rater.name, rater.kind, rater.token_sha256)], evidence, items)


def _copy(events: list[Stored], store: Store) -> None:
    """Append events of another log, each under its key and with its time; undo names the step by its number here."""
    keys, numbers = {event.seq: event.key for event in events}, dict[str, int]()
    for event in events:
        body = {"of": numbers[keys[event.body["of"]]]} if event.kind == "undo" else event.body
        added = store.append(1, event.key, kind=event.kind, item=event.item, body=body, at=event.at)
        numbers[event.key] = added.seq


class Imported(NamedTuple):
    """What an import did."""

    rater: str
    n_known: int
    "Events of the packet that were in the log before."
    n_new: int
    phase: Phase


def import_packet(study: Study, path: Path) -> Imported:
    """Append the events of a packet that came back to the study's log, all or none.

    Raises:
        StudyError: the file is no packet of this study and its raters, was changed, holds a step that does not fit, or
            its rater rated online meanwhile; or the study is unblinded. Nothing was recorded then.
    """
    check_is_closed(path)
    packed = read_packed(path)
    number = _owner_of(study, packed, path)
    with study.store.writing():
        if study.store.events(OWNER):
            raise StudyError(f"study {study.name!r} is unblinded; nothing more can be recorded")
        own = study.store.events(number)
        known = {event.key for event in own}
        new = [event for event in packed.events if event.key not in known]
        state = RaterState(study.store.items(number))
        state.apply(own)
        if _is_behind(own, packed.events, path):
            new = []
        _append(study.store, (number, state), packed.events, new=new, path=path)
        if new:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            body = {"sha256": digest, "n_events": len(new)}
            study.store.append(number, f"import {digest}", kind="import", item=None, body=body)
    n_known = len(packed.events) - len(new)
    return Imported(packed.raters[0].name, n_known, len(new), state.phase)


def _owner_of(study: Study, packed: Packed, path: Path) -> int:
    """Number of the packet's rater; everything that was given out must be as it was."""
    facts = packed.facts
    told = facts["packet"]
    if (facts["name"], facts["commitment"]) != (study.name, study.store.facts["commitment"]):
        raise StudyError(
            f"{path} is a packet of study {facts['name']!r} with commitment {str(facts['commitment'])[:12]}..., not of "
            f"{study.name!r} with {study.store.facts['commitment'][:12]}...; import it into the study that it is from"
        )
    number = _number_of(study, told["rater"])
    given = _content(study, number, told["token"])
    is_theirs = is_token(told["token"], study.store.raters[number - 1].token_sha256)
    same = (
        packed.facts == {**given.facts, "format": study.store.facts["format"]}
        and list(packed.raters) == list(given.raters)
        and sorted(packed.items) == sorted(given.items)
        and packed.evidence == given.evidence
    )
    if not (is_theirs and same):
        raise StudyError(
            f"{path} was changed: it holds other items, texts or rights than were given out; ask for the file again"
        )
    return number


def _is_behind(own: list[Stored], theirs: list[Stored], path: Path) -> bool:
    """Whether the log is ahead of the packet; an error where the two went different ways."""
    ours, told = _steps(own), _steps(theirs)
    n = min(len(ours), len(told))
    if ours[:n] == told[:n]:
        return len(ours) > n
    if any(a[0] == b[0] for a, b in zip(ours, told, strict=False) if a != b):
        raise StudyError(f"{path} was changed: a step differs from the same step in the log; nothing was imported")
    raise StudyError(
        f"{path}: the rater has also rated online since the packet was made, so that the log and the packet went "
        "different ways; one of them must be given up. Nothing was imported, and nothing of either is lost"
    )


def _steps(events: list[Stored]) -> list[tuple[Any, ...]]:
    """What answers something, comparable between logs."""
    keys = {event.seq: event.key for event in events}
    return [
        (
            event.key,
            event.kind,
            event.item,
            {"of": keys.get(event.body.get("of", 0))} if event.kind == "undo" else event.body,
        )
        for event in events
        if event.kind not in _LOOKS
    ]


def _append(
    store: Store, rater: tuple[int, RaterState], events: list[Stored], *, new: list[Stored], path: Path
) -> None:
    """Add the new events, each checked against where the rater then stands."""
    number, state = rater
    rubric = rubric_of(store.facts, state)
    keys = {event.seq: event.key for event in events}
    numbers = {event.key: event.seq for event in store.events(number)}
    for event in new:
        try:
            body = event.body
            if event.kind == "undo":
                body = {"of": numbers.get(keys.get(event.body.get("of", 0), ""), 0)}
            _check(state, rubric, event._replace(body=body))
        except (StudyError, ValidationError, TypeError) as error:
            raise StudyError(
                f"{path}: step {event.seq} ({event.kind}) does not fit ({error}); nothing was imported"
            ) from None
        added = store.append(number, event.key, kind=event.kind, item=event.item, body=body, at=event.at)
        numbers[event.key] = added.seq
        state.apply([added])


def _check(state: RaterState, rubric: Rubric, event: Stored) -> None:
    """Nothing, if the rater could have made this step now."""
    body, seconds = dict(event.body), 0.0
    if not 0 < event.at < LAST_SECOND:
        raise StudyError(f"its time, {event.at}, is none")
    if event.kind == "open":
        own_item(state, event.item)
        if body:
            raise StudyError("to look at an item says nothing")
        return
    if event.kind == "undo":
        latest = state.undoable
        if latest is None or (latest.seq, latest.item) != (body["of"], event.item):
            raise StudyError("undo takes back the latest step of the phase")
        return
    if event.kind in STEPS:
        seconds = body.pop("seconds", None)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise StudyError(f"seconds = {seconds!r} is no time")
    step = RaterEvent.model_validate({"kind": event.kind, "key": event.key, "item": event.item, **body}, strict=True)
    if (step.kept, step.about) != (body, event.item):
        raise StudyError("it says more or less than such a step does")
    check(state, rubric, step)
