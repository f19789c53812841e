"""The explorer in a real Chromium: explore, filter, sort, compare, note, export, by mouse and by keyboard alone."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from fovea.features.read import Features
from tests.app.conftest import ROW

pytestmark = pytest.mark.browser
SSAE, DIRECT = "ssae-batch_topk-k16-s0", "direct-batch_topk-k16-s0"
PAGES = ("/", f"/latents/{SSAE}/1", "/compare", f"/compare?a={SSAE}/1&b=g/2", "/prompt", "/export")


def column(page: Any, area: str) -> list[str]:
    """Texts of a column of the rows in view, top to bottom."""
    return page.evaluate(
        """area => [...document.querySelectorAll('.rows .line')]
        .sort((a, b) => a.getAttribute('aria-rowindex') - b.getAttribute('aria-rowindex'))
        .map(row => row.querySelector('.' + area)?.textContent ?? '')""",
        area,
    )


def numbers(texts: list[str]) -> list[float]:
    return [float(re.sub(r"[^0-9.e-]", "", text)) for text in texts if re.search(r"\d", text)]


def until(page: Any, condition: str, value: Any = None) -> None:
    """Wait until a function of the page is true; Playwright's own way needs eval, which our policy refuses."""
    deadline = time.monotonic() + 60
    while not _holds(page, condition, value):
        assert time.monotonic() < deadline, condition
        time.sleep(0.03)


def _holds(page: Any, condition: str, value: Any) -> bool:
    """Whether it is true; false while one page gives way to another."""
    from playwright.sync_api import Error

    try:
        return bool(page.evaluate(condition, value))
    except Error as error:
        if "navigation" not in str(error):
            raise
        return False


NOVELTIES = (
    "const cells = [...document.querySelectorAll('.rows .line .nd')];"
    "const all = cells.map(e => parseFloat(e.textContent)).filter(v => v >= 0)"
)
"The cosines in view; rows are drawn some time after what was asked of them shows in the headings and the address."


def total(page: Any, text: str) -> None:
    """Wait until the table counts so many latents."""
    until(page, "text => document.querySelector('.count')?.textContent.startsWith(text)", text)


def test_the_link_signs_in_and_leaves_no_token_behind(page: Any) -> None:
    assert page.url == f"{page.host}/"
    assert "t=" not in page.evaluate("JSON.stringify([location.href, {...localStorage}, {...sessionStorage}])")
    assert page.evaluate("document.cookie") == ""
    assert page.title() == "Latents \u00b7 run \u00b7 fovea"


def test_without_the_link_a_page_says_how_to_sign_in(browser: Any, link: str) -> None:
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"{link.split('/#')[0]}/latents/g/1")
    opened.wait_for_selector("h1:has-text('Not signed in')")
    opened.fill("input[name=link]", link)
    opened.click("button[type=submit]")
    opened.wait_for_selector("h1:has-text('g #1')")
    assert "t=" not in opened.url
    context.close()


def test_a_heading_sorts_descending_then_ascending(page: Any) -> None:
    for order, sign in (("descending", -1), ("ascending", 1)):
        page.click("[data-column=novelty_decoder] button")
        page.wait_for_selector(f"[data-column=novelty_decoder][aria-sort={order}]")
        until(
            page,
            f"s => {{ {NOVELTIES}; return all.length > 15 && all.every((v, i) => !i || s * (v - all[i - 1]) >= 0) }}",
            sign,
        )
        values = numbers(column(page, "nd"))
        assert values == sorted(values, key=lambda value: sign * value)
        assert f"order={order}" in page.url


def test_search_jobs_show_and_bounds_narrow_the_table_and_are_in_the_address(page: Any) -> None:
    total(page, "160 of 160")
    page.click("summary:has-text('SAEs')")
    page.check(f"input[value='{SSAE}']")
    total(page, "48 of 160")
    page.select_option("select[aria-label='Which latents']", "domain")
    page.click("summary:has-text('Bounds')")
    page.fill("input[name=min-novelty_decoder]", "0.25")
    until(page, "() => location.search.includes('min-novelty_decoder=0.25')")
    until(page, f"() => {{ {NOVELTIES}; return all.length > 0 && Math.min(...all) >= 0.25 }}")
    assert set(column(page, "job")) == {SSAE}
    assert min(numbers(column(page, "nd"))) >= 0.25
    shown = column(page, "latent")
    page.reload()
    page.wait_for_selector(f"{ROW} .latent")
    assert column(page, "latent") == shown, "the address is a permalink"
    page.fill("input[type=search]", "no such words at all")
    total(page, "0 of 160")
    page.click("button:has-text('Clear')")
    total(page, "160 of 160")


