"""A rater's hands and eyes for browser tests: keys, waiting, and what every page must keep to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from fovea.rating.state import Answer
from fovea.rating.study import Study
from tests.app.raters import TINY, Served
from tests.app.test_browser import until
from tests.rating.made_study import made

Enter = Callable[..., Any]
"Opens a page as the rater of a name, in a browser context of its own or in the one that is given."
EXPECTED = ("net::ERR_", "status of 403", "status of 409", "status of 503")
"What a browser complains of where a test takes the server away or is refused on purpose."
WIDTHS = (360, 390, 768, 1280)


@contextmanager
def rating_in(browser: Any, served: Served, **changes: Any) -> Iterator[Enter]:
    """A new study in the served run, and the way in; other complaints on the console than `EXPECTED` fail the test."""
    name = f"s{uuid4().hex[:12]}"
    study = made(served.run, name, **TINY | changes)
    complaints: list[str] = []
    contexts = []

    def enter(rater: str, context: Any = None) -> Any:
        if context is None:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.set_default_timeout(60_000)
            contexts.append(context)
        page = context.new_page()
        listen(page, complaints)
        page.study = study
        page.link = f"http://127.0.0.1:{served.port}/rate/{name}/#t={study.tokens()[rater]}"
        page.goto(page.link)
        page.wait_for_selector(f"h1:has-text('Hello, {rater}')")
        return page

    yield enter
    for context in contexts:
        context.close()
    study.close()
    assert [words for words in complaints if not any(each in words for each in EXPECTED)] == []


def answers(page: Any, rater: int = 1) -> dict[str, Answer]:
    """What the database holds of a rater."""
    study = Study.open(page.study.folder.parent.parent, page.study.name)
    given = dict(study.session(rater).answers())
    study.close()
    return given


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


def confirm(page: Any) -> None:
    """Say yes to what is asked, by keys: the cautious answer has the focus."""
    page.wait_for_selector("dialog[open]")
    press(page, "Tab", "Enter")
    page.wait_for_selector("dialog", state="detached")


def finish(page: Any) -> None:
    """From the list of answers to what comes after."""
    page.focus("text=Finish rating")
    press(page, "Enter")
    confirm(page)


def lock(page: Any) -> None:
    heading(page, "All done")
    press(page, "Enter")
    confirm(page)
    heading(page, "Thank you")


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
