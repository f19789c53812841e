"""A worker process: rounds of one workload, asked for and answered as JSON lines. Standard library only.

    python -P protocol.py WORKER.py
    <- {"do": "prepare", "task": {...}}      -> {"ready": true}
    <- {"do": "round", "seconds": 1.0}       -> {"seconds", "cpu_seconds", "tokens", "units", "peak_rss"}
    <- {"do": "results"}                     -> {"results": {...}}

WORKER.py has `prepare(task) -> (unit, results)`: `unit()` does the smallest piece of work and returns its tokens,
`results()` says what came out. It runs in environments that hold no fovea, so nothing here imports it.
"""

import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAIT_EVERY = 8
"Units after which a GPU is waited for: else a round ends only when all that was queued in it is done."
Unit = Callable[[], int]
Results = Callable[[], dict[str, Any]]
Prepare = Callable[[dict[str, Any]], tuple[Unit, Results]]


class Serving:
    """One worker's state: the workload that was prepared last."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._workload: tuple[Unit, Results] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one request asks for.

        Raises:
            ValueError: the request is not one of the protocol's.
        """
        if request["do"] == "prepare":
            forget_peak()
            self._workload = self._prepare(request["task"])
            return {"ready": True}
        assert self._workload is not None, "prepare comes first"
        unit, results = self._workload
        if request["do"] == "round":
            return timed(unit, request["seconds"])
        if request["do"] == "results":
            return {"results": results()}
        raise ValueError(f"request {request['do']!r} is none of prepare, round, results")


def timed(unit: Unit, seconds: float) -> dict[str, Any]:
    """Units until `seconds` of wall clock have passed, at least one."""
    tokens = units = 0
    wait_for_gpu()
    began, began_cpu = time.perf_counter(), time.process_time()
    while True:
        tokens += unit()
        units += 1
        if units % WAIT_EVERY == 0:
            wait_for_gpu()
        if time.perf_counter() - began >= seconds:
            break
    wait_for_gpu()
    took = time.perf_counter() - began
    cpu = time.process_time() - began_cpu
    return {"seconds": took, "cpu_seconds": cpu, "tokens": tokens, "units": units, "peak_rss": peak_rss()}


def wait_for_gpu() -> None:
    """Until a GPU that this process uses has done all that it was given."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Start the peak of resident memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss() -> int:
    """Largest resident memory so far, in bytes; mapped files count."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def serve(worker: Path) -> None:
    """Answer requests until the input ends; whatever libraries write to stdout goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # A worker finds its neighbours, but never what lies beside this file: `-P` keeps that folder out.
    sys.path.append(str(worker.parent))
    spec = importlib.util.spec_from_file_location("fovea_bench_worker", worker)
    assert spec is not None
    assert spec.loader is not None, f"{worker} is not a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    serving = Serving(vars(module)["prepare"])
    for line in sys.stdin:
        try:
            answer = serving.answer(json.loads(line))
        except Exception:  # whatever goes wrong in a tool is that tool's result
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