def test_rows_are_drawn_as_they_come_into_view(page: Any) -> None:
    assert page.locator(ROW).count() < 60
    first = column(page, "latent")
    page.evaluate("document.querySelector('.view').scrollTop = 1e9")
    page.wait_for_selector(f"{ROW}[aria-rowindex='161'] .latent")
    assert page.locator(ROW).count() < 60
    assert column(page, "latent") != first


def test_the_keyboard_alone_explores(page: Any) -> None:
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("k")
    focused = page.evaluate("document.activeElement.getAttribute('aria-rowindex')")
    assert focused == "3"
    place = page.evaluate("document.activeElement.querySelector('.latent a').getAttribute('href')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".feature-page .facts")
    assert page.url.endswith(place)
    title = page.title()
    page.keyboard.press("j")
    until(page, "title => document.title !== title", title)
    page.keyboard.press("k")
    until(page, "title => document.title === title", title)
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{ROW} .latent")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.type("river")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] kbd")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("g")
    page.select_option("dialog select", DIRECT)
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('{DIRECT} #7')")
    page.go_back()
    page.wait_for_selector(".table-page")


def test_moving_past_the_view_scrolls_with_the_cursor(page: Any) -> None:
    for _ in range(60):
        page.keyboard.press("j")
    until(page, "() => document.activeElement.getAttribute('aria-rowindex') === '61'")
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    assert 0 < box["top"] < 880


def test_a_latent_shows_both_texts_on_one_scale(page: Any, run: Path) -> None:
    features = Features(run)
    table = features.table(SSAE)
    latent = int(((table["n_fired_domain"] > 0) & (table["n_fired_general"] > 0)).nonzero()[0][0])
    card = features.card(SSAE, latent)
    page.goto(f"{page.host}/latents/{SSAE}/{latent}")
    page.wait_for_selector(".beside .facts")
    own = page.locator(".feature-page > .card")
    assert own.locator(".corpus h2").all_inner_texts() == ["On D", "On general text"]
    top = card.evidence[0].groups[0].examples[0]
    text = own.locator(".example .text").first.text_content()
    assert "".join(p.text for p in top.pieces[top.peak : top.peak + 3]) in text
    most = max(evidence.max_activation or 0 for evidence in card.evidence)
    for index, evidence in enumerate(card.evidence):
        peak = own.locator(".corpus").nth(index).locator(".tok.peak").first
        shade = int(re.search(r"\bs(\d+)", peak.get_attribute("class")).group(1))
        assert shade == pytest.approx(10 * (evidence.max_activation or 0) / most, abs=1)
    groups = own.locator(".corpus").first.locator("h3").all_inner_texts()
    assert groups[:2] == ["Largest activations", "Ranks 0\u201310% of firings"]
    duplicates = [e.n_duplicates for g in card.evidence[0].groups for e in g.examples]
    shown = own.locator(".corpus").first.locator(".example .times").all_inner_texts()
    assert shown == [f"\u00d7{n}" for n in duplicates if n > 1]
    assert "linear approximation" in page.inner_text(".relations")
    assert page.locator(".beside > h2").inner_text().startswith("Nearest in g: g #")


def test_the_tooltip_is_text_and_a_click_shows_the_whole_context(page: Any) -> None:
    page.goto(f"{page.host}/latents/{SSAE}/1")
    token = page.locator(".example .tok.peak").first
    token.hover()
    page.wait_for_selector(".tooltip:not([hidden])")
    assert re.search(r"token \d+\nactivation [\d.]+\n[0-9a-f]{16}", page.inner_text(".tooltip"))
    example = page.locator(".example", has=page.locator(".more")).first
    short = example.locator(".tok").count()
    example.locator(".text").click()
    page.wait_for_selector(".example.wide")
    assert example.locator(".tok").count() == 32 > short
    example.locator(".more").press("Enter")
    page.wait_for_selector(".example.wide", state="detached")
    assert example.locator(".tok").count() == short


