"""The report's section on blind studies, from studies rated by rules."""

import json
import re
from pathlib import Path

import pytest

from fovea.errors import RunError
from fovea.report.page import write_report
from tests.rating.made_study import made, work
from tests.rating.test_study import planted
from tests.report.make_run import make_run
from tests.report.pages import Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = make_run(tmp_path_factory.mktemp("rated") / "run")
    study = planted(made(run, rater=[{"name": "ann"}, {"name": "rob", "kind": "scripted"}]))
    study.unblind()
    forced = made(run, "two")
    work(forced.rater(forced.tokens()["ann"]), n_steps=20)
    forced.unblind(force_reason="<b>bob</b> left \u202e")
    made(run, "three")  # still blind
    return Page(write_report(run))


def test_the_section_says_what_was_found_and_by_whom(page: Page) -> None:
    assert "features of ssae scored" in page.text
    assert "permutation p" in page.text
    assert "Fisher's exact p" in page.text
    assert "20 features per arm and 2 raters" in page.text
    assert "1 of 2 raters are scripted" in page.text
    assert "Unblinded by force before ann and bob had locked" in page.text
    assert "By rater alone: ann" in page.text
    assert "seeds of training and raters were not resampled" in page.text


def test_a_blind_study_is_not_shown(page: Page) -> None:
    assert "Study two" in page.text
    assert "Study three" not in page.text


def test_the_page_is_well_formed_and_hostile_text_is_text(page: Page) -> None:
    assert not page.faults
    assert len(page.ids) == len(set(page.ids))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert "<b>bob</b> left <U+202E>" in page.text
    assert "\u202e" not in page.text
    assert "\0" not in page.text
    assert "<img src=x onerror=alert(1)>" in page.text, "what raters wrote is shown as they wrote it"


def test_nice_features_have_texts_examples_and_states(page: Page) -> None:
    assert re.search(r"bio: ssae-k16-s0, latent \d+ \(ssae\)", page.text)
    assert "did not activate in 100,000 tokens" in page.text or "On general text" in page.text
    assert page.all("span")


def test_without_a_result_there_is_no_section(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    made(run)
    assert "Blind rating" not in Page(write_report(run)).text


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    study = made(run)
    path = study.unblind(force_reason="test")
    path.write_text(json.dumps({"panels": {}}))
    with pytest.raises(RunError, match="is damaged"):
        write_report(run)
