"""A rater's hands and eyes for browser tests: keys, waiting, and what every page must keep to."""

from typing import Any

from tests.app.test_browser import until

WIDTHS = (360, 390, 768, 1280)


def listen(page: Any, complaints: list[str]) -> None:
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))


def press(page: Any, *keys: str) -> None:
    """Keys, each when the page listens: while a step is on its way they are dropped."""
    for key in keys:
        idle(page)
        page.keyboard.press(key)


def heading(page: Any, text: str) -> None:
    until(page, "text => document.querySelector('h1')?.textContent.startsWith(text)", text)


def idle(page: Any) -> None:
    until(page, "() => !document.querySelector('[aria-busy]')")


def explain(page: Any, text: str) -> None:
    """Write and fix an explanation, with keys alone."""
    page.wait_for_selector(".writing")
    press(page, "e")
    page.keyboard.type(text)
    press(page, "Control+Enter")
    page.wait_for_selector(".given")
    idle(page)


def item(page: Any) -> str:
    """The item's heading and its texts."""
    return page.inner_text(".item-head h1") + page.inner_text(".evidence")


def to_rating(page: Any) -> None:
    """Through practice without a word."""
    press(page, "Enter")
    page.wait_for_selector(".writing")
    press(page, "0", "Enter")
    page.wait_for_selector(".feedback")
    press(page, "Enter")
    heading(page, "Practice is over")
    press(page, "Enter")
    heading(page, "Item 1")


def check_layout(page: Any) -> None:
    """Nothing scrolls sideways, everything has a name, one heading, no id twice."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, page.inner_text("h1")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a[href], input, select, textarea, progress, [role=img]')]
        .filter(e => e.offsetParent !== null)
        .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() ||
            e.labels?.length)).map(e => e.outerHTML)"""
    )
    assert not nameless
    assert page.locator("h1").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