def test_not_firing_is_said_with_the_number_of_tokens(page: Any, run: Path) -> None:
    table = Features(run).table(SSAE)
    silent = int(((table["n_fired_general"] == 0) & (table["n_fired_domain"] > 0)).nonzero()[0][0])
    page.goto(f"{page.host}/latents/{SSAE}/{silent}")
    page.wait_for_selector(".silent")
    general = page.locator(".feature-page > .card .corpus").nth(1)
    assert "Did not activate in 50,000 tokens." in general.inner_text()
    assert general.locator(".example").count() == 0


def test_flags_and_notes_are_kept(page: Any) -> None:
    page.goto(f"{page.host}/latents/{SSAE}/2")
    page.wait_for_selector(".marks")
    page.keyboard.press("f")
    page.wait_for_selector("button[aria-pressed=true]:has-text('Flagged')")
    page.keyboard.press("n")
    page.keyboard.type("fires on <b>cells</b>")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".notes li")
    page.reload()
    page.wait_for_selector(".notes li")
    assert page.inner_text(".note-text") == "fires on <b>cells</b>"
    page.goto(f"{page.host}/?show=flagged")
    total(page, "1 of 160")
    assert "fires on <b>cells</b>" in page.inner_text(ROW)
    page.goto(f"{page.host}/latents/{SSAE}/2")
    page.click("button:has-text('take back')")
    page.wait_for_selector(".notes li", state="detached")
    page.click("button:has-text('Flagged')")
    page.wait_for_selector("button[aria-pressed=false]:has-text('Flag')")


def test_two_methods_are_compared(page: Any) -> None:
    page.click("nav >> text=Compare")
    page.wait_for_selector(".distribution")
    assert page.locator(".distribution").count() == 5
    page.select_option("select[aria-label='First SAE']", SSAE)
    page.select_option("select[aria-label='Second SAE']", "g")
    until(page, "() => new URLSearchParams(location.search).get('b') === 'g'")
    heads = "names => [...document.querySelectorAll('thead th')].slice(1).map(e => e.textContent).join() === names"
    until(page, heads, f"{SSAE},g")
    page.wait_for_selector(".briefs .tok")
    page.locator(".briefs a").first.click()
    page.wait_for_selector(".feature-page")
    page.click(".actions >> text=Compare")
    page.wait_for_selector(".latents-compared .card >> nth=1")


def test_a_selection_becomes_one_page_that_stands_alone(page: Any, browser: Any, tmp_path: Path) -> None:
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert page.inner_text("#selected") == " (2)"
    page.click("nav >> text=Export")
    page.wait_for_selector("button:has-text('Export 2 features')")
    whole, short = tmp_path / "whole.html", tmp_path / "short.html"
    for value, path in (("", whole), ("0", short)):
        page.select_option("#contexts", value)
        with page.expect_download() as download:
            page.click("button:has-text('Export 2 features')")
        download.value.save_as(path)
    assert short.stat().st_size < whole.stat().st_size
    context = browser.new_context()
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("request", lambda r: complaints.append(r.url) if not r.url.startswith("file:") else None)
    opened.goto(whole.as_uri())
    assert opened.locator("article.feature").count() == 2
    assert opened.locator(".tok.peak").count() > 5
    opened.locator(".example .tok").first.hover()
    assert opened.locator(".tooltip").is_visible()
    opened.click("#theme")
    opened.goto(short.as_uri())
    assert set(
        opened.eval_on_selector_all(".example .text", "all => all.map(e => e.querySelectorAll('.tok').length)")
    ) == {1}
    context.close()
    assert not complaints


def test_the_csv_link_carries_the_filter(page: Any) -> None:
    page.goto(f"{page.host}/?job=g&show=domain")
    page.wait_for_selector(f"{ROW} .latent")
    with page.expect_download() as download:
        page.click("text=CSV")
    lines = Path(download.value.path()).read_text().splitlines()
    assert all(line.startswith("g,") for line in lines[1:])
    total(page, f"{len(lines) - 1} of")


@pytest.mark.parametrize("path", PAGES)
def test_no_width_scrolls_sideways_and_everything_has_a_name(page: Any, path: str) -> None:
    page.goto(page.host + path)
    page.wait_for_selector("main h1", state="attached")
    for width in (360, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a[href], input, select, textarea, svg[role=img]')]
        .filter(e => e.offsetParent !== null || e.tagName === 'svg')
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.title))
        .map(e => e.outerHTML)"""
    )
    assert not nameless
    assert page.locator("h1").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_the_theme_is_remembered(page: Any) -> None:
    page.keyboard.press("t")
    page.reload()
    page.wait_for_selector(f"{ROW} .latent")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
