"""Where an address, a reload and the keyboard lead in the explorer, and whether its colours can be told apart."""

import re
from itertools import pairwise
from typing import Any

import pytest

from fovea.app.assets import STATIC
from tests.app.conftest import ROW
from tests.app.test_browser import DIRECT, PAGES, SSAE, column, until


@pytest.mark.browser
def test_a_latents_address_holds_the_table_it_was_opened_from(page: Any) -> None:
    page.goto(f"{page.host}/?job={SSAE}&sort=novelty_decoder&order=ascending")
    page.wait_for_selector(f"{ROW} .latent")
    order = column(page, "latent")
    for _ in range(4):
        page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".steps .where")
    for _ in range(2):
        assert page.inner_text(".steps .where") == "4 of 48 in the table"
        assert page.get_attribute(".steps a[title='key j']", "href").startswith(f"/latents/{SSAE}/{order[4][1:]}?")
        page.reload()
        page.wait_for_selector(".steps .where")
    page.keyboard.press("j")
    until(page, "() => document.querySelector('.steps .where')?.textContent.startsWith('5 of 48')")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{ROW} .latent")
    assert "sort=novelty_decoder" in page.url
    until(page, "() => document.activeElement.getAttribute('aria-rowindex') === '6'")
    assert column(page, "latent") == order


@pytest.mark.browser
def test_coming_back_from_far_below_the_row_is_in_view(page: Any) -> None:
    for _ in range(70):
        page.keyboard.press("j")
    place = page.evaluate("document.activeElement.querySelector('.latent a').textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector(".feature-page")
    page.click("text=table")
    page.wait_for_selector(f"{ROW}[aria-rowindex='71'] .latent")
    box = page.evaluate("document.querySelector(\"[aria-rowindex='71']\").getBoundingClientRect().toJSON()")
    assert 100 < box["top"] < 880
    assert page.inner_text(f"{ROW}[aria-rowindex='71'] .latent") == place


@pytest.mark.browser
def test_arrow_keys_walk_over_examples_and_tokens_and_are_heard(page: Any) -> None:
    page.goto(f"{page.host}/latents/{SSAE}/1")
    page.wait_for_selector(".example .text")
    panel = page.locator(".corpus").first
    assert panel.locator(".text[tabindex='0']").count() == 1, "one stop of the Tab key for each panel"
    panel.locator(".text").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.corpus .text')[1]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".tooltip:not([hidden])")
    assert page.evaluate("document.activeElement.querySelector('.at').classList.contains('peak')"), "first the peak"
    heard = page.inner_text(".tooltip").replace("\n", ", ")
    assert re.search(r"token \d+, activation [\d.]+", heard)
    assert page.text_content("p.sr[role=status] >> nth=-1") == heard
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.querySelector('.at').nextElementSibling.classList.contains('peak')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".example.wide")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.corpus .text')[0]")


@pytest.mark.browser
def test_the_focus_stays_where_the_keyboard_works(page: Any) -> None:
    page.goto(f"{page.host}/compare")
    page.wait_for_selector("#sae-1")
    page.focus("#sae-1")
    page.select_option("#sae-1", DIRECT)
    until(page, "name => location.search.includes(`b=${name}`)", DIRECT)
    until(page, "() => document.activeElement.id === 'sae-1'")
    page.goto(f"{page.host}/latents/{SSAE}/1")
    page.wait_for_selector(".steps a")
    page.keyboard.press("j")
    until(page, "() => document.activeElement.id === 'main' && document.getElementById('said').textContent !== ''")
    assert page.text_content("#said") in page.title(), "a screen reader hears which page this is"


@pytest.mark.browser
@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_whatever_the_tab_key_reaches_is_seen_to_be_reached(page: Any, path: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(page.host + path)
    page.wait_for_selector("main h1", state="attached")
    reached: set[str] = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => {
              const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
              if (e === document.body) return null;
              const hidden = [...(function* () { for (let n = e; n; n = n.parentElement) yield n; })()]
                .some(n => getComputedStyle(n).clipPath !== 'none');
              return { outline: style.outlineStyle, thick: parseFloat(style.outlineWidth), hidden,
                       seen: box.width > 0 && box.height > 0 && box.right > 0 && box.left < innerWidth,
                       what: e.outerHTML.slice(0, 120) };
            }"""
        )
        if seen is None:
            continue  # the end of the page, before the Tab key begins anew
        reached.add(seen["what"])
        assert seen["outline"] != "none", seen
        assert seen["thick"] >= 1, seen
        assert seen["seen"], seen
        assert not seen["hidden"], seen
    assert len(reached) > 6


@pytest.mark.browser
def test_on_a_phone_the_order_can_be_turned_round(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("button[aria-label^='Largest first']")
    until(page, "() => location.search.includes('order=ascending')")
    page.wait_for_selector("button[aria-label^='Smallest first']")
    assert page.locator("button[aria-label^='Smallest first']").is_visible()


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, 0 to 1 (WCAG 2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "theme", [r":root\{color-scheme:light dark;", r':root\[data-theme="dark"\]\{color-scheme:dark;']
)
def test_shades_differ_in_lightness_alone_and_text_on_them_can_be_read(theme: str) -> None:
    """One hue, lighter or darker step by step: told apart by whoever sees no colours."""
    found = re.search(theme + r"([^}]*)\}", (STATIC / "app.css").read_text())
    assert found
    colours = dict(re.findall(r"--(\w+):(#\w+)", found[1]))
    steps = [colours["paper"], *(colours[f"h{i}"] for i in range(1, 11))]
    ratios = [contrast(steps[0], step) for step in steps]
    assert all(after > 1.03 * before for before, after in pairwise(ratios)), ratios
    for step in steps:
        assert contrast(colours["ink"], step) >= 4.5, step
    for name in ("muted", "link", "warn"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
