"""A run with evidence, the app over it in process, and the app as a real process for a real browser."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fovea.app.security import CSRF_HEADER
from fovea.app.server import Place, build
from tests.app.hostile import make_hostile
from tests.features.made import make

TOKEN = "the-token-of-this-start"
BASE = "http://127.0.0.1:8642"
ROW = ".rows .line"
"A row of the table."


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three SAEs; tests may write notes, and nothing else."""
    return make(tmp_path_factory.mktemp("app") / "run")


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every text is hostile."""
    return make_hostile(tmp_path_factory.mktemp("app") / "hostile")


@pytest.fixture(scope="session")
def app(run: Path) -> Iterator[Starlette]:
    """The app over `run`, started."""
    built = build(run, Place(), TOKEN)
    with TestClient(built, base_url=BASE):
        yield built


@pytest.fixture
def anonymous(app: Starlette) -> TestClient:
    """The app, for somebody without a cookie."""
    return TestClient(app, base_url=BASE, headers={"origin": BASE})


def sign_in(client: TestClient, token: str = TOKEN) -> TestClient:
    """`client` with the owner's cookie and CSRF value."""
    assert client.post("/api/session", json={"token": token}).status_code == 204
    client.headers[CSRF_HEADER] = client.get("/api/session").json()["csrf"]
    return client


@pytest.fixture
def owner(anonymous: TestClient) -> TestClient:
    """The app, for its owner."""
    return sign_in(anonymous)


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """`fovea serve` as a process of its own; the link that it prints."""
    command = [sys.executable, "-m", "fovea.cli", "serve", str(run), "--port", "0"]
    source = Path(__file__).resolve().parents[2] / "src"
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "no link was printed"
        yield found.group()
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
        process.stdout.close()
    assert status == 0


@pytest.fixture(scope="module")
def link(run: Path) -> Iterator[str]:
    """Link to the app over `run`."""
    with serving(run) as found:
        yield found


@pytest.fixture(scope="module")
def hostile_link(hostile_run: Path) -> Iterator[str]:
    """Link to the app over `hostile_run`."""
    with serving(hostile_run) as found:
        yield found


@pytest.fixture(scope="session")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A served run with study "one", to which tests add studies of their own."""
    from tests.app.raters import TINY, Served, run_with_study  # it needs this file

    server = Served(run_with_study(run, tmp_path_factory.mktemp("rating") / "run", **TINY))
    yield server
    assert server.end(signal.SIGINT) == 0


@pytest.fixture
def page(browser: Any, link: str) -> Iterator[Any]:
    """The table, signed in, at desk size; a complaint on the console fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", accept_downloads=True)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    host = link.split("/#")[0]
    opened.on("request", lambda r: complaints.append(r.url) if not r.url.startswith((host, "blob:")) else None)
    opened.goto(link)
    opened.wait_for_selector(f"{ROW} .latent")
    opened.host = host
    yield opened
    context.close()
    assert not complaints
