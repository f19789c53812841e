"""The loop: every job steps on every batch; one pass over the stream, however many SAEs."""

import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fovea.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from fovea.train.job import Job, StepLog
from fovea.train.stream import Stream

Observer = Callable[[int, list[StepLog]], None]


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the state of the last complete step is saved."""


def train(
    jobs: Sequence[Job],
    stream: Stream,
    *,
    n_steps: int,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 120.0,
    observe: Observer | None = None,
) -> None:
    """Step every job until each has done `n_steps`, continuing from the newest checkpoint.

    Neither observing nor checkpointing changes what is trained.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint of the last whole step was written.
    """
    done = 0
    newest = None if checkpoints is None else latest_checkpoint(checkpoints)
    if newest is not None:
        done = load_checkpoint(newest, jobs, stream)
    last_saved = time.monotonic()
    with _stop_signals() as stopping:
        for step in range(done, n_steps):
            batch = stream.next()
            logs = [job.step(batch) for job in jobs]
            if observe is not None:
                observe(step, logs)
            due = stopping() or time.monotonic() - last_saved >= checkpoint_seconds
            if checkpoints is not None and due:
                save_checkpoint(checkpoints, step + 1, jobs=jobs, stream=stream)
                last_saved = time.monotonic()
            if stopping():
                raise Interrupted(f"stopped after step {step + 1} of {n_steps}")
    if stopping():  # the signal came after the last step; the jobs are complete
        raise Interrupted(f"stopped after step {n_steps} of {n_steps}")


@contextmanager
def _stop_signals() -> Generator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag for the duration, so that a step is never cut in two."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if received:  # a second signal means now: the newest checkpoint stands
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals stay with whoever owns it
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
