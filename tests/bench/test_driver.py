"""The driver on real processes: order of rounds, failures, the allocator's settings, peak memory."""

import sys
from pathlib import Path

from fovea.bench.driver import TUNED, Measured, Peer, Schedule, Variant, alternate

WORKER = """
import os, sys, time

def prepare(task):
    if task.get("fails") == "prepare":
        raise RuntimeError("not today")
    print("noise on stdout")
    turns = 0
    held = []

    def unit():
        nonlocal turns
        turns += 1
        with open(task["log"], "a") as file:
            file.write(task["name"])
        if task.get("fails") == "unit" and turns > 2:
            os._exit(3)
        if task.get("bytes"):
            held.append(bytearray(os.urandom(1 << 20)) * task["bytes"])
            held.clear()
        time.sleep(0.002)
        return 7

    return unit, lambda: {"environment": dict(os.environ), "turns": turns}
"""


def run(folder: Path, tasks: dict[str, dict], **schedule) -> dict[str, Measured]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    peers = {"peer": Peer(sys.executable, str(script), {})}
    log = str(folder / "log")
    variants = [Variant(name, "peer", {"name": name, "log": log, **task}) for name, task in tasks.items()]
    found = alternate(variants, peers=peers, schedule=Schedule(**{"rounds": 3, "seconds": 0.0} | schedule))
    return {each.variant.name: each for each in found}


def test_rounds_alternate_strictly_after_two_warm_ups_each(tmp_path):
    found = run(tmp_path, {"a": {}, "b": {}, "c": {}})
    assert (tmp_path / "log").read_text() == "abc" * 5
    assert all(len(each.rounds) == 3 for each in found.values())
    assert all(taken.tokens == 7 and taken.seconds > 0.001 for each in found.values() for taken in each.rounds)


def test_a_round_lasts_as_long_as_asked(tmp_path):
    found = run(tmp_path, {"a": {}}, seconds=0.1, rounds=1)
    (taken,) = found["a"].rounds
    assert taken.seconds >= 0.1
    assert taken.tokens > 7


def test_a_variant_rests_after_the_rounds_that_it_was_given(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    task = {"log": str(tmp_path / "log")}
    variants = [
        Variant("a", "peer", task | {"name": "a"}),
        Variant("b", "peer", task | {"name": "b"}, max_rounds=2),
    ]
    found = alternate(
        variants, peers={"peer": Peer(sys.executable, str(script), {})}, schedule=Schedule(3, 0.0, warm_ups=0)
    )
    assert (tmp_path / "log").read_text() == "ababa"
    assert [len(each.rounds) for each in found] == [3, 2]


def test_one_that_fails_is_left_out_and_says_why(tmp_path):
    found = run(tmp_path, {"good": {}, "refuses": {"fails": "prepare"}, "dies": {"fails": "unit"}})
    assert len(found["good"].rounds) == 3
    assert found["good"].error is None
    assert found["refuses"].rounds == []
    assert "not today" in str(found["refuses"].error)
    assert found["dies"].rounds == []
    assert "ended with code 3" in str(found["dies"].error)


def test_the_tuned_allocator_is_given_to_every_tool_and_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    for tuned in (False, True):
        environment = run(tmp_path, {"a": {}}, tuned=tuned, rounds=1)["a"].results["environment"]
        assert {name: environment.get(name) for name in TUNED} == (TUNED if tuned else dict.fromkeys(TUNED))
        assert "PYTHONPATH" not in environment


def test_peak_memory_is_of_the_process(tmp_path):
    found = run(tmp_path, {"small": {}, "large": {"bytes": 200}}, rounds=1)
    grown = found["large"].peak_rss - found["small"].peak_rss
    assert 180 << 20 < grown < 300 << 20
