"""Two ranks of one thread each against one rank of one thread, on the bundled lm: the same experiment, in alternation.

    python benchmarks/ranks.py --alternations 5 --steps 24 --out benchmarks/results/ranks.json

Both read the same shards, so both end in the same weights (compared here too). Timed: from the first step's end to the
last step's, with the lm in the steps (nothing is kept on disk); loading and tokenising are left out. Target: 1.6.
On a machine that does other work too, wall clock says little: processor_ratio is how much less work a rank has.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = """
name = "ranks"
features = false
controls = false

[general]
max_train_tokens = 65_536
max_heldout_tokens = 8192

[[domain]]
name = "domain"
max_train_tokens = 65_536
max_heldout_tokens = 8192
corpus = "{corpus}"

[text]
contexts_per_chunk = 16

[train]
n_tokens = {n_tokens}
batch_size = {batch_size}
buffer_rows = {buffer_rows}
cache_gigabytes = 0.0
shards = 2

[[job]]
method = {{ kind = "direct" }}
sae = {{ kind = "batch_topk", expansion = 2, k = [16, 32, 64] }}

[[job]]
method = {{ kind = "ssae" }}
sae = {{ kind = "batch_topk", expansion = 2, k = [8, 16, 32] }}
"""


def worker(experiment: Path, out: Path) -> None:
    """One rank: train the domain and write how long the steps took."""
    import torch

    import fovea.experiment.fit as fit
    from fovea.experiment.config import load_experiment
    from fovea.experiment.folder import open_run
    from fovea.experiment.prepare import calibrate, load_subject, materials
    from fovea.together import joined
    from fovea.train.loop import train as plain_train

    torch.set_num_threads(1)
    config = load_experiment(experiment)
    times: list[tuple[float, float]] = []

    def timed(jobs, stream, **options):
        options["observe"] = lambda *_: times.append((time.perf_counter(), time.process_time()))
        plain_train(jobs, stream, **{**options, "checkpoints": None})

    fit.train = timed
    with joined(timeout_seconds=600) as ranks, open_run(out, config, resume=True, ranks=ranks) as run:
        subject = ranks.after_first(lambda: load_subject(config))
        found = ranks.after_first(lambda: materials(config, run, subject))
        (domain,) = config.domain
        calibration = ranks.after_first(lambda: calibrate(run, found[domain.name].train))
        sources = fit.Sources(found[domain.name], found["general"], calibration)
        fit.fit_domain(config, run, subject, domain=domain, sources=sources)
        spent = [last - first for first, last in zip(times[0], times[-1], strict=True)]
        (out / f"seconds-{ranks.rank}.json").write_text(json.dumps(spent))


def measure(n_ranks: int, experiment: Path, folder: Path, port: int) -> tuple[float, float]:
    """Seconds of the steps with so many ranks, and seconds of processor that the busiest rank used for them."""
    out = folder / f"{n_ranks}"
    for path in (out / "saes").glob("*/job.json"):
        path.unlink()  # train again; tokens and calibration stay
    common = {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT / "src"),
    }
    command = [sys.executable, __file__, "--worker", str(experiment), str(out)]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": str(rank), "WORLD_SIZE": str(n_ranks)})
        for rank in range(n_ranks)
    ]
    assert not any([rank.wait() for rank in ranks]), "a rank failed"
    spent = [json.loads((out / f"seconds-{rank}.json").read_text()) for rank in range(n_ranks)]
    return max(wall for wall, _ in spent), max(processor for _, processor in spent)


def largest_difference(folder: Path) -> float:
    """Between the weights that one rank and two ranks ended in, relative to the largest weight."""
    worst = 0.0
    for path in (folder / "1" / "saes").glob("*/sae_weights.safetensors"):
        one, two = load_file(path), load_file(folder / "2" / path.relative_to(folder / "1"))
        worst = max(worst, *(float(abs(one[name] - two[name]).max() / (abs(one[name]).max() + 1e-9)) for name in one))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alternations", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="Steps of 2,048 activations; the first is not timed.")
    parser.add_argument("--corpus", default="bundled:biology", help="Reference of the domain corpus.")
    parser.add_argument("--out", type=Path, help="Write the result here, as benchmarks/render.py reads it.")
    parser.add_argument("--worker", nargs=2, type=Path, metavar=("EXPERIMENT", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(*given.worker)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = folder / "experiment.toml"
        size = 2048
        text = EXPERIMENT.format(
            corpus=given.corpus, n_tokens=given.steps * size, batch_size=size, buffer_rows=2 * size
        )
        experiment.write_text(text)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        used: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(given.alternations):
            for n_ranks in (1, 2) if turn % 2 == 0 else (2, 1):
                wall, processor = measure(n_ranks, experiment, folder, 29400 + 2 * turn + n_ranks)
                seconds[n_ranks].append(wall)
                used[n_ranks].append(processor)
                print(f"{turn} {n_ranks} rank(s): {wall:.2f} s, {processor:.2f} s of processor each", flush=True)
        ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
        numbers = {
            "seconds_one": statistics.median(seconds[1]),
            "seconds_two": statistics.median(seconds[2]),
            "processor_ratio": statistics.median(used[1]) / statistics.median(used[2]),
            "ratio_median": statistics.median(ratios),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "tokens_per_s_two": (given.steps - 1) * size / statistics.median(seconds[2]),
            "largest_weight_difference": largest_difference(folder),
        }
        print(json.dumps(numbers, indent=2))
        if given.out is not None:
            given.out.write_text(json.dumps(as_result(numbers, given), indent=2) + "\n")


def as_result(numbers: dict[str, object], given: argparse.Namespace) -> dict[str, object]:
    """The numbers as a file of `fovea bench` holds them."""
    from fovea.bench.machine import EMULATED, describe_machine, has_bf16

    what = "two ranks of one thread against one"
    return {
        "command": f"python benchmarks/ranks.py --alternations {given.alternations} --steps {given.steps}",
        "machine": describe_machine(),
        "bf16": "measured" if has_bf16() else EMULATED,
        "peers": {},
        "config": {"alternations": given.alternations, "steps": given.steps, "corpus": given.corpus},
        "benchmarks": {"ranks": {"what": what, "groups": [], "numbers": numbers}},
    }


if __name__ == "__main__":
    main()
