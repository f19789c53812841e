"""The loop: every job steps on every batch; one pass over the stream, however many SAEs and ranks."""

import logging
import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fovea.methods.base import Batch
from fovea.profile import span, training_step
from fovea.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from fovea.train.job import DivergedError, Job, StepLog
from fovea.train.stream import Source

_STOP = 1 << 32
"How a wish to stop is told from a checkpoint that is due, in one number summed over the ranks."
Observer = Callable[[int, list[StepLog | None]], None]
"Called after each step with its number and what each job did; None for a job that has stopped."

log = logging.getLogger("fovea")


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the state of the last complete step is saved."""


def train(
    jobs: Sequence[Job],
    stream: Source,
    *,
    n_steps: int,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 120.0,
    observe: Observer | None = None,
) -> None:
    """Step every job until each has done `n_steps`, continuing from the newest checkpoint.

    A job that diverges stops alone, with the last weights kept (`Job.stopped`); the others go on as if it had never
    been there. Neither observing nor checkpointing changes what is trained. Several ranks go in step: they save and
    stop together, by the first one's clock, and at a signal to any.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint of the last whole step was written.
        RankError: another rank was lost; the newest checkpoint stands.
    """
    done = 0
    newest = None if checkpoints is None else latest_checkpoint(checkpoints)
    if newest is not None:
        done = load_checkpoint(newest, jobs, stream)
    last_saved = time.monotonic()
    with _stop_signals() as stopping:
        for step in range(done, n_steps):
            if all(job.stopped is not None for job in jobs):
                break
            training_step()
            with span("read a batch"):
                batch = stream.next()
            logs = _step(jobs, batch)
            if observe is not None:
                observe(step, logs)
            is_due = stream.ranks.is_first and time.monotonic() - last_saved >= checkpoint_seconds
            n_stopping, n_due = divmod(stream.ranks.total(_STOP * stopping() + is_due), _STOP)
            if checkpoints is not None and (n_stopping or n_due):
                with span("checkpoint"):
                    save_checkpoint(checkpoints, step + 1, jobs=jobs, stream=stream)
                last_saved = time.monotonic()
            if n_stopping:
                raise Interrupted(f"stopped after step {step + 1} of {n_steps}")
    for job in jobs:
        if (reason := job.end()) is not None:
            log.warning("%s; it keeps the weights of step %d", reason, job.step_kept)
    if stream.ranks.any(stopping()):  # the signal came after the last step; the jobs are complete
        raise Interrupted(f"stopped after step {n_steps} of {n_steps}")


def _step(jobs: Sequence[Job], batch: Batch) -> list[StepLog | None]:
    """One step of every running job; a job's exchange with other ranks goes on while the next one computes."""
    running = [job for job in jobs if job.stopped is None]
    if running[0].mesh.world.size == 1:  # one gradient held at a time
        logs = {job.spec.name: _step_alone(job, batch) for job in running}
    else:
        with span("jobs, in exchange with other ranks"):
            logs = _step_together(running, batch)
    return [logs.get(job.spec.name) for job in jobs]


def _step_together(jobs: Sequence[Job], batch: Batch) -> dict[str, StepLog | None]:
    logs: dict[str, StepLog | None] = {}
    before, finish = jobs[0], jobs[0].begin(batch)
    for job in jobs[1:]:
        begun = job.begin(batch)
        logs[before.spec.name] = _or_stop(before, finish)
        before, finish = job, begun
    logs[before.spec.name] = _or_stop(before, finish)
    return logs


def _step_alone(job: Job, batch: Batch) -> StepLog | None:
    with span(job.spec.name):
        return _or_stop(job, job.begin(batch))


def _or_stop(job: Job, finish: Callable[[], StepLog]) -> StepLog | None:
    """What the step did; None if the job has diverged, which ends it and no other. All ranks see the same loss."""
    try:
        return finish()
    except DivergedError as error:
        job.stop(str(error))
        log.warning("%s; it stops with the weights of step %d, the others go on", error, job.step_kept)
        return None


@contextmanager
def _stop_signals() -> Generator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag for the duration, so that a step is never cut in two."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if received:  # a second signal means now: the newest checkpoint stands
            raise KeyboardInterrupt
        received.append(number)

    heard = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    try:
        previous = {number: signal.signal(number, note) for number in heard}
    except ValueError:  # not the main thread: signals stay with whoever owns it
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
