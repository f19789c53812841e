"""Feed every reader of strangers' files damaged and hostile inputs: it must refuse with a clear error, or read.

    python scripts/fuzz_readers.py --n 1000000 [--seed 0] [--processes 2] [--only sae --only corpus] [--keep FILE]

good files (scripts/fuzzing/) --changed: bytes, lengths, headers, json, toml, tables, databases, zips, links, pipes-->
    the reader --> a value, or an error of fovea.errors

A finding is any other exception, a warning, memory that grows by 1 GiB, a file opened for writing or read outside the
input's folder, a process, a connection, unpickling, or 120 seconds. Every input follows from the seed and its number.
With --keep, the smallest input of each kind of outcome (message without names and numbers) is kept, as many as fit;
tests/test_hostile.py replays them. With --on-finding go-on, a finding is printed and the next input is tried.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["HF_HOME"] = "/proc/no-hub"

import torch  # noqa: E402
from scripts.fuzzing.all_readers import READERS  # noqa: E402
from scripts.fuzzing.cases import Bench, Case, packed  # noqa: E402
from scripts.fuzzing.watch import Finding, Watch, peak_memory  # noqa: E402

MAX_CORPUS_BYTES = 120_000
MAX_TRIES = 50
"Inputs per kind of outcome that are looked at for the smallest."
EVERY = 10_000


def main() -> None:
    """Run, in one process or several, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", action="append", help="a reader; repeatable")
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--on-finding", choices=("stop", "go-on"), default="stop")
    parser.add_argument("--part", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    start = time.perf_counter()
    if options.part is not None or options.processes == 1:
        found = run(options, options.part or 0)
        if options.part is not None:
            print(json.dumps(found))
            return
        parts = [found]
    else:
        command = [sys.executable, __file__, *sys.argv[1:]]
        workers = [
            subprocess.Popen([*command, "--part", str(part)], stdout=subprocess.PIPE, text=True)
            for part in range(options.processes)
        ]
        parts = [_result_of(worker) for worker in workers]
    _report(parts, options, time.perf_counter() - start)


def run(options: argparse.Namespace, part: int) -> dict[str, object]:
    """The inputs of one process; what came of them."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="Duplicate name")  # zipfile, when an input is made
    torch.set_num_threads(1)
    logging.disable()
    readers = tuple(reader for reader in READERS if not options.only or reader.name in options.only)
    counts: Counter[str] = Counter()
    kept: dict[str, str] = {}
    findings = 0
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as above:
        outside, place = Path(above) / "outside", Path(above) / "place"
        outside.mkdir()
        place.mkdir()
        os.environ["HOME"] = tempfile.tempdir = str(place)
        bench = Bench(readers, place, outside)
        for reader in readers:
            for seed in bench.seeds[reader.name]:
                bench.outcome(Case(reader, seed, {}))
        watch, start = Watch(place, outside), time.perf_counter()
        numbers = range(options.first + part, options.first + options.n, options.processes)
        for done, number in enumerate(numbers, start=1):
            case = bench.case(options.seed, number)
            try:
                outcome = bench.outcome(case, watch)
            except (Exception, Finding):
                findings += 1
                print(f"FINDING: seed {options.seed}, input {number}, {case.reader.name} {case.seed}", file=sys.stderr)
                print(f"  changed: {list(case.changed)}", file=sys.stderr)
                traceback.print_exc(limit=-6)
                sys.stderr.flush()
                if options.on_finding == "stop":
                    raise SystemExit(1) from None
                watch.reset_traces()
                bench.restore(case.reader, case.seed)
                continue
            counts[outcome] += 1
            if options.keep is not None and counts[outcome] <= MAX_TRIES:
                line = packed(case, outcome)
                kept[outcome] = min(kept.get(outcome, line), line, key=len)
            if done % EVERY == 0:
                _say(f"{done} inputs, {len(counts)} kinds of outcome, {time.perf_counter() - start:.0f} s")
        grown = peak_memory() - watch.before
    return {"n": len(numbers), "counts": counts, "kept": kept, "grown": grown, "findings": findings}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _result_of(worker: subprocess.Popen[str]) -> dict[str, object]:
    out, _ = worker.communicate()
    if worker.returncode:
        raise SystemExit(worker.returncode)
    return json.loads(out.splitlines()[-1])


def _report(parts: list[dict], options: argparse.Namespace, seconds: float) -> None:
    """Say what came of all parts, and keep the smallest inputs."""
    counts = sum((Counter(part["counts"]) for part in parts), Counter())
    print(f"{'reader':<12}{'inputs':>9}{'read':>9}{'refused':>9}{'ways':>6}")
    for reader in READERS:
        own = {outcome: n for outcome, n in counts.items() if outcome.startswith(f"{reader.name}: ")}
        if own:
            read = own.get(f"{reader.name}: read", 0)
            total = sum(own.values())
            print(f"{reader.name:<12}{total:>9}{read:>9}{total - read:>9}{len(own) - (read > 0):>6}")
    grown = max(part["grown"] for part in parts) / 2**20
    n, findings = sum(part["n"] for part in parts), sum(part["findings"] for part in parts)
    print(
        f"{n} inputs, seed {options.seed}: {len(counts)} kinds of outcome, {findings} findings; memory grew by "
        f"{grown:.0f} MiB at most; {seconds:.0f} s in {len(parts)} process(es)"
    )
    if options.keep is not None:
        smallest: dict[str, str] = {}
        for part in parts:
            for outcome, line in part["kept"].items():
                smallest[outcome] = min(smallest.get(outcome, line), line, key=len)
        options.keep.write_text("".join(_corpus(smallest)))


def _corpus(kept: dict[str, str]) -> list[str]:
    """The smallest inputs, one of each kind, together at most MAX_CORPUS_BYTES."""
    lines: list[str] = []
    for line in sorted(kept.values(), key=len):
        if sum(map(len, lines)) + len(line) > MAX_CORPUS_BYTES:
            break
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
