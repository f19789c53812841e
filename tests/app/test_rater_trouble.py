"""What happens around a study while it is rated: its database is held, damaged or replaced, the app stops."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fovea.app.desks import STEP, Desks
from fovea.app.security import HEADERS
from fovea.rating import store
from tests.app.conftest import BASE
from tests.app.raters import AT, Browser, app_of, run_with_study, tokens_of
from tests.rating.made_study import made


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return run_with_study(run, tmp_path / "run")


@contextmanager
def held(folder: Path, name: str = "one") -> Iterator[None]:
    """Another program has begun to write and does not end."""
    with closing(sqlite3.connect(folder / "studies" / name / "study.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_held_database_is_no_answer_and_the_same_step_may_come_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    ann = Browser(app_of(folder), tokens_of(folder)["ann"])
    found = ann.item()
    step = {"kind": "rate", "item": found["id"], "cannot_tell": True, "key": "k"}
    with held(folder):
        for answer in (ann.post("event", **step), ann.post("undo")):
            assert answer.status_code == 503, "the page tries again what has no answer, and that is 500 and more"
            assert "another program may hold it" in answer.json()["error"]
            assert len(answer.content) == STEP
        assert ann.get("state")["n_done"] == 0, "reading goes on"
    assert ann.say(**step)["phase"] == "rating"


def test_a_page_is_not_shown_what_could_not_be_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    ann = Browser(app_of(folder), tokens_of(folder)["ann"])
    with held(folder):
        assert ann.client.get(f"{AT}/item").status_code == 503
    assert ann.item()["stage"] == "explain"


def test_a_write_waits_for_less_than_a_page_waits_for_its_answer() -> None:
    script = Path(store.__file__).parents[1] / "app" / "static" / "rate-save.js"
    (line,) = [line for line in script.read_text().splitlines() if line.startswith("const PATIENCE = ")]
    assert int(line.removeprefix("const PATIENCE = ").partition(";")[0]) / 2 > store.BUSY_SECONDS * 1000


def test_a_stopped_app_leaves_no_database_open(folder: Path) -> None:
    made(folder, "two", features_per_arm=2, n_practice=0).close()
    app = app_of(folder)
    with TestClient(app, base_url=BASE):
        for name in ("one", "two"):
            Browser(app, tokens_of(folder, name)["ann"], f"/rate/{name}/api").item()
        assert len(list(folder.glob("studies/*/study.sqlite-wal"))) == 2
    assert not list(folder.glob("studies/*/study.sqlite-wal")), "the last connection that closes removes the log"


def test_a_study_that_was_replaced_is_closed_and_the_new_one_served(folder: Path) -> None:
    desks = Desks(folder, "cookie")
    first = desks.find("one")
    assert first is not None
    assert desks.find("one") is first
    (folder / "studies" / "one").rename(folder / "studies" / "old-one")
    made(folder, "one", features_per_arm=2, n_practice=0).close()
    second = desks.find("one")
    assert second is not None
    assert second.rater("one_1").progress().phase == "rating"
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first.study.store.events()
    desks.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        second.study.store.events()


def test_a_damaged_study_is_said_as_every_answer_is(folder: Path) -> None:
    made(folder, "two", features_per_arm=2, n_practice=0).close()
    (folder / "studies" / "one" / "study.sqlite").write_bytes(b"no database" * 1000)
    with closing(sqlite3.connect(folder / "studies" / "two" / "study.sqlite")) as other:
        other.executescript("DROP TRIGGER no_update_fact; UPDATE fact SET body = '99' WHERE name = 'format'")
    for name in ("one", "two"):
        answer = TestClient(app_of(folder), base_url=BASE).get(f"/rate/{name}/api/state")
        assert answer.status_code == 503
        assert "cannot be read" in answer.json()["error"]
        assert len(answer.content) == STEP
        assert HEADERS.items() <= dict(answer.headers).items()


def test_the_session_says_whose_it_is(folder: Path) -> None:
    app = app_of(folder)
    for rater, token in tokens_of(folder).items():
        assert Browser(app, token).get("session")["rater"] == rater


def test_one_rater_s_page_cannot_write_by_another_s_cookie(folder: Path) -> None:
    app = app_of(folder)
    ann, bob = (Browser(app, tokens_of(folder)[name]) for name in ("ann", "bob"))
    bob.rate()
    ann.client.cookies = bob.client.cookies  # bob's link was opened in another tab of ann's browser
    assert ann.post("undo").status_code == 403
    assert bob.get("state")["phase"] == "rating"
