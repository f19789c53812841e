"""Progress that people see: one bar per stage on a terminal; on anything else one log line when a stage ends."""

import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger("fovea")

Advance = Callable[[int], None]


@contextmanager
def stage(title: str, total: int | None, *, unit: str = "", done: int = 0) -> Generator[Advance]:
    """A stage of `total` units, `done` of them from before; call the yielded function with each advance."""
    began = time.monotonic()
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):  # ranks after the first log warnings only
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
            task = progress.add_task(title, total=total, completed=done)
            yield lambda n: progress.advance(task, n)
    else:
        yield _ignore
    log.info("%s: done in %.1f s", title, time.monotonic() - began)


def _ignore(n: int) -> None:
    del n
