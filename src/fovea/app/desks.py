"""Where raters of one study are served: the open study, the cookies of its raters, the one size of all its answers.

Desks.find(NAME from an address) -> Desk of a study that the run has, else None; the name is compared, never made a path
"""

import hashlib
import json
import secrets
import threading
from pathlib import Path
from typing import Any

from starlette.responses import Response

from fovea.app.payload import cut
from fovea.app.security import Sessions
from fovea.rating.packet import Packet
from fovea.rating.session import RaterSession
from fovea.rating.study import Study, study_names

STEP = 32 * 1024
"Answers have this many bytes, or a multiple where an item, an order or a rater's own words need more."
OWN_WORDS = 16 * 1024
"Room that the size leaves for what the rater wrote and for the rest around the evidence."


class Desk:
    """One open study."""

    def __init__(self, study: Study | Packet, cookie: str) -> None:
        self.study = study
        self.sessions = Sessions(cookie, _cookie_key(study), path=f"/rate/{study.name}")
        self.size = answer_size(study)

    def subject(self, rater: RaterSession) -> str:
        """What the cookie of a rater says."""
        return f"{self.study.name}_{rater.number}"

    def name(self, subject: str) -> str:
        """The rater's name, which a page shows so that two who share a browser notice."""
        return self.rater(subject).name

    def rater(self, subject: str) -> RaterSession:
        """The rater whom a cookie of this study names."""
        name, _, number = subject.rpartition("_")
        assert name == self.study.name, "a cookie's key is of one study"
        return self.study.session(int(number))


class Desks:
    """The studies of a run, each opened when it is first asked for, also if it was made since the start."""

    def __init__(self, run: Path, cookie: str) -> None:
        self._run, self._cookie = run, cookie
        self._open: dict[str, tuple[tuple[int, int], Desk]] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Desk | None:
        """The desk of study `name`; None where the run has no such study.

        Raises:
            StudyError, sqlite3.Error, OSError: it cannot be read, or another version wrote it.
        """
        with self._lock:
            if name not in study_names(self._run):
                return None
            about = (self._run / "studies" / name / "study.sqlite").stat()
            identity = about.st_dev, about.st_ino
            known = self._open.get(name)
            if known is not None and known[0] == identity:
                return known[1]
            if known is not None:
                known[1].study.close()
            desk = Desk(Study.open(self._run, name), self._cookie)
            self._open[name] = identity, desk
            return desk

    def close(self) -> None:
        """Close the databases; the last connection to one folds its write-ahead log into the file."""
        with self._lock:
            for _, desk in self._open.values():
                desk.study.close()
            self._open.clear()


class OneDesk:
    """The desk of a packet, which is all that is served."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def find(self, name: str) -> Desk | None:
        """The desk, if `name` is its study's."""
        return self._desk if name == self._desk.study.name else None


def _cookie_key(study: Study | Packet) -> bytes:
    """Key of the raters' cookies: made from their tokens, so that it outlives the server; else of this process."""
    told = study.secret() or secrets.token_bytes(32)
    return hashlib.sha256(b"cookies of raters" + told).digest()


def answer_size(study: Study | Packet) -> int:
    """Bytes of every answer of a study: the largest of all items and orders, with room, in whole steps."""
    items = [item for rater in study.store.raters for item in study.store.items(rater.number)]
    largest = max(len(json.dumps(shown(study.store.evidence(each)))) for each in {item.evidence for item in items})
    most = max(sum(item.rater == rater.number for item in items) for rater in study.store.raters)
    facts = study.store.facts
    frame = len(json.dumps([facts["question"], facts["points"], facts["arms"]]))
    return STEP * -(-(max(largest, 24 * most) + frame + OWN_WORDS) // STEP)


def shown(body: dict[str, Any]) -> dict[str, Any]:
    """What a page gets of an item's evidence: long tokens cut, no more."""
    groups = [
        {
            "name": group["name"],
            "examples": [
                {"peak": each["peak"], "pieces": [[cut(text), shade] for text, shade in each["pieces"]]}
                for each in group["examples"]
            ],
        }
        for group in body["groups"]
    ]
    return {"panel": body["panel"], "subject": body["subject"], "explanation": body["explanation"], "groups": groups}


def padded(response: Response, size: int) -> Response:
    """`response` with blanks behind its json: `size` bytes, or the next multiple."""
    body = bytes(response.body)
    response.body = body.ljust(size * max(1, -(-len(body) // size)))
    response.headers["content-length"] = str(len(response.body))
    return response
