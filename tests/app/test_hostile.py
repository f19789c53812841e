"""Hostile text is inert wherever it appears: in every page, every tooltip, the exported page and every json answer."""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fovea.app.files import static_page
from fovea.app.server import Place, build
from tests.app.conftest import BASE, TOKEN, sign_in
from tests.app.hostile import HOSTILE, HOSTILE_JOB, TITLE

PLAIN = (*HOSTILE[:8], "{{7*7}}")


@pytest.fixture(scope="module")
def client(hostile_run: Path) -> Iterator[TestClient]:
    with TestClient(build(hostile_run, Place(), TOKEN), base_url=BASE, headers={"origin": BASE}) as found:
        yield sign_in(found)


def test_text_is_only_ever_sent_as_json(client: TestClient) -> None:
    for path in (
        "/api/run",
        "/api/latents?q=script",
        f"/api/latents/{HOSTILE_JOB}/1",
        "/api/latents/g/1",
        "/api/latents/x/1",
    ):
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.text.isascii(), "escapes carry everything, lone surrogates too"
        json.loads(answer.text)


def test_a_token_of_a_megabyte_is_cut_with_a_word(client: TestClient) -> None:
    sizes = []
    for latent in range(12):
        text = client.get(f"/api/latents/g/{latent}").text
        sizes.append(len(text))
        if "more characters]" in text:
            assert "[999,600 more characters]" in text or "[999,601 more characters]" in text
    assert max(sizes) < 300_000


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800", "\u2028</script>"])
def test_an_exported_page_holds_hostile_text_as_data_alone(text: str) -> None:
    page = static_page(text[:500], text[:500], [{"texts": [text]}])
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    island = page.split('id="data">', 1)[1].split("</script", 1)[0]
    assert not set(island) & set("<>&\u2028\u2029\0")
    assert json.loads(island)["cards"][0]["texts"] == [text]
    title = page.split("<title>", 1)[1].split("</title>", 1)[0]
    assert "<" not in title
    assert html.unescape(title).replace("\ufffd", "") == text[:500].replace("\0", "\0")


@pytest.mark.browser
def test_hostile_text_is_inert_in_every_page(browser: Any, hostile_link: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    alarms: list[str] = []
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: alarms.append(message.text))
    page.on("pageerror", lambda error: alarms.append(str(error)))
    host = hostile_link.split("/#")[0]
    page.on("request", lambda r: alarms.append(r.url) if not r.url.startswith((host, "blob:")) else None)
    page.goto(hostile_link)
    page.wait_for_selector(".rows .line .latent")
    job = page.evaluate("encodeURIComponent", HOSTILE_JOB)
    for path in (
        "/",
        "/?q=script",
        "/latents/g/1",
        "/latents/g/2",
        f"/latents/{job}/1",
        f"/compare?a={job}&b=g",
        "/export",
    ):
        page.goto(host + path)
        page.wait_for_selector("main h1", state="attached")
        page.wait_for_timeout(400)
        assert_inert(page)
    page.goto(f"{host}/latents/g/1")
    page.wait_for_selector(".marks")
    for n, text in enumerate((*HOSTILE[:-1], "x\ufeff"), start=1):
        page.fill(".marks textarea", text)
        page.click("text=Keep note")
        page.wait_for_selector(f".notes li >> nth={n - 1}")
    shown = page.locator(".note-text").all_inner_texts()
    for text in PLAIN[:7]:
        assert any(text in each for each in shown), text
    assert "[U+202E]gnp.exe[U+2066][U+2069]" in shown
    for token in page.locator(".example .tok.peak").all()[:12]:
        token.dispatch_event("pointerover")
    assert page.locator(".tooltip").is_visible()
    assert_inert(page)
    page.click("button:has-text('Select')")
    page.goto(f"{host}/export")
    page.wait_for_selector("button:has-text('Export 1 feature')")
    with page.expect_download() as download:
        page.click("button:has-text('Export 1 feature')")
    kept = tmp_path / "kept.html"
    download.value.save_as(kept)
    page.goto(kept.as_uri())
    page.wait_for_selector("article.feature .tok")
    assert_inert(page)
    context.close()
    assert [alarm for alarm in alarms if not alarm.startswith("file:")] == []


def assert_inert(page: Any) -> None:
    """No element, handler or hidden mark came out of a text; the page's name shows the text of the title."""
    found = page.evaluate(
        """() => ({
            elements: document.querySelectorAll('main img, main script, main iframe, main style, main object').length,
            svg: [...document.querySelectorAll('main svg')].filter(e => !e.classList.length).length,
            handlers: [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())
                .filter(name => name.startsWith('on')).length,
            scripts: document.scripts.length,
            hidden: /[\\u0000-\\u0008\\u202a-\\u202e\\u2066-\\u2069\\ufeff\\u200b]/
                .test(document.querySelector('main').textContent),
            title: document.title,
        })"""
    )
    assert found["elements"] == found["svg"] == found["handlers"] == 0
    assert found["scripts"] <= 2
    assert not found["hidden"]
    assert TITLE in found["title"] or "</title>" in found["title"] or "features of" in found["title"]
