"""The log: append-only, nothing acknowledged is lost to kill -9, raters in parallel lose nothing."""

import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from fovea.errors import StudyError
from fovea.rating.collect import rows_of
from fovea.rating.session import RaterEvent
from fovea.rating.store import Store
from fovea.rating.study import Study
from fovea.rating.words import links_texts
from tests.house import ROOT
from tests.rating.made_study import made, work

WRITER = """
import sys
from pathlib import Path
from fovea.rating.session import RaterEvent
from fovea.rating.study import Study
run, token, start, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
session = Study.open(run, "one").rater(token)
item = session.next_item()
print("ready", flush=True)
for n in range(start, stop):
    receipt = session.record(RaterEvent(kind="draft", key=f"d{n}", item=item.id, text=f"draft {n}"))
    print(n, receipt.seq, flush=True)
"""


def writer(study: Study, rater: str, *, start: int = 0, stop: int = 10**9) -> subprocess.Popen[str]:
    """A process that records and says what was acknowledged."""
    command = [
        sys.executable,
        "-c",
        WRITER,
        str(study.folder.parent.parent),
        study.tokens()[rater],
        str(start),
        str(stop),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("table", ["event", "item", "evidence", "fact", "rater", "closed"])
def test_the_database_refuses_to_change_or_forget(tmp_path, table):
    study = made(tmp_path)
    work(study.rater(study.tokens()["ann"]), n_steps=3)
    connection = study.store._connection
    column = connection.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchone()[0]
    before = connection.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    for statement in (
        f"UPDATE {table} SET {column} = 7",
        f"DELETE FROM {table}",
        f"REPLACE INTO {table} SELECT * FROM {table} LIMIT 1",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only|sealed"):
            connection.execute(statement)
    if table != "event":
        with pytest.raises(sqlite3.IntegrityError, match="sealed"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1")
    assert connection.execute(f"SELECT * FROM {table}").fetchall() == before


def test_durability_is_what_is_promised(tmp_path):
    study = made(tmp_path)
    assert study.store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert study.store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_refused_step_leaves_no_open_transaction(tmp_path):
    study = made(tmp_path)

    def fail() -> None:
        with study.store.writing():
            study.store.append(1, "k", kind="draft", item=None, body={"text": ""})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not study.store._connection.in_transaction
    assert study.store.events() == []


def test_what_is_no_study_or_another_version_is_said(tmp_path):
    with pytest.raises(StudyError, match="fovea study new"):
        Store(tmp_path / "none.sqlite")
    with pytest.raises(StudyError, match="no study 'x'; it has none"):
        Study.open(tmp_path, "x")
    made(tmp_path)
    for name in ("../one", "one/..", "ONE", ""):
        with pytest.raises(StudyError, match="it has: one"):
            Study.open(tmp_path, name)


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    study = made(tmp_path)
    rng, acknowledged, start = random.Random(0), dict[int, int](), 0
    for _ in range(3):
        process = writer(study, "ann", start=start)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = [process.stdout.readline() for _ in range(rng.randint(5, 40))]
        time.sleep(rng.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        pairs = [line.split() for line in [*said, *rest.splitlines()[:-1]]]  # the last line may be cut
        acknowledged |= {int(n): int(seq) for n, seq in pairs}
        start = max(acknowledged) + 3  # what came after may be in the log; its keys are not used again
        again = Study.open(tmp_path, "one")
        stored = {event.key: event for event in again.store.events(1)}
        for n, seq in acknowledged.items():
            assert stored[f"d{n}"].seq == seq
            assert stored[f"d{n}"].body == {"text": f"draft {n}"}
        (check,) = again.store._connection.execute("PRAGMA integrity_check").fetchone()
        assert check == "ok"
        again.close()
    assert len(acknowledged) > 20


RATER = """
import sys, time
from pathlib import Path
from fovea.rating.session import RaterEvent
from fovea.rating.study import Study
run, token, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
session = Study.open(run, "bare").rater(token)
items = session.order()
print("ready", flush=True)
sys.stdin.readline()
for i in range(n):
    session.record(RaterEvent(kind="rate", key=f"r{i}", item=items[i % len(items)], specificity=i % 4, note=str(i)))
    time.sleep(0.001)  # without any thought between two steps one process would hold the lock nearly all the time
"""


def bare(folder: Path) -> Study:
    """A study of ratings alone, where a thousand of them are edits of forty items."""
    return made(folder, "bare", n_practice=0, n_guesses=0, explanation="none", repeat_share=0.0, panels=["domain"])


def check_that_all_ratings_are_there(study: Study) -> None:
    """Every rating of both raters, in order, of the right item, and the two were at it at the same time."""
    for number in (1, 2):
        items = [item.id for item in study.store.items(number)]
        rated = [event for event in study.store.events(number) if event.kind == "rate"]
        assert [event.body["note"] for event in rated] == [str(i) for i in range(1000)]
        assert [event.item for event in rated] == [items[i % len(items)] for i in range(1000)]
        assert [event.body["specificity"] for event in rated] == [i % 4 for i in range(1000)]
    who = [event.rater for event in study.store.events() if event.kind == "rate"]
    assert len(who) == 2000
    turns = sum(a != b for a, b in pairwise(who))
    assert turns > 20, "one after the other is not in parallel"
    assert rows_of(Study.open(study.folder.parent.parent, study.name).store, None)[0].answer.is_done


@pytest.mark.slow
def test_two_raters_in_two_processes_lose_nothing_in_2000_ratings(tmp_path):
    study = bare(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RATER, str(tmp_path), study.tokens()[name], "1000"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name in ("ann", "bob")
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both are ready: now together
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=300)
        assert process.returncode == 0
    check_that_all_ratings_are_there(study)


@pytest.mark.slow
def test_two_raters_in_two_threads_of_one_server_lose_nothing_in_2000_ratings(tmp_path):
    study, together = bare(tmp_path), threading.Barrier(2)

    def rate(name: str) -> None:
        session = study.rater(study.tokens()[name])
        items = session.order()
        together.wait()
        for i in range(1000):
            step = RaterEvent(kind="rate", key=f"r{i}", item=items[i % 40], specificity=i % 4, note=str(i))
            session.record(step)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(rate, name) for name in ("ann", "bob")]:
            done.result()
    check_that_all_ratings_are_there(study)


def test_folders_hold_no_half_study(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fovea.rating.study.create_store", fail)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path)
    assert [path.name for path in Path(tmp_path / "studies").iterdir()] == [".making"]


def test_two_processes_cannot_make_one_study_of_two_halves(tmp_path):
    made(tmp_path)
    with (tmp_path / "studies" / ".making").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StudyError, match="another process is making a study"):
            made(tmp_path, "two")
    assert made(tmp_path, "two").name == "two"


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "torn"])
def test_a_damaged_study_is_said_with_its_file(tmp_path, damage):
    study = made(tmp_path)
    study.close()
    path = study.folder / "study.sqlite"
    data = path.read_bytes()
    torn = data[:100] + b"\xff" * 4000 + data[4100:]
    path.write_bytes({"text": b"no database at all" * 99, "cut": data[:5000], "empty": b"", "torn": torn}[damage])
    with pytest.raises(StudyError, match=r"study\.sqlite cannot be read as a study .*restore it"):
        Study.open(tmp_path, "one")
    assert "is not served" in links_texts(tmp_path, "http://x")[0]


@pytest.mark.parametrize("column", ["key", "kind", "at"])
def test_an_event_that_holds_bytes_is_damage(tmp_path, column):
    study = made(tmp_path)
    work(study.rater(study.tokens()["ann"]), n_steps=2)
    values = {"rater": 1, "key": "k", "kind": "answer", "item": None, "body": "{}", "at": 1.0, column: b"\xff"}
    study.store._connection.execute(
        "INSERT INTO event (rater, key, kind, item, body, at) VALUES (:rater, :key, :kind, :item, :body, :at)", values
    )
    with pytest.raises(StudyError, match="restore it"):
        study.store.events()
