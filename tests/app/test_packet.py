"""A packet served on the rater's own machine: the raters' pages and nothing else, by a real process too."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fovea.app.server import Place, build_packet
from fovea.errors import StudyError
from fovea.rating.packet import Packet, import_packet, make_packet
from fovea.rating.study import Study
from tests.app.conftest import BASE
from tests.app.raters import AT, SMALL, Browser
from tests.house import ROOT
from tests.rating.made_study import made


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made(tmp_path, **SMALL)


@pytest.fixture
def file(study: Study, tmp_path: Path) -> Path:
    make_packet(study, "ann", tmp_path / "ann.packet")
    return tmp_path / "ann.packet"


def test_a_packet_is_rated_in_the_browser_to_the_end_and_imported(study: Study, file: Path) -> None:
    packet = Packet(file)
    browser = Browser(build_packet(packet, Place()), packet.token)
    sizes: set[int] = set()
    browser.client.event_hooks["response"].append(lambda answer: sizes.add(int(answer.headers["content-length"])))
    told: list[Any] = []
    while (phase := browser.get("state"))["phase"] != "locked":
        told.append(phase if phase["phase"] != "guess" else None)
        if phase["phase"] in ("review", "closing"):
            browser.say("finish" if phase["phase"] == "review" else "lock")
        elif (item := browser.item())["stage"] == "explain":
            told.append(item)
            browser.say("explain", item=item["id"], seen=item["seen"], text="about cells")
        else:
            told.append(item if phase["phase"] != "guess" else None)
            answer = {"guess": None} if item["stage"] == "guess" else {"specificity": 2}
            browser.say("guess" if item["stage"] == "guess" else "rate", item=item["id"], seen=item["seen"], **answer)
    assert len(sizes) == 1, "every answer has one size"
    assert not re.search(r"ssae|direct|k16|k40|latent", json.dumps(told))
    packet.close()
    assert import_packet(study, file).phase == "locked"


def test_nothing_but_its_raters_pages_can_be_reached(study: Study, file: Path) -> None:
    packet = Packet(file)
    app = build_packet(packet, Place())
    for path in ("/", "/api/run", "/api/latents", "/api/session", "/rate/two/api/state", "/compare"):
        assert TestClient(app, base_url=BASE).get(path).status_code in (401, 404)
    assert TestClient(app, base_url="http://evil.example").get("/rate/one/").status_code == 421
    page = TestClient(app, base_url=BASE).get("/rate/one/")
    assert page.status_code == 200
    assert packet.token not in page.text
    client = TestClient(app, base_url=BASE, headers={"origin": BASE})
    assert client.post(f"{AT}/session", json={"token": study.tokens()["bob"]}).status_code == 401
    assert client.get(f"{AT}/state").status_code == 401


def rating(file: Path) -> tuple[subprocess.Popen[str], str]:
    """The verb in a process of its own, and the link that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from fovea.cli import main; main()", "study", "rate", str(file), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    found = re.match(r"open (http://127\.0\.0\.1:\d+)/rate/one/#t=(.+)", process.stdout.readline())
    assert found is not None
    return process, found[1]


@pytest.mark.slow
def test_kill_9_of_a_rated_packet_loses_nothing_that_was_acknowledged(study: Study, file: Path) -> None:
    token = study.tokens()["ann"]
    process, base = rating(file)
    said: list[str] = []

    def ask(path: str, body: Any = None, **headers: str) -> tuple[Any, Any]:
        data = None if body is None else json.dumps(body).encode()
        sent = {"origin": base, "content-type": "application/json", **headers}
        with urllib.request.urlopen(urllib.request.Request(f"{base}{AT}/{path}", data, sent), timeout=60) as answer:
            return json.load(answer), answer.headers

    _, headers = ask("session", {"token": token})
    cookie = {"cookie": headers["set-cookie"].partition(";")[0]}
    csrf = {**cookie, "x-fovea-csrf": ask("session", **cookie)[0]["csrf"]}
    item = ask("item", **cookie)[0]["item"]
    for n in range(15):
        ask("event", {"kind": "draft", "key": f"d{n}", "item": item["id"], "text": f"draft {n}"}, **csrf)
        said.append(f"draft {n}")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    packet = Packet(file)  # takes back what was half written, if anything was
    packet.close()
    import_packet(study, file)
    assert [event.body["text"] for event in study.store.events(1) if event.kind == "draft"] == said


@pytest.mark.slow
def test_what_is_no_packet_is_said_by_the_verb(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no")
    with pytest.raises(StudyError, match="cannot be read as a study|is no packet"):
        Packet(tmp_path / "x")
