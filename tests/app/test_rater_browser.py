"""Raters in a real Chromium: the whole way by keyboard alone, reloads, a killed server, two at once."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.app.rater_pages import (
    Enter,
    answers,
    check_layout,
    explain,
    finish,
    heading,
    idle,
    item,
    lock,
    press,
    rating_in,
    to_rating,
)
from tests.app.raters import Served

pytestmark = pytest.mark.browser


@pytest.fixture
def rating(browser: Any, served: Served) -> Iterator[Enter]:
    with rating_in(browser, served) as enter:
        yield enter


def test_the_whole_way_by_keyboard_alone(rating: Enter) -> None:
    page = rating("ann")
    assert "t=" not in page.evaluate("JSON.stringify([location.href, {...localStorage}, {...sessionStorage}])")
    assert page.evaluate("document.cookie") == ""
    watch = page.evaluate  # a short name for what follows
    check_layout(page)
    press(page, "Enter")
    heading(page, "Practice item 1")
    check_layout(page)
    press(page, "2")
    assert "Write the explanation first" in page.inner_text("#said")
    press(page, "Enter")
    assert watch("document.activeElement.id") == "explanation", "Enter without an explanation goes to its field"
    page.keyboard.type("12 0tnsu?")
    assert page.input_value("#explanation") == "12 0tnsu?", "in a field, keys are text"
    press(page, "Control+Enter")
    page.wait_for_selector(".given")
    idle(page)
    press(page, "3", "n", "e")
    page.keyboard.type("a note")
    press(page, "Escape", "Enter")
    page.wait_for_selector(".feedback .fact")
    assert "Mostly" in page.inner_text(".feedback")
    check_layout(page)
    idle(page)
    press(page, "u")
    page.wait_for_selector(".choices input:enabled")
    idle(page)
    press(page, "3", "Enter")
    page.wait_for_selector(".feedback .fact")
    idle(page)
    press(page, "Enter")
    heading(page, "Practice is over")
    press(page, "Enter")
    heading(page, "Item 1")
    n = int(page.inner_text(".item-head small").removeprefix(" of ").removeprefix("of "))
    press(page, "s")
    page.wait_for_selector("dialog")
    press(page, "Enter")
    assert "needed" in page.inner_text("dialog [role=alert]")
    page.keyboard.type("broken")
    press(page, "Enter")
    heading(page, "Item 2")
    press(page, "u")
    heading(page, "Item 1")
    press(page, "?")
    page.wait_for_selector("dialog .rubric")
    press(page, "Escape")
    for number in range(1, n + 1):
        heading(page, f"Item {number}")
        idle(page)
        if number == 2:
            press(page, "t", "Enter")
        else:
            explain(page, f"words of item {number}")
            press(page, "1", "Enter")
    heading(page, "Your answers")
    check_layout(page)
    assert page.inner_text("#place") == f"ann \u00b7 Review \u00b7 {n} of {n}"
    for _ in range(20):
        if watch("document.activeElement.classList.contains('own-answer')"):
            break
        press(page, "Tab")
    press(page, "Enter")
    heading(page, "Item 1")
    check_layout(page)
    press(page, "j")
    heading(page, "Item 2")
    press(page, "k")
    heading(page, "Item 1")
    idle(page)
    press(page, "4", "Enter")
    heading(page, "Your answers")
    assert "Fully" in page.inner_text(".own-answer >> nth=0")
    given = answers(page)
    assert [answer.specificity for answer in given.values()] == [3, None, *[0] * (n - 2)]
    assert [answer.cannot_tell for answer in given.values()] == [False, True, *[False] * (n - 2)]
    finish(page)
    heading(page, "Guess the method")
    check_layout(page)
    press(page, "Enter")
    page.wait_for_selector(".item-page")
    assert page.locator(".choices .words").all_inner_texts() == ["direct", "ssae", "cannot say"]
    check_layout(page)
    press(page, "2", "Enter")
    heading(page, "All done")
    check_layout(page)
    press(page, "u")
    page.wait_for_selector(".item-page")
    idle(page)
    press(page, "1", "Enter")
    heading(page, "All done")
    assert [answer.guess for answer in answers(page).values()] == ["direct"]
    lock(page)
    check_layout(page)
    page.reload()
    heading(page, "Thank you")


def test_a_reload_and_a_killed_server_come_back_to_the_item_and_its_draft(rating: Enter, served: Served) -> None:
    page = rating("ann")
    to_rating(page)
    press(page, "0", "Enter")
    heading(page, "Item 2")
    idle(page)
    before = item(page)
    press(page, "e")
    page.keyboard.type("half a tho")
    page.wait_for_selector(".saved[data-state=saved]")
    page.reload()
    page.wait_for_selector(".writing")
    assert item(page) == before
    assert page.input_value("#explanation") == "half a tho"
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    press(page, "e", "End")
    page.keyboard.type("ught")
    page.wait_for_selector("#alarm:not([hidden])")
    assert "Not saved: the server does not answer" in page.inner_text("#alarm")
    press(page, "Control+Enter")
    assert page.input_value("#explanation") == "half a thought"
    assert item(page) == before, "nothing goes on before the server has it"
    served.start()
    page.evaluate("document.querySelector('#alarm button')?.click()")  # it may have tried by itself already
    page.wait_for_selector(".given")
    assert page.inner_text(".told") == "half a thought"
    assert page.is_hidden("#alarm")
    idle(page)
    page.context.set_offline(True)
    press(page, "2", "n", "e")
    page.keyboard.type("typed offline")
    page.context.set_offline(False)
    page.reload()
    page.wait_for_selector(".given")
    assert item(page) == before
    assert page.input_value("#note") == "typed offline"
    assert page.locator(".choices input:checked").get_attribute("value") == "1"
    press(page, "Enter")
    heading(page, "Item 3")
    given = list(answers(page).values())[1]
    assert (given.explanation, given.specificity, given.nice, given.note) == (
        "half a thought",
        1,
        True,
        "typed offline",
    )


def test_two_raters_at_once_and_two_tabs_of_one(rating: Enter) -> None:
    ann, bob = rating("ann"), rating("bob")
    for page in (ann, bob):
        to_rating(page)
    explain(ann, "only ann knows")
    press(ann, "4", "Enter")
    heading(ann, "Item 2")
    assert bob.inner_text("#place").startswith("bob \u00b7 Rating \u00b7 0 of")
    bob.reload()
    heading(bob, "Item 1")
    assert "only ann knows" not in bob.content()
    assert ann.inner_text("#place").startswith("ann \u00b7 Rating \u00b7 1 of")
    assert [answer.specificity for answer in answers(ann, 2).values() if answer.is_done] == []
    tab = ann.context.new_page()
    tab.goto(ann.url)
    heading(tab, "Item 2")
    idle(tab)
    press(tab, "0", "Enter")
    heading(tab, "Item 3")
    press(ann, "s")
    ann.wait_for_selector("dialog")
    ann.keyboard.type("from the first tab")
    press(ann, "Enter")
    ann.wait_for_selector("#alarm:not([hidden])")
    assert "answered elsewhere" in ann.inner_text("#alarm")
    heading(ann, "Item 2")
    assert ann.locator(".choices input:checked").get_attribute("value") == "cannot"
    assert list(answers(ann).values())[1].cannot_tell


def test_no_item_is_asked_for_before_the_answer_is_acknowledged(rating: Enter) -> None:
    page = rating("ann")
    to_rating(page)
    page.evaluate(
        """() => {
            window.seen = [];
            const ask = window.fetch;
            window.fetch = async (...given) => {
                const name = String(given[0]).split('/api/')[1].split('?')[0];
                window.seen.push(`ask ${name}`);
                const answer = await ask(...given);
                window.seen.push(`got ${name}`);
                return answer;
            };
        }"""
    )
    press(page, "0", "Enter")
    heading(page, "Item 2")
    seen = page.evaluate("window.seen")
    assert seen[:2] == ["ask event", "got event"]
    assert "ask item" in seen[2:]
    assert page.evaluate("document.querySelector('main').textContent").count("Item") == 1


def test_stopping_early_needs_a_reason(rating: Enter) -> None:
    page = rating("ann")
    to_rating(page)
    page.click("text=Stop for good")
    page.click("dialog button[type=submit]")
    assert "needed" in page.inner_text("dialog [role=alert]")
    page.fill("#reason", "no time left")
    page.click("dialog button[type=submit]")
    heading(page, "Guess the method")


def test_without_the_link_the_page_says_so_and_takes_it(browser: Any, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{served.port}/rate/one/")
    heading(page, "Not signed in")
    check_layout(page)
    page.fill("#link", "http://127.0.0.1/rate/one/#t=wrong")
    page.click("button[type=submit]")
    page.wait_for_selector("text=belongs to no rater")
    page.fill("#link", served.links["bob"])
    page.keyboard.press("Enter")
    heading(page, "Hello, bob")
    assert page.url.endswith("/rate/one/")
    context.close()
