"""The page in a real Chromium: sorting, themes, tabs, no overflow, no complaint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report at desk size; a complaint on the console fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request", lambda request: complaints.append(request.url) if not request.url.startswith("file:") else None
    )
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert not complaints


def column(page: Any, name: str) -> list[str]:
    """Sort keys of a column of the results table, top to bottom; '' for a gap."""
    return page.evaluate(
        """name => { const table = document.querySelector('#table-results-heldout');
        const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === name);
        return [...table.tBodies[0].rows].map(row => row.cells[at].dataset.sort ?? ''); }""",
        name,
    )


def heading(page: Any, name: str) -> Any:
    """The button of a column heading of the results table."""
    return page.locator("#table-results-heldout thead button", has_text=name).first


def test_a_click_sorts_numbers_descending_then_ascending_and_gaps_stay_last(page: Any) -> None:
    for direction, sign in (("descending", -1), ("ascending", 1)):
        heading(page, "gap to g").click()
        keys = column(page, "gap to g")
        values = [float(key) for key in keys if key]
        assert values == sorted(values, key=lambda value: sign * value)
        assert keys[len(values) :] == [""] * (len(keys) - len(values))
        assert "" in keys
        assert page.locator("#table-results-heldout th[aria-sort]").get_attribute("aria-sort") == direction


def test_the_keyboard_sorts_words_naturally(page: Any) -> None:
    heading(page, "SAE").focus()
    page.keyboard.press("Enter")
    names = column(page, "SAE")
    assert [name for name in names if name.startswith("ssae")] == ["ssae l1_6", "ssae l1_10", "ssae l1_20"]
    page.keyboard.press("Enter")
    assert column(page, "SAE") == names[::-1]


def test_only_one_column_says_that_it_is_sorted(page: Any) -> None:
    heading(page, "L0").click()
    heading(page, "FVU").click()
    assert page.locator("#table-results-heldout th[aria-sort]").count() == 1


def test_the_theme_changes_the_figures_and_is_remembered(page: Any) -> None:
    paper = "getComputedStyle(document.querySelector('svg.wide rect')).fill"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


def test_the_theme_works_where_storage_is_refused(browser: Any, report: Path) -> None:
    opened = browser.new_page(color_scheme="dark")
    opened.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })")
    opened.goto(report.as_uri())
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    opened.click("#theme")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.close()


def test_tabs_show_one_figure_at_a_time_and_print_shows_all(page: Any) -> None:
    panes = page.locator("#figure-1 .pane")
    assert [panes.nth(i).is_visible() for i in range(panes.count())] == [True, False, False, False, False]
    page.click("label[for=view-5]")
    assert [panes.nth(i).is_visible() for i in range(panes.count())] == [False, False, False, False, True]
    page.emulate_media(media="print")
    assert all(panes.nth(i).is_visible() for i in range(panes.count()))


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_width_scrolls_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.evaluate(
        "[...document.querySelectorAll('#figure-1 .pane:first-child svg')].map(s => s.clientWidth > 0)"
    )
    assert shown == ([False, True] if width < 720 else [True, False])


def test_the_page_reads_without_script(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(report.as_uri())
    assert opened.locator("#theme").is_hidden()
    opened.click("label[for=view-2]")
    assert opened.locator("#figure-1 .pane").nth(1).is_visible()
    context.close()
