"""Where a run's time goes: spans of wall clock, summed by where they stand; nothing is measured unless a run asks.

    profiled(folder) --> span("train") --> span("lm to the hook point") ... --> folder/profile.json, one table
                     --> a few training steps under torch's profiler       --> folder/profile-trace.json (Perfetto)

A span costs a look at one variable while nobody asks. Those of other threads overlap with the rest, and say so.
"""

import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profiler

from fovea.atomic import write_json

BEHIND = ", in the background"
TRACE_FROM, TRACE_STEPS = 3, 5
"Training steps that are let pass, and then traced operation by operation."

Place = tuple[str, ...]


class Span(NamedTuple):
    """All spans of one name at one place."""

    path: Place
    calls: int
    seconds: float
    own_seconds: float
    "Without the spans within."


class Profile:
    """Sums of spans by path, from its making to `end`.

    Args:
        folder: Where the trace is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sums: dict[Place, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._here = threading.local()
        self._main = threading.get_ident()
        self._began = time.perf_counter()
        self._steps = 0
        self._tracer: Any = None

    @contextmanager
    def span(self, name: str) -> Generator[None]:
        """Count the time within as `name`, under the span that is open in this thread."""
        outer: Place = getattr(self._here, "place", ())
        behind = not outer and threading.get_ident() != self._main
        self._here.place = path = (*outer, f"{name}{BEHIND}" if behind else name)
        began = time.perf_counter()
        try:
            with record_function(name):
                yield
        finally:
            took = time.perf_counter() - began
            self._here.place = outer
            with self._lock:
                calls, seconds = self._sums.get(path, (0, 0.0))
                self._sums[path] = (calls + 1, seconds + took)

    def step(self) -> None:
        """A training step begins; some of the first are traced."""
        if self._steps == TRACE_FROM:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._tracer = torch_profiler(activities=kinds)
            self._tracer.start()
        elif self._steps == TRACE_FROM + TRACE_STEPS:
            self.stop_trace()
        self._steps += 1

    def stop_trace(self) -> None:
        """Write the trace, if one was begun."""
        if self._tracer is not None:
            self._tracer.stop()
            self._tracer.export_chrome_trace(str(self._folder / "profile-trace.json"))
            self._tracer = None

    def spans(self) -> list[Span]:
        """Every span, each after the one around it, the longest first."""
        found: list[Span] = []

        def below(outer: Place) -> None:
            inner = [path for path in self._sums if path[:-1] == outer]
            for path in sorted(inner, key=lambda path: -self._sums[path][1]):
                calls, seconds = self._sums[path]
                within = sum(each[1] for other, each in self._sums.items() if other[:-1] == path)
                found.append(Span(path, calls, seconds, seconds - within))
                below(path)

        below(())
        return found

    @property
    def seconds(self) -> float:
        """Wall clock since the making."""
        return time.perf_counter() - self._began


_active: Profile | None = None


def span(name: str) -> AbstractContextManager[None]:
    """A context in which the time counts as `name`; free of cost but for the call where nobody asks."""
    return nullcontext() if _active is None else _active.span(name)


def training_step() -> None:
    """A training step begins."""
    if _active is not None:
        _active.step()


@contextmanager
def profiled(folder: Path, *, wanted: bool) -> Generator[None]:
    """Within, spans count; at the end, however it comes, `folder` gets profile.json and people a table."""
    global _active
    if not wanted:
        yield
        return
    _active = profile = Profile(folder)
    try:
        yield
    finally:
        _active = None
        if folder.is_dir():
            profile.stop_trace()
            write_json(folder / "profile.json", _record(profile))
            Console().print(_table(profile))


def _record(profile: Profile) -> dict[str, Any]:
    spans = [each._asdict() | {"path": list(each.path)} for each in profile.spans()]
    return {"seconds": profile.seconds, "threads": torch.get_num_threads(), "spans": spans}


def _table(profile: Profile) -> Table:
    whole = profile.seconds
    table = Table(title=f"where {whole:.1f} s went", title_justify="left")
    for name in ("", "calls", "seconds", "share", "own s"):
        table.add_column(name, justify="left" if not name else "right")
    for path, calls, seconds, own in profile.spans():
        indent = "  " * (len(path) - 1)
        table.add_row(indent + path[-1], f"{calls:,}", f"{seconds:.1f}", f"{seconds / whole:.0%}", f"{own:.1f}")
    return table
