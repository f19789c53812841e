"""Packets: what is in the file, rating from it, and the way back; hostile and conflicting files are refused."""

import json
import re
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fovea.errors import StudyError
from fovea.rating import packetfile
from fovea.rating.collect import rows_of
from fovea.rating.packet import Packet, import_packet, make_packet
from fovea.rating.session import RaterEvent
from fovea.rating.study import Study
from tests.rating.made_study import always, made, work

SMALL = {"features_per_arm": 4, "n_practice": 2, "n_guesses": 2, "repeat_share": 0.1}


@pytest.fixture
def study(tmp_path):
    study = made(tmp_path, **SMALL)
    yield study
    study.close()


@pytest.fixture
def file(study, tmp_path) -> Path:
    make_packet(study, "ann", tmp_path / "ann.packet")
    return tmp_path / "ann.packet"


def offline(file: Path, n_steps: int | None = None, rule=always) -> None:
    packet = Packet(file)
    work(packet.rater(packet.token), rule, n_steps=n_steps)
    packet.close()


def ann(study):
    return study.rater(study.tokens()["ann"])


def answers(study: Study, rater: str):
    rows = rows_of(study.store, None)
    return [(r.item, r.answer._replace(seconds=0, answered_at=None)) for r in rows if r.rater.name == rater]


