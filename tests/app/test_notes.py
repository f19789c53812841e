"""Notes and flags: appended, never lost, seen by every process; and what is no note is refused."""

import sqlite3
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fovea.app.notes import Notes
from fovea.errors import RunError, UnknownReferenceError


def test_looking_writes_nothing(tmp_path: Path) -> None:
    assert Notes(tmp_path).of("g", 1) == (False, ())
    assert not list(tmp_path.iterdir())


def test_marks_survive_and_another_process_sees_them(tmp_path: Path) -> None:
    first, second = Notes(tmp_path), Notes(tmp_path)
    first.add("g", 1, "about cells")
    first.flag("g", 1, True)
    marks = second.of("g", 1)
    assert marks.is_flagged
    assert [note.text for note in marks.notes] == ["about cells"]
    second.add("g", 1, "\u2014 \U0001f9ec")
    assert [note.text for note in first.of("g", 1).notes] == ["about cells", "\u2014 \U0001f9ec"]
    first.close()
    second.close()
    assert Notes(tmp_path).of("g", 1).is_flagged


def test_what_is_taken_back_stays_in_the_log(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    number = notes.add("g", 1, "wrong").notes[0].number
    assert notes.retract("g", 1, number).notes == ()
    assert notes.flag("g", 1, True).is_flagged
    assert not notes.flag("g", 1, False).is_flagged
    with pytest.raises(UnknownReferenceError, match="no note"):
        notes.retract("g", 1, number)
    notes.close()
    with sqlite3.connect(tmp_path / "notes.sqlite") as connection:
        assert [row[0] for row in connection.execute("SELECT kind FROM events ORDER BY id")] == [
            "note",
            "retract",
            "flag",
            "unflag",
        ]
        for change in ("DELETE FROM events", "UPDATE events SET text = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                connection.execute(change)
    connection.close()


def test_a_damaged_log_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite").write_bytes(b"not a database at all" * 99)
    with pytest.raises(RunError, match="notes.sqlite"):
        Notes(tmp_path).refresh()


def test_a_note_is_found_shown_and_taken_back(owner: TestClient) -> None:
    place = {"job": "g", "latent": 5}
    marks = owner.post("/api/marks", json=place | {"action": "note", "text": "  Zebrafish!  "}).json()
    assert marks["notes"][-1]["text"] == "Zebrafish!"
    found = owner.get("/api/latents", params={"q": "zebrafish"}).json()
    assert found["total"] == 1
    assert found["marks"] == [[False, "Zebrafish!"]]
    assert owner.get("/api/latents/g/5").json()["marks"] == marks
    number = marks["notes"][-1]["number"]
    assert owner.post("/api/marks", json=place | {"action": "retract", "number": number}).json()["notes"] == []
    assert owner.get("/api/latents", params={"q": "zebrafish"}).json()["total"] == 0


def test_flagged_latents_are_listed(owner: TestClient) -> None:
    for latent in (9, 3):
        owner.post("/api/marks", json={"job": "g", "latent": latent, "action": "flag"})
    rows = owner.get("/api/latents", params={"show": "flagged", "sort": "latent", "order": "ascending"}).json()["rows"]
    assert [row[1] for row in rows][-2:] == [3, 9]
    for latent in (9, 3):
        owner.post("/api/marks", json={"job": "g", "latent": latent, "action": "unflag"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": "erase"}, "erase"),
        ({"action": "note", "text": ""}, "empty"),
        ({"action": "note", "text": " \n"}, "empty"),
        ({"action": "note", "text": "x" * 4001}, "at most 4000"),
        ({"action": "note", "text": 3}, "a string"),
        ({"action": "note", "text": "half \ud83e"}, "half a character"),
        ({"action": "note"}, "text"),
        ({}, "action"),
    ],
)
def test_what_is_no_mark_is_refused_with_a_reason(owner: TestClient, change: dict[str, object], words: str) -> None:
    import json

    body = json.dumps({"job": "g", "latent": 5} | change)
    answer = owner.post("/api/marks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
