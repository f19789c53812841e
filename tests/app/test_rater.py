"""Raters' routes: what they answer, to whom, and that nobody reaches what is not theirs."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fovea.app.desks import STEP
from fovea.app.security import CSRF_HEADER
from fovea.rating.study import Study
from fovea.rating.words import links_texts
from tests.app.conftest import BASE, sign_in
from tests.app.raters import AT, Browser, app_of, run_with_study, tokens_of
from tests.app.test_security import READS, WRITES
from tests.rating.made_study import made

RATER_READS = ("state", "item", "feedback", "answers", "session")
RATER_WRITES = ("event", "undo")


@pytest.fixture(scope="module")
def template(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_with_study(run, tmp_path_factory.mktemp("raters") / "run")


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A run with a study that nobody has rated."""
    return Path(shutil.copytree(template, tmp_path / "run"))


@pytest.fixture
def app(folder: Path) -> Starlette:
    return app_of(folder)


@pytest.fixture
def ann(app: Starlette, folder: Path) -> Browser:
    return Browser(app, tokens_of(folder)["ann"])


@pytest.fixture
def bob(app: Starlette, folder: Path) -> Browser:
    return Browser(app, tokens_of(folder)["bob"])


def test_the_whole_way_and_the_methods_names_only_when_they_are_guessed(ann: Browser) -> None:
    told = {}
    for phase in ("practice", "rating", "review", "guess", "closing", "locked"):
        ann.until(phase)
        told[phase] = ann.get("state")
    assert {phase for phase, state in told.items() if state["guesses"]} == {"guess"}
    assert told["guess"]["guesses"] == ["direct", "ssae"]
    assert told["review"]["n_done"] == told["review"]["n_items"] == len(told["review"]["order"]) > 6
    assert ann.item() is None
    assert ann.post("event", kind="lock").status_code == 409


def test_practice_has_feedback_and_no_answer_tells_of_the_log(ann: Browser) -> None:
    found = ann.item()
    ann.say("explain", item=found["id"], text="x")
    told = ann.say("rate", item=found["id"], specificity=2)
    assert told["feedback"]["anchor"].startswith("Mostly")
    assert set(told) == {"feedback", "phase", "n_done", "n_items", "n_skipped", "can_undo"}


def test_feedback_is_told_again_until_the_next_item_is_looked_at(folder: Path) -> None:
    made(folder, "practice", features_per_arm=2, n_practice=2).close()
    ann = Browser(app_of(folder), tokens_of(folder, "practice")["ann"], "/rate/practice/api")
    none = {"item": None, "feedback": None}
    assert ann.get("feedback") == none
    for number in (1, 2):
        found = ann.item()
        feedback = ann.say("rate", item=found["id"], cannot_tell=True)["feedback"]
        assert ann.get("state")["has_feedback"]
        for _ in range(2):
            told = ann.get("feedback")
            assert told["feedback"] == feedback
            assert (told["item"]["id"], told["item"]["groups"]) == (found["id"], found["groups"])
            assert (told["number"], told["n_items"]) == (number, 2)
            assert len(ann.client.get(f"{ann.at}/feedback").content) == STEP
        ann.item()
        assert ann.get("feedback") == none
        assert not ann.get("state")["has_feedback"]


def test_practice_is_undone_until_the_first_item_that_counts_is_looked_at(ann: Browser) -> None:
    practised = ann.rate()
    assert ann.get("state")["phase"] == "rating"
    assert ann.get("state")["can_undo"]
    assert ann.post("undo").json()["item"] == practised
    assert ann.get("state")["phase"] == "practice"
    assert ann.rate() == practised
    ann.item()
    assert not ann.get("state")["can_undo"]
    assert ann.post("undo").json()["item"] is None
    assert ann.get("state")["phase"] == "rating"


def test_an_emptied_field_is_not_nothing(ann: Browser) -> None:
    ann.until("rating")
    found = ann.item()
    assert found["draft"] is None
    ann.rate(cannot_tell=True, note="of the answer")
    again = ann.get("item", id=found["id"])["item"]
    ann.say("draft", item=found["id"], seen=again["seen"], text="")
    assert ann.get("item", id=found["id"])["item"]["draft"] == ""


def test_a_step_sent_twice_counts_once(ann: Browser) -> None:
    ann.until("rating")
    found = ann.item()
    step = {"kind": "rate", "item": found["id"], "seen": found["seen"], "cannot_tell": True, "key": "same"}
    first = ann.say(**step)
    assert ann.say(**step) == first
    assert first["n_done"] == 1
    again = ann.post("event", **step | {"kind": "skip", "text": "x"})
    assert again.status_code == 409
    assert "belongs to another step" in again.json()["error"]


def test_undo_takes_back_the_latest_step_once_per_key(ann: Browser) -> None:
    ann.until("rating")
    rated = ann.rate()
    for _ in range(2):
        assert ann.post("undo", key="back").json()["item"] == rated
    assert ann.item()["id"] == rated
    assert ann.post("undo").json()["item"] is None


