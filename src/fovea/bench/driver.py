"""The driver: one persistent process a variant, one of them active at a time, in strict alternation.

    start all --> warm up --> round 1: a, b, c --> round 2: a, b, c --> ... --> results --> stop all

It waits for nothing, but says at each round how many cores other processes kept busy, so that a reader can judge.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from fovea.errors import FoveaError

OURS = "fovea"
"Name of the tool that runs in this interpreter."
TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"Settings under which glibc keeps freed memory. Handing it back page by page doubles some tools' times."
N_WARM_UPS = 2
_HERE = Path(__file__).parent
_PATIENCE = 3600.0


class WorkerError(FoveaError):
    """A worker died or refused."""


class Peer(NamedTuple):
    """A tool in an environment of its own."""

    python: str
    worker: str
    "Path of its worker script."
    versions: Mapping[str, str]


class Variant(NamedTuple):
    """One row of a comparison."""

    name: str
    tool: str
    task: Mapping[str, Any]
    flops_per_token: float | None = None
    "What the row's work counts as, for the fraction of the matmul peak."
    max_rounds: int | None = None
    "Rounds after which it rests, for a row that takes many times as long as the others; None: none."


class Round(NamedTuple):
    """One turn of one variant."""

    seconds: float
    cpu_seconds: float
    tokens: int
    others: float | None
    "Cores that other processes kept busy meanwhile; None where the system does not say."


class Measured(NamedTuple):
    """What a variant did, or why it did not."""

    variant: Variant
    rounds: list[Round]
    peak_rss: int
    "Bytes, imports and mapped data included."
    results: dict[str, Any]
    error: str | None


class Schedule(NamedTuple):
    """How long each variant runs."""

    rounds: int
    seconds: float = 1.0
    "Least duration of a round; a round is at least one unit."
    warm_ups: int = N_WARM_UPS
    tuned: bool = False
    "Run every worker with the allocator settings of TUNED."


Observe = Callable[[str, int, Round], None]


class Worker:
    """One worker process."""

    def __init__(self, variant: Variant, peers: Mapping[str, Peer], *, tuned: bool) -> None:
        if variant.tool == OURS:
            python, script = sys.executable, str(_HERE / "ours.py")
        else:
            python, script = peers[variant.tool].python, peers[variant.tool].worker
        self.variant = variant
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [python, "-P", str(_HERE / "protocol.py"), script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(variant.tool, tuned=tuned),
        )

    def send(self, **request: Any) -> None:
        """Ask, without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerError: the process died, refused or said nothing for an hour.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_PATIENCE):
                raise WorkerError(f"{self.variant.name}: no answer for {_PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.variant.name}: {answer['error'].strip()}")
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """Ask and wait."""
        self.send(**request)
        return self.receive()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._log.close()

    def _last_words(self) -> str:
        self._process.wait(10)
        self._log.seek(0)
        return f"{self.variant.name}: ended with code {self._process.returncode}: {self._log.read()[-2000:].strip()}"


def alternate(
    variants: Sequence[Variant], *, peers: Mapping[str, Peer], schedule: Schedule, observe: Observe | None = None
) -> list[Measured]:
    """Run `variants` in alternation; one that fails is left out of later rounds and says why.

    Args:
        observe: Called after each round with the variant's name, the number of the round from 1, and what it did.
    """
    errors: dict[str, str] = {}
    with ExitStack() as stack:
        workers = [Worker(variant, peers, tuned=schedule.tuned) for variant in variants]
        for worker in workers:
            stack.callback(worker.stop)
        rounds: dict[str, list[Round]] = {variant.name: [] for variant in variants}
        peaks: dict[str, int] = dict.fromkeys(rounds, 0)
        results: dict[str, dict[str, Any]] = {variant.name: {} for variant in variants}

        def each(turn: Callable[[Worker], None]) -> None:
            for worker in workers:
                if worker.variant.name in errors:
                    continue
                try:
                    turn(worker)
                except WorkerError as error:
                    errors[worker.variant.name] = str(error)

        def take(worker: Worker, number: int) -> None:
            if worker.variant.max_rounds is not None and number > worker.variant.max_rounds:
                return
            taken, peak = _round(worker, schedule.seconds)
            name = worker.variant.name
            rounds[name].append(taken)
            peaks[name] = peak
            if observe is not None:
                observe(name, number, taken)

        def keep(worker: Worker) -> None:
            results[worker.variant.name] = worker.ask(do="results")["results"]

        each(lambda worker: worker.send(do="prepare", task=dict(worker.variant.task)))
        each(lambda worker: _ready(worker))
        for _ in range(schedule.warm_ups):
            each(lambda worker: _ready(worker, do="round", seconds=0.0))
        for number in range(1, schedule.rounds + 1):
            each(lambda worker, number=number: take(worker, number))
        each(keep)
    return [
        Measured(variant, rounds[name], peaks[name], results[name], errors.get(name))
        for variant in variants
        for name in [variant.name]
    ]


def _ready(worker: Worker, **request: Any) -> None:
    if request:
        worker.send(**request)
    worker.receive()


def _round(worker: Worker, seconds: float) -> tuple[Round, int]:
    before, began = _busy_seconds(), time.perf_counter()
    answer = worker.ask(do="round", seconds=seconds)
    wall, after = time.perf_counter() - began, _busy_seconds()
    others = None if before is None or after is None else max(0.0, after - before - answer["cpu_seconds"]) / wall
    return Round(answer["seconds"], answer["cpu_seconds"], answer["tokens"], others), answer["peak_rss"]


def _busy_seconds() -> float | None:
    """CPU seconds that all processes of the machine have used since it started."""
    try:
        user, nice, system, _, _, irq, softirq, *_ = (
            int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        )
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _environment(tool: str, *, tuned: bool) -> dict[str, str]:
    """The worker's environment: as many threads as here, nothing fetched, and no Python path but for fovea's own."""
    env = {name: value for name, value in os.environ.items() if name not in (*TUNED, "PYTHONPATH")}
    env.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
    if tool == OURS:
        env["PYTHONPATH"] = str(_HERE.parents[1])
    return env | TUNED if tuned else env
