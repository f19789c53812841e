"""The log: append-only, nothing acknowledged is lost to kill -9, raters in parallel lose nothing."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fovea.errors import StudyError
from fovea.rating.store import Store
from fovea.rating.study import Study
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


@pytest.mark.slow
def test_two_raters_in_parallel_lose_nothing_in_2000_ratings(tmp_path):
    study = made(tmp_path)
    processes = [writer(study, name, stop=1000) for name in ("ann", "bob")]
    for process in processes:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        assert len(said.splitlines()) == 1001
    for number in (1, 2):
        drafts = [event.body["text"] for event in study.store.events(number) if event.kind == "draft"]
        assert drafts == [f"draft {n}" for n in range(1000)]
    assert len({event.seq for event in study.store.events()}) == len(study.store.events())


def test_folders_hold_no_half_study(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fovea.rating.study.create_store", fail)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path)
    assert list(Path(tmp_path / "studies").iterdir()) == []
