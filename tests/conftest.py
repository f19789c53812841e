"""What all tests share: unit tests first, no hub, and a loud word about everything that could not run.

make test = unit tests -> browser and slow tests;  make unit = the unit tests alone
"""

import asyncio
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.network import refuse

refuse()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

_BROWSER_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NO_CHROMIUM = "no Chromium found: on Debian or Ubuntu `apt install chromium`, or set FOVEA_CHROMIUM to one"
_NO_SAE_LENS = "sae_lens is not installed: `.venv/bin/pip install -c constraints.txt -e .[saelens]`"
_NO_PEER = "{} is not installed: `.venv/bin/python examples/run_all.py --only {}` runs it in an environment of its own"
_PEERS = {
    "saelens": ("sae_lens", _NO_SAE_LENS),
    "sparsify": ("sparsify", "sparsify is not installed: `.venv/bin/pip install eai-sparsify==1.3.3`"),
    "dictionary_learning": (
        "dictionary_learning",
        "dictionary_learning is not installed: `.venv/bin/pip install dictionary-learning==0.1.0`",
    ),
    "saedashboard": (
        "sae_dashboard",
        "sae_dashboard is not installed: `.venv/bin/pip install --no-deps sae-dashboard==0.8.0`",
    ),
    "neuronpedia": (
        "neuronpedia",
        "neuronpedia is not installed: `.venv/bin/pip install neuronpedia==1.2.1`",
    ),
    "nnsight": ("nnsight", _NO_PEER.format("nnsight", "nnsight_patch")),
    "sae_bench": ("sae_bench", _NO_PEER.format("sae_bench", "saebench_core")),
    "sae_probes": ("sae_probes", _NO_PEER.format("sae_probes", "sae_probes_task")),
    "sae_dashboard": ("sae_dashboard", _NO_PEER.format("sae_dashboard", "sae_dashboard_page")),
    "delphi": ("delphi", _NO_PEER.format("delphi", "delphi_cache")),
}
"Marker -> the module of a library to compare with, and how to get it."


def find_chromium() -> str | None:
    """Path of a Chromium: FOVEA_CHROMIUM, or the first known name on the PATH."""
    named = os.environ.get("FOVEA_CHROMIUM")
    if named:
        return named if Path(named).exists() else None
    return next((found for name in _CHROMIUM_NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium that browser tests drive (playwright: `executable_path=chromium`)."""
    found = find_chromium()
    if found is None:
        pytest.skip(_NO_CHROMIUM)
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """One headless Chromium for all browser tests of a process: Playwright's sync driver allows no second one."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with playwright.sync_playwright() as driver:
            launched = driver.chromium.launch(executable_path=chromium, args=_BROWSER_ARGUMENTS)
            yield launched
            launched.close()


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, in a thread of its own: Playwright's sync driver leaves a running loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def pytest_report_header() -> list[str]:
    return [f"chromium: {find_chromium() or 'NONE, the browser tests will be skipped'}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run unit tests, then browser tests, then slow ones; skip with the reason what the machine cannot run."""
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is not None) * 2 + bool(item.get_closest_marker("browser"))
    )
    reasons: dict[str, str] = {}
    if find_chromium() is None and not os.environ.get("FOVEA_REQUIRE_CHROMIUM"):
        reasons["browser"] = _NO_CHROMIUM
    reasons |= {
        marker: reason for marker, (module, reason) in _PEERS.items() if importlib.util.find_spec(module) is None
    }
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread for unit tests: with tiny tensors, threads only wait for each other. Slow tests share the cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        n_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n_workers) if item.get_closest_marker("slow") else 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly, just above the last line, which kinds of test did not run and how to get them."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    for reason in (_NO_CHROMIUM, *(reason for _, reason in _PEERS.values())):
        n_skipped = sum(reason in report.longrepr[2] for report in skipped)
        if n_skipped:
            terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
            terminalreporter.write_line(f"{n_skipped} tests skipped. {reason}")
