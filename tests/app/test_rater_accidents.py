"""What goes wrong at a rater's desk, in a real Chromium: reloads, a held database, a shared browser, slips of keys."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.app.rater_pages import (
    Enter,
    answers,
    check_layout,
    finish,
    heading,
    idle,
    item,
    listen,
    lock,
    press,
    rating_in,
    to_rating,
)
from tests.app.raters import Served
from tests.app.test_browser import until
from tests.app.test_rater_trouble import held

pytestmark = pytest.mark.browser


@pytest.fixture
def rating(browser: Any, served: Served) -> Iterator[Enter]:
    with rating_in(browser, served) as enter:
        yield enter


def test_a_reload_keeps_the_feedback_and_the_last_practice_step_can_be_undone(rating: Enter) -> None:
    page = rating("ann")
    press(page, "Enter")
    page.wait_for_selector(".writing")
    shown = item(page)
    press(page, "0", "Enter")
    page.wait_for_selector(".feedback")
    told = page.inner_text(".feedback")
    place = page.inner_text("#place")
    page.reload()
    page.wait_for_selector(".feedback")
    assert (page.inner_text(".feedback"), item(page), page.inner_text("#place")) == (told, shown, place)
    check_layout(page)
    press(page, "Enter")
    heading(page, "Practice is over")
    press(page, "u")
    page.wait_for_selector(".writing")
    assert item(page) == shown
    press(page, "0", "Enter")
    page.wait_for_selector(".feedback")
    press(page, "Enter")
    heading(page, "Practice is over")
    press(page, "Enter")
    heading(page, "Item 1")
    idle(page)
    assert page.is_disabled("#undo"), "practice is over for good"
    page.reload()
    heading(page, "Item 1")


def test_a_held_database_is_waited_for_and_the_step_sent_again(rating: Enter, served: Served) -> None:
    page = rating("ann")
    to_rating(page)
    with held(served.run, page.study.name):
        press(page, "0", "Enter")
        page.wait_for_selector("#alarm:not([hidden])")
        assert "another program may hold it" in page.inner_text("#alarm")
        assert "trying again" in page.inner_text("#alarm")
    heading(page, "Item 2")
    idle(page)
    assert page.is_hidden("#alarm")
    assert [answer.cannot_tell for answer in answers(page).values()][:2] == [True, False]


def test_a_link_that_gets_no_answer_is_not_lost(rating: Enter) -> None:
    ann = rating("ann")
    page = ann.context.browser.new_context().new_page()
    token = f"#t={ann.link.partition('#t=')[2]}"
    page.goto(ann.link.partition("#")[0])
    heading(page, "Not signed in")
    assert page.is_hidden("#undo")
    page.context.set_offline(True)
    page.fill("#link", ann.link)
    page.click("button[type=submit]")
    page.wait_for_selector("#alarm:not([hidden])")
    assert "Not signed in: the server does not answer" in page.inner_text("#alarm")
    assert page.url.endswith(token), "a reload would try it again"
    page.context.set_offline(False)
    heading(page, "Hello, ann")
    assert "t=" not in page.url
    page.context.close()


def test_two_raters_in_one_browser_do_not_answer_for_each_other(rating: Enter) -> None:
    ann = rating("ann")
    to_rating(ann)
    bob = rating("bob", ann.context)
    to_rating(bob)
    press(bob, "0", "Enter")
    heading(bob, "Item 2")
    press(ann, "u")
    heading(ann, "Not signed in")
    assert "signed in as bob now" in ann.inner_text(".absent")
    assert ann.is_hidden("#undo")
    press(ann, "u", "1", "Enter")
    assert list(answers(bob, 2).values())[0].cannot_tell, "bob's answer is not taken back by ann's key"
    ann.fill("#link", ann.link)
    ann.click("button[type=submit]")
    heading(ann, "Item 1")
    assert ann.inner_text("#place").startswith("ann \u00b7 Rating")
    bob.reload()
    heading(bob, "Practice is over")
    assert bob.inner_text("#place").startswith("ann \u00b7 Rating"), "whose page it is stands above it"


def test_a_link_to_another_study_goes_there(rating: Enter, browser: Any, served: Served) -> None:
    ann = rating("ann")
    with rating_in(browser, served) as enter:
        there = enter("bob")
        page = ann.context.browser.new_context().new_page()
        page.goto(ann.link.partition("#")[0])
        heading(page, "Not signed in")
        page.fill("#link", there.link)
        page.keyboard.press("Enter")
        heading(page, "Hello, bob")
        assert page.url == there.link.partition("#")[0]
        page.context.close()


def test_ten_points_have_ten_keys(browser: Any, served: Served) -> None:
    points = [f"Point {n}: words" for n in range(10)]
    with rating_in(browser, served, explanation="none", rubric={"points": points}) as enter:
        page = enter("ann")
        check_layout(page)
        assert page.locator(".rubric kbd").all_inner_texts() == [*"1234567890"]
        press(page, "Enter")
        page.wait_for_selector(".choices")
        assert page.locator(".choices kbd").all_inner_texts() == [*"1234567890t"]
        press(page, "t", "Enter")
        page.wait_for_selector(".feedback")
        press(page, "Enter")
        heading(page, "Practice is over")
        press(page, "Enter")
        for number, key in enumerate("0t19", 1):
            heading(page, f"Item {number}")
            press(page, key, "Enter")
        heading(page, "Item 5")
        given = list(answers(page).values())[:4]
        assert [answer.specificity for answer in given] == [9, None, 0, 8]
        assert given[1].cannot_tell


def test_a_slip_of_a_key_ends_nothing_and_caps_lock_changes_nothing(rating: Enter) -> None:
    page = rating("ann")
    to_rating(page)
    n = int(page.inner_text(".item-head small").split()[-1])
    for number in range(1, n + 1):
        heading(page, f"Item {number}")
        press(page, "T", "N", "Enter")
    heading(page, "Your answers")
    assert all(answer.cannot_tell and answer.nice for answer in answers(page).values())
    page.focus("text=Finish rating")
    for _ in range(2):
        press(page, "Enter")
    page.wait_for_selector("dialog", state="detached")
    heading(page, "Your answers")
    finish(page)
    press(page, "Enter")
    page.wait_for_selector(".choices")
    press(page, "0", "Enter")
    heading(page, "All done")
    for _ in range(2):
        press(page, "Enter")
    page.wait_for_selector("dialog", state="detached")
    heading(page, "All done")
    lock(page)


def test_a_change_that_is_not_handed_in_says_so(rating: Enter) -> None:
    page = rating("ann")
    to_rating(page)
    n = int(page.inner_text(".item-head small").split()[-1])
    for number in range(1, n + 1):
        heading(page, f"Item {number}")
        press(page, "0", "Enter")
    heading(page, "Your answers")
    page.click(".own-answer >> nth=0")
    heading(page, "Item 1")
    idle(page)
    assert page.inner_text(".pending") == ""
    press(page, "n")
    assert "not handed in" in page.inner_text(".pending")
    press(page, "j")
    heading(page, "Item 2")
    press(page, "k")
    heading(page, "Item 1")
    assert "not handed in" in page.inner_text(".pending"), "what was chosen is kept, and still only here"
    assert not list(answers(page).values())[0].nice
    press(page, "Enter")
    heading(page, "Your answers")
    assert list(answers(page).values())[0].nice
    press(page, "u")
    heading(page, "Item 1")
    assert not list(answers(page).values())[0].nice


def test_while_a_step_is_on_its_way_nobody_writes_a_reason_in_vain(rating: Enter) -> None:
    page = rating("ann")
    to_rating(page)
    page.context.set_offline(True)
    press(page, "0", "Enter")
    page.wait_for_selector("#alarm:not([hidden])")
    page.keyboard.press("s")
    page.click("text=Skip\u2026")
    page.click("text=Stop for good")
    assert page.locator("dialog").count() == 0
    assert "not saved yet" in page.inner_text("#said")
    page.context.set_offline(False)
    heading(page, "Item 2")
    press(page, "s")
    page.wait_for_selector("dialog")


def test_the_page_left_and_come_back_to_by_the_browser_s_own_buttons_goes_on(rating: Enter) -> None:
    page = rating("ann")
    to_rating(page)
    before = item(page)
    press(page, "e")
    page.keyboard.type("half a tho")
    page.wait_for_selector(".saved[data-state=saved]")
    page.go_back()
    assert "/rate/" not in page.url
    page.go_forward()
    page.wait_for_selector(".writing")
    assert item(page) == before
    assert page.input_value("#explanation") == "half a tho"


def test_a_finger_on_a_phone_goes_the_whole_way(rating: Enter, browser: Any) -> None:
    ann = rating("ann")
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    complaints: list[str] = []
    listen(page, complaints)
    page.goto(ann.link)
    heading(page, "Hello, ann")
    page.tap(".main-button")
    page.wait_for_selector(".writing")
    page.tap(".to-answer")
    until(page, "() => document.querySelector('#answer').getBoundingClientRect().top < 200")
    page.fill("#explanation", "written by thumbs")
    page.tap("form.answer button[type=submit]")
    page.wait_for_selector(".given")
    idle(page)
    page.tap(".choice:has-text('Mostly')")
    page.tap("form.answer button[type=submit]")
    page.wait_for_selector(".feedback")
    idle(page)
    page.tap(".main-button")
    heading(page, "Practice is over")
    page.tap(".main-button")
    heading(page, "Item 1")
    n = int(page.inner_text(".item-head small").split()[-1])
    for number in range(1, n + 1):
        heading(page, f"Item {number}")
        idle(page)
        page.tap(".choice:has-text('tell')")
        page.tap("form.answer button[type=submit]")
    heading(page, "Your answers")
    idle(page)
    page.tap("text=Finish rating")
    page.tap("dialog button[type=submit]")
    heading(page, "Guess the method")
    idle(page)
    page.tap(".main-button")
    page.wait_for_selector(".choices")
    idle(page)
    page.tap(".choice:has-text('ssae')")
    page.tap("form.answer button[type=submit]")
    heading(page, "All done")
    idle(page)
    page.tap(".main-button")
    page.tap("dialog button[type=submit]")
    heading(page, "Thank you")
    context.close()
    assert [answer.cannot_tell for answer in answers(ann).values()] == [True] * n
    assert complaints == []