def changed(file: Path, *statements: str) -> None:
    """As a rater with other tools could: triggers and all."""
    connection = sqlite3.connect(file, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for _, sql in triggers:
        connection.execute(sql)
    connection.close()


def test_a_packet_holds_what_its_rater_may_see_and_no_more(study, file):
    """To the byte: no mapping, no job, no setting, nothing of the other rater; readable by its owner alone."""
    sealed, data = study.sealed(), file.read_bytes()
    secrets = [sealed.salt, study.tokens()["bob"], "k16", "k40", "n_fired", "features_per_arm", "min_firings", '"bob"']
    secrets += [item.id for item in study.store.items(2)] + [str(sealed.order_seed)]
    assert not [secret for secret in secrets if secret.encode() in data]
    assert study.tokens()["ann"].encode() in data
    packed = packetfile.read_packed(file)
    assert set(packed.facts) == {
        "format", "name", "question", "points", "writes_explanation", "arms", "commitment", "protocol_sha256", "made",
        "packet",
    }  # fmt: skip
    assert [rater.name for rater in packed.raters] == ["ann"]
    assert {item.id for item in packed.items} == {item.id for item in study.store.items(1)}
    for body in map(json.loads, packed.evidence.values()):
        assert set(body) <= {"panel", "subject", "groups", "explanation", "fact"}
        assert not re.search(r"ssae|direct|latent|doc\d{4}", json.dumps(body))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(file.parent.glob("ann.packet-*")), "one file, no log beside it"


def test_without_guesses_not_even_the_methods_names_are_in_it(tmp_path):
    study = made(tmp_path, **{**SMALL, "n_guesses": 0})
    make_packet(study, "ann", tmp_path / "p")
    assert b"ssae" not in (tmp_path / "p").read_bytes()


def test_rated_elsewhere_is_rated_here(study, file, tmp_path):
    """The same steps online and in a packet give the same answers; importing again adds nothing."""
    offline(file)
    done = import_packet(study, file)
    assert done.phase == "locked"
    assert done.n_new > 20
    (tmp_path / "other").mkdir()
    packet = Packet(file)
    there = rows_of(packet.store, None)
    assert answers(study, "ann") == [(r.item, r.answer._replace(seconds=0, answered_at=None)) for r in there]
    seconds = {row.item: row.answer.seconds for row in there}
    assert all(r.answer.seconds == seconds[r.item] for r in rows_of(study.store, None) if r.rater.name == "ann")
    packet.close()
    n = len(study.store.events())
    again = import_packet(study, file)
    assert (again.n_new, len(study.store.events())) == (0, n)
    work(study.rater(study.tokens()["bob"]))
    assert json.loads(study.unblind().read_text())["raters"][0]["n_rated"] > 0


def test_a_packet_goes_on_where_the_rater_was_and_comes_back_in_parts(study, tmp_path):
    work(ann(study), n_steps=7)
    ann(study).undo("taken-back")
    work(study.rater(study.tokens()["bob"]), n_steps=5)
    file = tmp_path / "ann.packet"
    make_packet(study, "ann", file)
    packet = Packet(file)
    assert packet.session(1).next_item() == ann(study).next_item()
    assert packet.session(1).undo("and-again") is not None
    packet.close()
    offline(file, 6)
    copy = tmp_path / "early.packet"
    copy.write_bytes(file.read_bytes())
    assert import_packet(study, file).n_new > 0
    offline(file)
    assert import_packet(study, file).phase == "locked"
    assert import_packet(study, copy).n_new == 0, "an older copy adds nothing"
    events = [event for event in study.store.events(1) if event.kind == "undo"]
    steps = {event.seq: event for event in study.store.events(1)}
    assert len(events) == 2
    assert all(steps[event.body["of"]].item == event.item for event in events)


def test_who_also_rated_online_is_told_and_nothing_is_lost(study, file):
    offline(file, 6)
    work(ann(study), n_steps=3)
    before = study.store.events()
    with pytest.raises(StudyError, match="also rated online since the packet was made"):
        import_packet(study, file)
    assert study.store.events() == before


def test_to_have_looked_online_is_no_conflict(study, file):
    offline(file, 6)
    item = ann(study).next_item()
    ann(study).record(RaterEvent(kind="draft", key="d", item=item.id, text="half a tho"))
    assert import_packet(study, file).n_new > 6
    offline(file)
    assert import_packet(study, file).phase == "locked"


def test_packets_of_other_studies_and_raters_are_refused(study, file, tmp_path):
    offline(file, 3)
    other = made(tmp_path, "two", **SMALL)
    with pytest.raises(StudyError, match="is a packet of study 'one'"):
        import_packet(other, file)
    changed(file, """UPDATE fact SET body = json_set(body, '$.rater', 'bob') WHERE name = 'packet'""")
    with pytest.raises(StudyError, match="was changed"):
        import_packet(study, file)
    changed(file, """UPDATE fact SET body = json_set(body, '$.rater', 'eve') WHERE name = 'packet'""")
    with pytest.raises(StudyError, match="has no rater 'eve'"):
        import_packet(study, file)
    with pytest.raises(StudyError, match="no rater 'eve'; it has: ann, bob"):
        make_packet(study, "eve", tmp_path / "eve")
    with pytest.raises(StudyError, match="exists; give a new file"):
        make_packet(study, "ann", file)


CHANGES = {
    "question": "UPDATE fact SET body = '\"Well?\"' WHERE name = 'question'",
    "token": "UPDATE fact SET body = json_set(body, '$.token', 'x') WHERE name = 'packet'",
    "text": "UPDATE evidence SET body = replace(body, 'cell', 'sell')",
    "order": "UPDATE item SET position = position + 100 WHERE phase = 'rating'",
    "name": "UPDATE rater SET name = 'bob'",
    "item": "DELETE FROM item WHERE id NOT IN (SELECT item FROM event WHERE item IS NOT NULL)",
    "known": 'UPDATE event SET body = \'{"text": "other", "seconds": 1}\' WHERE seq = 2',
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_packet_is_refused(study, file, change):
    offline(file, 3)
    import_packet(study, file)
    before = study.store.events()
    changed(file, CHANGES[change])
    with pytest.raises(StudyError, match="was changed"):
        import_packet(study, file)
    assert study.store.events() == before


NEW = "INSERT INTO event (rater, key, kind, item, body, at) VALUES "
FORGED = {
    "rate first": ("'rate', '{item}', '{{\"specificity\": 1, \"cannot_tell\": false, \"nice\": false, \"note\": \"\", "
                   "\"seconds\": 1}}', 1e9", "explanation comes before"),
    "unblind": ("'unblind', NULL, '{{}}', 1e9", "does not fit"),
    "import": ("'import', NULL, '{{}}', 1e9", "does not fit"),
    "more": ("'draft', '{item}', '{{\"text\": \"x\", \"specificity\": 2}}', 1e9", "more or less"),
    "field": ("'draft', '{item}', '{{\"text\": \"x\", \"evil\": 2}}', 1e9", "does not fit"),
    "own key": ("'draft', '{item}', '{{\"text\": \"x\", \"key\": \"y\"}}', 1e9", "does not fit"),
    "undo": ("'undo', '{item}', '{{\"of\": 1}}', 1e9", "undo takes back the latest"),
    "undo list": ("'undo', '{item}', '{{\"of\": [1]}}', 1e9", "is damaged"),
    "lock": ("'lock', NULL, '{{}}', 1e9", "very end"),
    "seconds": ("'explain', '{item}', '{{\"text\": \"x\", \"seconds\": -5}}', 1e9", "no time"),
    "time": ("'draft', '{item}', '{{\"text\": \"x\"}}', 1e18", "its time"),
    "infinity": ("'draft', '{item}', '{{\"text\": \"x\"}}', 9e999", "is damaged"),
    "theirs": ("'draft', '{theirs}', '{{\"text\": \"x\"}}', 1e9", "no such item|is damaged|does not fit"),
    "no json": ("'draft', '{item}', '{{', 1e9", "is damaged"),
    "deep": ("'draft', '{item}', '" + "[" * 50_000 + "', 1e9", "is damaged"),
    "long": ("'draft', '{item}', '\"" + "x" * 70_000 + "\"', 1e9", "at most 65536"),
    "blob": ("'draft', '{item}', x'00ff', 1e9", "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_steps_that_nobody_could_have_made_are_refused(study, file, name):
    values, message = FORGED[name]
    item = packetfile.read_packed(file).items
    first = next(each.id for each in item if each.phase == "practice")
    told = values.format(item=first, theirs=study.store.items(2)[0].id)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(f"{NEW} (1, 'k', {told})")
    connection.close()
    with pytest.raises(StudyError, match=message):
        import_packet(study, file)
    assert study.store.events() == []


HOSTILE: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("no database " * 400),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192 + path.read_bytes()[12288:]),
    "trigger": lambda path: changed(path, "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM item; END"),
    "view": lambda path: changed(path, "CREATE VIEW v AS SELECT 1"),
    "table": lambda path: changed(path, "CREATE TABLE t (x)"),
    "no trigger": lambda path: changed(path, "DROP TABLE closed", "CREATE TABLE closed (at REAL)"),
    "wal": lambda path: changed(path, "PRAGMA journal_mode = WAL"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_files_are_refused(study, file, name):
    offline(file, 3)
    HOSTILE[name](file)
    with pytest.raises(StudyError, match=r"ann\.packet (is no packet|is damaged|does not exist)"):
        import_packet(study, file)
    assert study.store.events() == []


def test_large_files_are_not_read(study, file, monkeypatch):
    monkeypatch.setattr(packetfile, "MAX_BYTES", 5000)
    with pytest.raises(StudyError, match="a packet at most 5,000"):
        import_packet(study, file)
    monkeypatch.setattr(packetfile, "MAX_BYTES", 10**9)
    monkeypatch.setattr(packetfile, "MAX_EVENTS", 2)
    offline(file, 3)
    with pytest.raises(StudyError, match="at most 2 are read"):
        import_packet(study, file)


def test_a_packet_with_a_journal_beside_it_is_not_taken_for_whole(study, file):
    offline(file, 3)
    journal = file.with_name(file.name + "-journal")
    journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 600)
    with pytest.raises(StudyError, match="lies beside the packet"):
        import_packet(study, file)
    journal.unlink()
    assert import_packet(study, file).n_new > 0


def test_nothing_is_imported_after_the_unblinding(study, file, tmp_path):
    offline(file, 3)
    study.unblind(force_reason="test")
    with pytest.raises(StudyError, match="is unblinded"):
        import_packet(study, file)
    with pytest.raises(StudyError, match="is unblinded"):
        make_packet(study, "bob", tmp_path / "bob.packet")


def test_a_packet_is_durable_after_every_step(file):
    packet = Packet(file)
    connection = packet.store._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (3,)
    with pytest.raises(StudyError, match="does not belong to the packet"):
        packet.rater("x")
    packet.close()
    with pytest.raises(StudyError, match="does not exist"):
        Packet(file.with_name("none"))
