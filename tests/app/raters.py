"""Raters for tests: a run with a small study, and the app over it as one rater's browser would speak to it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.testclient import TestClient

from fovea.app.security import CSRF_HEADER
from fovea.app.server import Place, build
from fovea.rating.study import Study
from tests.app.conftest import BASE, TOKEN
from tests.rating.made_study import made

SMALL = {"features_per_arm": 3, "n_practice": 1, "n_guesses": 2, "repeat_share": 0.0}
TINY = {"features_per_arm": 2, "n_practice": 1, "n_guesses": 1}
AT = "/rate/one/api"


def run_with_study(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of `run` with study "one" in it."""
    made(copy_of(run, folder), **{**SMALL, **changes}).close()
    return folder


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of `run` without what other tests may have written there."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("notes.sqlite*", "studies"))
    return folder


def app_of(run: Path) -> Starlette:
    return build(run, Place(), TOKEN)


def tokens_of(run: Path, name: str = "one") -> dict[str, str]:
    study = Study.open(run, name)
    study.close()
    return study.tokens()


class Browser:
    """One rater's browser, signed in; several may speak to one app."""

    def __init__(self, app: Starlette, token: str, at: str = AT) -> None:
        self.client = TestClient(app, base_url=BASE, headers={"origin": BASE})
        self.at = at
        assert self.client.post(f"{at}/session", json={"token": token}).status_code == 200
        self.client.headers[CSRF_HEADER] = self.get("session")["csrf"]

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(f"{self.at}/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        """The answer, whatever its status; without a key, one is made."""
        return self.client.post(f"{self.at}/{path}", json={"key": uuid4().hex, **body})

    def say(self, kind: str, **body: Any) -> Any:
        """What the server says to a step that it must take."""
        answer = self.post("event", kind=kind, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def item(self) -> Any:
        return self.get("item")["item"]

    def rate(self, **answer: Any) -> str:
        """Answer the item that is due; its id."""
        found = self.item()
        if found["stage"] == "guess":
            self.say("guess", item=found["id"], seen=found["seen"], guess=None)
        else:
            self.say("rate", item=found["id"], seen=found["seen"], **(answer or {"cannot_tell": True}))
        return found["id"]

    def until(self, phase: str) -> None:
        """Go on to a phase."""
        while (now := self.get("state")["phase"]) != phase:
            if now in ("practice", "rating", "guess"):
                self.rate()
            else:
                self.say("finish" if now == "review" else "lock")


class Served:
    """`fovea serve` as a process that can be killed and started again at the same port."""

    def __init__(self, run: Path) -> None:
        self.run, self.port = run, 0
        self.process: subprocess.Popen[str] | None = None
        self.links: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "fovea.cli", "serve", str(self.run), "--port", str(self.port)]
        source = Path(__file__).resolve().parents[2] / "src"
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        while "bob" not in self.links or self.port == 0:
            line = self.process.stdout.readline()
            assert line, "the server ended before it printed the raters' links"
            found = re.fullmatch(r"  (\w+): (http://127\.0\.0\.1:(\d+)/rate/\S+)\n", line)
            if found:
                self.links[found[1]], self.port = found[2], int(found[3])

    def end(self, how: signal.Signals) -> int:
        """Stop the process; how it ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        status = self.process.wait(60)
        self.process.stdout.close()
        return status
