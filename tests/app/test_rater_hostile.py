"""Hostile texts, subjects, methods, rubrics and explanations are inert in every page of a rater."""

import json
from pathlib import Path
from typing import Any

import pytest

from fovea.features.read import Card
from fovea.rating.study import Study
from tests.app.hostile import HOSTILE
from tests.app.rater_pages import check_layout, heading, idle, listen, press
from tests.app.raters import TINY, Served
from tests.app.test_browser import until
from tests.rating.made_study import HOSTILE as HOSTILE_LINE
from tests.rating.made_study import MadeSource, config, made

pytestmark = pytest.mark.browser


class HostileSource(MadeSource):
    """Hostile texts in every token, a hostile name for the subject."""

    def card(self, job: str, latent: int) -> Card:
        card = super().card(job, latent)
        evidence = []
        for each in card.evidence:
            groups = []
            for group in each.groups:
                examples = []
                for n, example in enumerate(group.examples):
                    texts = [*HOSTILE[:-1], HOSTILE_LINE, HOSTILE[-1] if group.name == "top" else "x"]
                    pieces = [p._replace(text=texts[i % len(texts)]) for i, p in enumerate(example.pieces)]
                    pieces[0] = pieces[0]._replace(text=f"{latent}-{n}-{group.name}")
                    examples.append(example._replace(pieces=tuple(pieces)))
                groups.append(group._replace(examples=tuple(examples)))
            evidence.append(each._replace(groups=tuple(groups)))
        return card._replace(evidence=tuple(evidence))


def hostile_study(folder: Path) -> Study:
    """A study whose subject, methods, rubric and explanations are hostile too."""
    source = HostileSource(n=40, domains=(HOSTILE[1],))
    told = folder / "told.jsonl"
    lines = [
        {"job": job, "latent": latent, "panel": panel, "text": f"{HOSTILE_LINE} {HOSTILE[latent % 16]}"}
        for job in source.jobs
        for latent in range(source.sizes[job])
        for panel in ("domain", "general")
    ]
    told.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain = config(source)
    arms = [{"name": HOSTILE[i], "jobs": list(arm.jobs)} for i, arm in enumerate(plain.arm)]
    rubric = {"question": f"{HOSTILE_LINE} {{subject}}?", "points": [f"{text}: {text}" for text in HOSTILE[:4]]}
    shown = {"n_strongest": 2, "n_spread": 1, "tokens_around": 15}
    return made(folder, "bad", source, **TINY, arm=arms, rubric=rubric, explanation=str(told), shown=shown)


def assert_inert(page: Any) -> None:
    found = page.evaluate(
        """() => ({
            elements: document.querySelectorAll('main img, main script, main iframe, main style, main svg, dialog img')
                .length,
            handlers: [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())
                .filter(name => name.startsWith('on')).length,
            scripts: document.scripts.length,
            hidden: /[\\u0000-\\u0008\\u202a-\\u202e\\u2066-\\u2069\\ufeff\\u200b]/.test(document.body.textContent),
        })"""
    )
    assert found == {"elements": 0, "handlers": 0, "scripts": 1, "hidden": False}


def test_hostile_text_is_inert_in_every_page(browser: Any, served: Served) -> None:
    study = hostile_study(served.run)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    alarms: list[str] = []
    listen(page, alarms)
    page.on("request", lambda r: alarms.append(r.url) if not r.url.startswith("http://127.0.0.1") else None)
    page.goto(f"http://127.0.0.1:{served.port}/rate/bad/#t={study.tokens()['ann']}")
    heading(page, "Hello")
    assert_inert(page)
    press(page, "Enter")
    page.wait_for_selector(".item-page")
    assert_inert(page)
    check_layout(page)
    for text in (HOSTILE[0], "{{7*7}}${7*7}", "[U+202E]gnp.exe", "AAA\u2026[999,600 more characters]"):
        assert text in page.inner_text(".evidence"), text
    assert HOSTILE[1] in page.inner_text(".from")
    press(page, "1", "Enter")
    page.wait_for_selector(".feedback")
    assert_inert(page)
    press(page, "Enter")
    heading(page, "Practice is over")
    press(page, "Enter")
    turn = 0
    while True:
        until(page, "() => document.querySelector('.review') || document.querySelector('.item-page .choices')")
        idle(page)
        if page.locator(".review").count():
            break
        before = page.inner_text("h1")
        if turn % 2:
            press(page, "s")
            page.wait_for_selector("dialog")
            page.keyboard.insert_text(HOSTILE[turn % 16])
        else:
            press(page, "e")
            page.keyboard.insert_text(HOSTILE_LINE)
            page.keyboard.press("Escape")
            press(page, str(turn % 4 + 1))
        press(page, "Enter")
        until(page, "before => document.querySelector('h1').textContent !== before", before)
        assert_inert(page)
        turn += 1
    check_layout(page)
    page.click(".own-answer >> nth=1")
    heading(page, "Item 2")
    assert_inert(page)
    press(page, "?")
    page.wait_for_selector("dialog .rubric")
    assert_inert(page)
    press(page, "Escape")
    idle(page)
    press(page, "Escape")
    page.click("text=Finish rating")
    page.click("dialog button[type=submit]")
    heading(page, "Guess the method")
    assert_inert(page)
    press(page, "Enter")
    page.wait_for_selector(".choices")
    assert_inert(page)
    assert page.locator(".choices .words").all_inner_texts()[-1] == "cannot say"
    context.close()
    study.close()
    assert alarms == []
