"""Typed text through the lm and every SAE of a real, tiny run: in process, and in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fovea.app.server import Place, build
from fovea.features.prompt import fire
from tests.app.conftest import BASE, TOKEN, serving, sign_in
from tests.app.hostile import HOSTILE
from tests.features.real import run_with_features

pytestmark = pytest.mark.slow
TEXT = "w5 w6 w7 w40 w41 w8 w9"


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_with_features(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def client(real_run: Path) -> Iterator[TestClient]:
    with TestClient(build(real_run, Place(), TOKEN), base_url=BASE, headers={"origin": BASE}) as found:
        yield sign_in(found)


def test_the_answer_holds_every_firing_of_every_sae(client: TestClient, real_run: Path) -> None:
    answer = client.post("/api/prompt", json={"text": TEXT}).json()
    expected = fire(real_run, TEXT)
    assert answer["texts"] == [token.text for token in expected.tokens]
    assert answer["kept"] == [token.counted for token in expected.tokens]
    assert [job["job"] for job in answer["jobs"]] == [firings.job for firings in expected.jobs]
    for job, firings in zip(answer["jobs"], expected.jobs, strict=True):
        assert [[latent for latent, _ in at] for at in job["fired"]] == [
            [each.latent for each in at] for at in firings.tokens
        ]
    assert any(at for job in answer["jobs"] for at in job["fired"])


@pytest.mark.parametrize("text", ["", "x" * 2001, 3, None])
def test_text_that_cannot_be_read_is_refused_with_a_reason(client: TestClient, text: Any) -> None:
    answer = client.post("/api/prompt", json={"text": text})
    assert answer.status_code == 400
    assert "text" in answer.json()["error"]


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_hostile_text_is_answered(client: TestClient, text: str) -> None:
    assert client.post("/api/prompt", json={"text": text}).status_code == 200


@pytest.mark.browser
def test_tokens_and_latents_are_chosen_in_the_browser(browser: Any, real_run: Path) -> None:
    with serving(real_run) as link:
        context = browser.new_context()
        page = context.new_page()
        alarms: list[str] = []
        page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: alarms.append(str(error)))
        page.goto(link)
        page.wait_for_selector(".rows .line .latent")
        page.click("nav >> text=Prompt")
        page.fill("textarea", TEXT)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".sae", timeout=90_000)
        names = page.evaluate("fetch('/api/run').then(r => r.json()).then(r => r.jobs.map(j => j.name))")
        assert page.locator(".sae").count() == len(names)
        assert [each.get_attribute("aria-label") for each in page.locator(".sae").all()] == names
        page.focus(".prompt-text")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.locator(".prompt-text [aria-selected=true]").get_attribute("id") == "token-2"
        chip = page.locator(".chip-button").first
        chip.press("Enter")
        page.wait_for_selector(".chip-button[aria-pressed=true]")
        assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true", "the focus stays"
        assert page.locator(".prompt-text .s10").count() >= 1
        page.locator(".chips a").first.click()
        page.wait_for_selector(".feature-page .facts")
        page.go_back()
        page.wait_for_selector(".sae")
        page.reload()
        page.wait_for_selector(".sae", timeout=90_000)
        assert page.input_value("textarea") == TEXT, "the address is a permalink"
        page.fill("textarea", " ".join(HOSTILE[:-1]))
        page.click("button:has-text('Run')")
        page.wait_for_selector(".sae")
        assert page.locator("main img, main script").count() == 0
        context.close()
    assert not alarms