def test_a_skip_needs_a_reason(ann: Browser) -> None:
    ann.until("rating")
    found = ann.item()
    for text in ("", "  "):
        answer = ann.post("event", kind="skip", item=found["id"], text=text)
        assert answer.status_code == 409
        assert "reason" in answer.json()["error"]
    assert ann.say("skip", item=found["id"], text="broken")["n_skipped"] == 1


WRONG_STEPS = (
    ({"kind": "unblind"}, "kind: "),
    ({"kind": "rate", "specificity": "1"}, "specificity: "),
    ({"kind": "draft", "text": "x" * 4001}, "text: "),
    ({"kind": "rate", "seq": 1}, "seq: "),
    ({"kind": "rate", "key": "../x"}, "key: "),
)


def test_what_no_step_can_be_is_said_in_a_sentence(ann: Browser) -> None:
    for body, words in WRONG_STEPS:
        answer = ann.post("event", **body)
        assert answer.status_code == 422, body
        assert answer.json()["error"].startswith(words)
        assert "\n" not in answer.json()["error"]


def test_half_a_character_is_refused(ann: Browser) -> None:
    body = json.dumps({"kind": "draft", "key": "k", "item": ann.item()["id"], "text": "\ud800"})
    answer = ann.client.post(f"{AT}/event", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_another_tab_s_answer_is_not_overwritten_unseen(ann: Browser) -> None:
    ann.until("rating")
    old = ann.item()
    ann.rate()
    answer = ann.post("event", kind="skip", item=old["id"], seen=old["seen"], text="x")
    assert answer.status_code == 409
    assert "answered elsewhere" in answer.json()["error"]
    now = ann.get("item", id=old["id"])["item"]
    assert now["answer"]["cannot_tell"]
    ann.say("skip", item=old["id"], seen=now["seen"], text="now on purpose")


def test_the_list_of_one_s_own_answers_is_read_in_parts(ann: Browser) -> None:
    ann.until("rating")
    found = ann.item()
    ann.say("explain", item=found["id"], text="y" * 300)
    ann.rate(specificity=1, nice=True, note="n")
    ann.until("review")
    state = ann.get("state")
    rows = [row for start in range(0, 40, 20) for row in ann.get("answers", start=start)["answers"]]
    assert [row["id"] for row in rows] == state["order"]
    first = next(row for row in rows if row["id"] == found["id"])
    assert first["words"].startswith("y" * 120 + "\u2026[180 more")
    assert (first["specificity"], first["nice"], first["has_note"]) == (1, True, True)
    assert ann.client.get(f"{AT}/answers?start=-1").status_code == 400


def test_a_restart_comes_back_to_the_item_and_its_draft(ann: Browser, folder: Path) -> None:
    ann.until("rating")
    ann.rate()
    found = ann.item()
    ann.say("draft", item=found["id"], text="half a tho")
    ann.client.app = None  # the process is gone; the browser still has its cookie
    again = TestClient(app_of(folder), base_url=BASE, cookies=ann.client.cookies)
    assert again.get(f"{AT}/item").json()["item"] == found | {"draft": "half a tho"}


def test_raters_do_not_see_each_other(ann: Browser, bob: Browser) -> None:
    before = bob.get("state"), bob.get("item")
    ann.until("rating")
    found = ann.item()
    for answer in (
        bob.client.get(f"{AT}/item?id={found['id']}"),
        bob.post("event", kind="rate", item=found["id"], cannot_tell=True),
    ):
        assert answer.status_code == 409
        assert "no such item" in answer.json()["error"]
    ann.rate()
    assert (bob.get("state"), bob.get("item")) == before
    assert "'ann'" not in str(before)


def test_a_study_made_while_the_app_is_served_is_found(app: Starlette, folder: Path) -> None:
    assert TestClient(app, base_url=BASE).get("/rate/late/api/state").status_code == 401
    made(folder, "late", features_per_arm=2, n_practice=0).close()
    late = Browser(app, tokens_of(folder, "late")["ann"], "/rate/late/api")
    assert late.get("state")["phase"] == "rating"


def test_after_the_unblinding_nothing_is_recorded(ann: Browser, folder: Path) -> None:
    found = ann.item()
    assert not ann.get("state")["is_over"]
    study = Study.open(folder, "one")
    study.unblind(force_reason="a test")
    study.close()
    assert ann.get("state")["is_over"]
    answer = ann.post("event", kind="rate", item=found["id"], cannot_tell=True)
    assert answer.status_code == 409
    assert "unblinded" in answer.json()["error"]


def test_a_disk_that_does_not_take_a_step_is_said_and_can_be_tried_again(
    ann: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    found = ann.item()
    with monkeypatch.context() as broken:
        broken.setattr("fovea.rating.store.Store.append", full)
        answer = ann.post("event", kind="rate", item=found["id"], cannot_tell=True, key="k")
    assert answer.status_code == 503
    assert len(answer.content) == STEP
    assert ann.say("rate", item=found["id"], cannot_tell=True, key="k")["phase"] == "rating"


def test_a_rater_reaches_nothing_of_the_explorer(ann: Browser) -> None:
    (name, value), *rest = ann.client.cookies.items()
    assert not rest
    assert name == "fovea-rater-8642"
    for cookie in (name, "fovea-owner-8642"):
        headers = {"cookie": f"{cookie}={value}"}
        for path in READS:
            assert ann.client.get(path, headers=headers).status_code == 401, path
        for path in WRITES:
            assert ann.client.post(path, json={}, headers=headers).status_code == 401, path
        assert ann.client.get("/api/session", headers=headers).status_code == 401


def test_the_owner_is_no_rater(app: Starlette) -> None:
    owner = sign_in(TestClient(app, base_url=BASE, headers={"origin": BASE}))
    (value,) = owner.cookies.values()
    for name in ("fovea-owner-8642", "fovea-rater-8642"):
        headers = {"cookie": f"{name}={value}"}
        for path in RATER_READS:
            assert owner.get(f"{AT}/{path}", headers=headers).status_code == 401, path
        for path in RATER_WRITES:
            assert owner.post(f"{AT}/{path}", json={}, headers=headers).status_code == 401, path


def test_only_the_own_token_of_the_own_study_gives_a_cookie(app: Starlette, folder: Path) -> None:
    made(folder, "two", features_per_arm=2, n_practice=0).close()
    client = TestClient(app, base_url=BASE, headers={"origin": BASE})
    token = tokens_of(folder)["ann"]
    for wrong in ("", "x", token[:-1], f"{token}x", tokens_of(folder, "two")["ann"], None, 3, [token], "\u00e9"):
        answer = client.post(f"{AT}/session", json={"token": wrong})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    cookie = client.post(f"{AT}/session", json={"token": token}).headers["set-cookie"]
    assert cookie.startswith("fovea-rater-8642=one_1.")
    assert {"httponly", "samesite=strict", "path=/rate/one"} <= {each.strip().lower() for each in cookie.split(";")}
    assert token not in cookie
    headers = {"cookie": cookie.partition(";")[0]}
    assert client.get(f"{AT}/state", headers=headers).status_code == 200
    for forged in (headers["cookie"], headers["cookie"].replace("one_1", "two_1"), headers["cookie"] + "0"):
        assert client.get("/rate/two/api/state", headers={"cookie": forged}).status_code == 401
    other = headers["cookie"].replace("one_1", "one_2")
    assert client.get(f"{AT}/state", headers={"cookie": other}).status_code == 401


def test_no_name_from_an_address_reaches_the_disk(app: Starlette) -> None:
    client = TestClient(app, base_url=BASE)
    for name in ("no", "..", "%2e%2e", "one%2f..", "One", "one ", "%00", "a" * 3000, "one%2fx"):
        answer = client.get(f"/rate/{name}/api/state")
        assert answer.status_code in (401, 404), name
        assert "studies" not in answer.text


FOREIGN = (
    ({CSRF_HEADER: ""}, 403),
    ({CSRF_HEADER: "x"}, 403),
    ({"origin": ""}, 403),
    ({"origin": "http://evil.example"}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"content-type": "text/plain"}, 415),
    ({"host": "evil.example"}, 421),
)


def test_writes_come_from_the_rater_s_own_page(ann: Browser) -> None:
    step = {"kind": "draft", "key": "k", "item": ann.item()["id"]}
    for path in (*RATER_WRITES, "session"):
        for headers, status in FOREIGN if path != "session" else FOREIGN[2:]:
            answer = ann.client.post(f"{AT}/{path}", json=step, headers=headers)
            assert answer.status_code == status, (path, headers)
    assert not ann.item()["draft"]
    assert ann.client.post(f"{AT}/event", json=step).status_code == 200


def test_reads_of_other_sites_and_large_requests_are_refused(ann: Browser) -> None:
    assert ann.client.get(f"{AT}/item", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert ann.post("event", kind="draft", text="x" * 70_000).status_code == 413
    assert ann.client.get("/rate/one/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_the_page_holds_no_data_and_is_the_same_for_every_study(app: Starlette) -> None:
    client = TestClient(app, base_url=BASE)
    pages = {client.get(path).text for path in ("/rate/one/", "/rate/one", "/rate/no/")}
    assert len(pages) == 1
    (page,) = pages
    assert page.count("<script") == 1
    assert "<style" not in page
    assert " style=" not in page


def test_the_owner_s_terminal_shows_the_raters_links_until_the_unblinding(folder: Path) -> None:
    (text,) = links_texts(folder, "http://127.0.0.1:1")
    for rater, token in tokens_of(folder).items():
        assert f"{rater}: http://127.0.0.1:1/rate/one/#t={token}" in text
    links = folder / "studies" / "one" / "links.json"
    kept = links.read_bytes()
    links.unlink()
    assert "links.json is missing" in links_texts(folder, "http://127.0.0.1:1")[0]
    links.write_bytes(kept)
    study = Study.open(folder, "one")
    study.unblind(force_reason="a test")
    study.close()
    assert links_texts(folder, "http://127.0.0.1:1") == []
