"""A study from its making to the report: verbs of the command line around two raters in a real Chromium."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from typer.testing import CliRunner

from fovea.cli import app
from tests.app.rater_pages import explain, finish, heading, listen, lock, press
from tests.app.raters import Served
from tests.features.made import make
from tests.report.make_run import make_run

pytestmark = pytest.mark.browser

ARMS = ("--arm", "ssae=ssae-batch_topk-k16-s0", "--arm", "direct=direct-batch_topk-k16-s0")
CONFIG = """
panels = ["domain"]
n_practice = 1
n_guesses = 1
repeat_share = 0.0
[shown]
n_strongest = 4
n_spread = 2
tokens_around = 5
"""
N_ITEMS = 4


def fovea(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == code, done.output + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with metrics and evidence, and a study of it, made by the verb."""
    run = make(make_run(tmp_path / "run"))
    (tmp_path / "study.toml").write_text(CONFIG)
    new = ("study", "new", run, "first", *ARMS, "--per-arm", N_ITEMS // 2, "--config", tmp_path / "study.toml")
    fovea(*new, "--rater", "ann", "--rater", "bob")
    return run


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    started = Served(folder)
    yield started
    assert started.end(signal.SIGINT) == 0


def at_work(page: Any, rater: str, shift: int) -> Iterator[str]:
    """A rater's way by keys, one step of it at a time, so that two can go it at once."""
    heading(page, f"Hello, {rater}")
    press(page, "Enter")
    page.wait_for_selector(".writing")
    press(page, "0", "Enter")
    page.wait_for_selector(".feedback")
    press(page, "Enter")
    heading(page, "Practice is over")
    press(page, "Enter")
    for number in range(1, N_ITEMS + 1):
        heading(page, f"Item {number}")
        explain(page, f"{rater} on item {number}")
        yield "explained"
        press(page, str(1 + (number + shift) % 4), *("n" if number == 1 else ""), "Enter")
        yield "rated"
    heading(page, "Your answers")
    finish(page)
    heading(page, "Guess the method")
    press(page, "Enter")
    page.wait_for_selector(".choices")
    yield "finished"
    press(page, "1", "Enter")
    heading(page, "All done")


def test_two_raters_rate_to_the_lock_and_the_report_shows_what_they_said(
    browser: Any, folder: Path, server: Served, tmp_path: Path
) -> None:
    complaints: list[str] = []
    contexts = {rater: browser.new_context() for rater in ("ann", "bob")}
    pages = {rater: context.new_page() for rater, context in contexts.items()}
    for rater, page in pages.items():
        page.set_default_timeout(60_000)
        listen(page, complaints)
        page.goto(server.links[rater])
    ways = [at_work(page, rater, shift) for shift, (rater, page) in enumerate(pages.items())]
    for said in zip(*ways, strict=True):
        assert len(set(said)) == 1, "step by step, in turns"
    lock(pages["ann"])
    assert "bob of study 'first' has not locked" in fovea("study", "unblind", folder, "first", code=2)
    lock(pages["bob"])
    assert "all have locked: unblind it" in fovea("study", "status", folder, "first")
    for page in pages.values():
        page.context.close()
    assert complaints == []

    assert "ssae minus direct, domain panel" in fovea("study", "unblind", folder, "first")
    fovea("study", "export", folder, "first", "--out", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "ratings.json").read_text())["rows"]
    rated = [row for row in rows if row["phase"] == "rating"]
    for shift, rater in enumerate(pages):
        said = [(row["specificity"], row["explanation"]) for row in rated if row["rater"] == rater]
        assert said == [((n + shift) % 4, f"{rater} on item {n}") for n in range(1, N_ITEMS + 1)]
    assert [row["guess"] for row in rows if row["phase"] == "guess"] == ["direct", "direct"]
    means = [mean(row["specificity"] for row in rated if row["arm"] == arm) for arm in ("ssae", "direct")]

    fovea("report", folder)
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    told = page.inner_text("body")
    assert "Rated blind on words text by 2 raters, features of ssae scored" in told
    assert f"means {means[0]:.2f} and {means[1]:.2f} of 3" in told
    assert "Called nice: " in told
    page.close()
