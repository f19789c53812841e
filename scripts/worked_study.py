"""A blind study of a real run from the first command to the report, rated by programs through a real browser.

study new -> serve -> two scripted raters in turn, by keys; the server is killed (-9) on the way
          -> unblind -> export -> report

python scripts/worked_study.py RUN [--name worked] [--per-arm 15] [--arm NAME=JOB --arm NAME=JOB]

The raters read nothing but what the page shows: they judge the words at which the feature fires most by a short list of
words of biology. That is no reading for meaning: the study proves the way, not the methods, and its result says so.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

RATERS = {"lexicon": 1, "lexicon-near": 6}
"Name -> how many pieces on each side of the peak the rater reads."
SUBJECT = re.compile(
    r"cell|gene|protein|enzym|acid|membran|chromo|mitochond|nucle|rna|dna|receptor|bind|kinase|phosph|ase\b|synth|"
    r"metabol|catabol|embryo|neuro|organ|tissue|bacter|viral|horm|pathway|transcri|ribos|morpho|develop|differenti|"
    r"cyto|plasm|vesic|lipid|glyc|amin|ion\b|transport|regulat|signal|apopto|muscle|immun",
    re.IGNORECASE,
)
COMMON = re.compile(r"\W*(the|of|to|in|a|an|and|or|by|is|are|that|which|from|with|for|on|as|at|it|be|this)?\W*\d*\W*")
BROWSER = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
SHARES = (0.15, 0.4, 0.75)
"Ends of the four points of the rubric, as the share of examples whose words are of the subject."


def main() -> None:
    """Go the whole way and print each step."""
    options = _options()
    fovea("study", "new", options.run, options.name, "--per-arm", options.per_arm, *options.arms, *_raters())
    server = Server(options.run)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
        ways = {}
        for name, around in RATERS.items():
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(server.links[options.name, name])
            ways[name] = rate(page, around)
        n, killed = dict.fromkeys(ways, 0), False
        while ways:
            for name, way in list(ways.items()):
                if next(way, None) is None:
                    print(f"{name}: locked after {n[name]} steps")
                    del ways[name]
                    continue
                n[name] += 1
            if not killed and min(n.values()) >= 3 * options.per_arm:
                server.kill_and_start()
                killed = True
                print(f"server killed (-9) and started again after {n} steps")
        browser.close()
    server.stop()
    for verb in (("study", "status"), ("study", "unblind")):
        fovea(*verb, options.run, options.name)
    fovea("study", "export", options.run, options.name, "--out", options.run / "studies" / options.name / "export")
    fovea("report", options.run)


def rate(page: Page, around: int) -> Iterator[str]:
    """A rater's way by keys alone; yields the heading before each step, ends when the ratings are locked."""
    while True:
        page.wait_for_selector("h1")
        _idle(page)
        title = page.inner_text("h1")
        if title.startswith("Thank you"):
            return
        yield title
        if page.locator(".feedback").count() or not page.locator("form.answer").count():
            _go_on(page, title)
        elif page.locator(".writing").count():
            words = _peaks(page, around)
            page.keyboard.press("e")
            page.keyboard.type("at: " + ", ".join(words)[:150])
            page.keyboard.press("Control+Enter")
            page.wait_for_selector(".given h2:has-text('Your explanation')")
        elif page.locator("input[name=guess]").count():
            # By the look of the text alone there is nothing to go by: a coin that falls the same for the same item.
            page.keyboard.press(str(1 + len(page.inner_text(".evidence")) % 2))
            _submit(page)
        else:
            found = _peaks(page, around)
            share = sum(bool(SUBJECT.search(each)) for each in found) / len(found)
            if sum(bool(COMMON.fullmatch(each)) for each in found) > len(found) / 2:
                share = 0.0
            page.keyboard.press(str(1 + sum(share > end for end in SHARES)))
            if share == 1.0:
                page.keyboard.press("n")
            _submit(page)


def _peaks(page: Page, around: int) -> list[str]:
    """The words around the outlined token of each example."""
    return page.evaluate(
        """around => [...document.querySelectorAll('.example')].map(example => {
            const pieces = [...example.querySelectorAll('.tok')];
            const peak = pieces.findIndex(piece => piece.classList.contains('peak'));
            const near = pieces.slice(Math.max(0, peak - around), peak + around + 1);
            return near.map(each => each.textContent).join('').trim();
        })""",
        around,
    )


def _go_on(page: Page, title: str) -> None:
    """Enter, and what a page asks for besides: a confirmation."""
    if title.startswith("Your answers"):
        page.focus("text=Finish rating")
    page.keyboard.press("Enter")
    if title.startswith(("Your answers", "All done")):
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Tab")  # away from "Not yet"
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog", state="detached")


def _submit(page: Page) -> None:
    before = page.inner_text("#place") + page.inner_text("h1")
    page.keyboard.press("Enter")
    end = time.monotonic() + 60
    while page.inner_text("#place") + page.inner_text("h1") == before and not page.locator(".feedback").count():
        assert time.monotonic() < end, f"nothing came after: {before}"
        page.wait_for_timeout(20)


def _idle(page: Page) -> None:
    page.wait_for_selector("[aria-busy]", state="detached", timeout=60_000)


class Server:
    """`fovea serve` on the run, as a process of its own."""

    def __init__(self, run: Path) -> None:
        self.run, self.port = run, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "fovea.cli", "serve", str(self.run), "--port", str(self.port)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.links: dict[tuple[str, str], str] = {}
        while len(self.links) < len(RATERS):
            line = self.process.stdout.readline()
            assert line, "the server ended before it printed the raters' links"
            if found := re.search(r"([\w.-]+): (http://\S+:(\d+)/rate/([\w-]+)/\S+)", line):
                self.links[found[4], found[1]], self.port = found[2], int(found[3])

    def kill_and_start(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def fovea(*arguments: Any) -> None:
    """A command, shown and run."""
    command = [str(argument) for argument in arguments]
    print(f"\n$ fovea {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "fovea.cli", *command], check=True)


def _raters() -> list[str]:
    return [part for name in RATERS for part in ("--rater", f"{name}:scripted")]


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default="worked")
    parser.add_argument("--per-arm", type=int, default=15)
    parser.add_argument("--arm", action="append", default=[])
    options = parser.parse_args()
    arms = options.arm or ["ssae=ssae-batch_topk-k16-s0", "direct=direct-batch_topk-k64-s0"]
    options.arms = [part for arm in arms for part in ("--arm", arm)]
    return options


if __name__ == "__main__":
    main()
