"""How long first-use work says what it does: a bar on a terminal, one log line otherwise."""

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

_LOG = logging.getLogger("fovea")


@contextmanager
def stage(description: str, total: int | None = None) -> Generator[Callable[[int, int | None], None]]:
    """Announce one stage of work and yield `report(done, total)`, which moves its bar.

    Args:
        total: Units of work, usually bytes; None when not known, which shows a moving bar without a share.
    """
    if not sys.stderr.isatty():
        _LOG.info(description)
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task(description, total=total)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield report
        finished = progress.tasks[0].total or 1
        progress.update(task, completed=finished, total=finished)


def _ignore(done: int, total: int | None) -> None:
    """Off a terminal only the stage's name is told."""
    del done, total
