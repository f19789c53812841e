"""`fovea bench`: run benchmarks by name, show their tables, keep their results.

names, settings, peers --> groups --> driver --> rows, numbers --> table on the terminal, FILE.json
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from fovea.atomic import write_json
from fovea.bench import owngroups, passgroups, roofline, suite
from fovea.bench.config import BenchConfig
from fovea.bench.driver import Measured, Peer, Round, alternate
from fovea.bench.machine import EMULATED, describe_machine, has_bf16
from fovea.bench.suite import Group, Plan
from fovea.bench.summary import rows, together
from fovea.bench.table import show
from fovea.config import parse
from fovea.errors import ConfigError
from fovea.experiment.config import override

Numbers = Callable[[list[list[Measured]]], dict[str, Any]]


class Benchmark(NamedTuple):
    """A name on the command line."""

    what: str
    groups: Callable[[Plan], list[Group]] | None
    numbers: Numbers | None = None
    alone: Callable[[Plan], dict[str, Any]] | None = None
    "For a benchmark without groups: its numbers."


BENCHMARKS: dict[str, Benchmark] = {
    "step": Benchmark("one TopK training step", suite.step_groups),
    "archs": Benchmark("the same for batch_topk, jumprelu and gated", suite.arch_groups),
    "auxk": Benchmark("the TopK step with half of the latents dead", suite.auxk_groups),
    "many": Benchmark("many SAEs on the same rows", suite.many_groups),
    "harvest": Benchmark("the lm to the hook point", passgroups.harvest_groups),
    "line": Benchmark("one pass with N SAEs", passgroups.line_groups, passgroups.line_numbers),
    "e2e": Benchmark("the post's grid from text to files", passgroups.e2e_groups, passgroups.e2e_numbers),
    "eval": Benchmark("evaluation of nine SAEs", passgroups.eval_groups, passgroups.eval_numbers),
    "quality": Benchmark(
        "FVU and L0 against the dense fp32 reference", owngroups.quality_groups, owngroups.quality_numbers
    ),
    "memory": Benchmark("peak memory of a long stream", owngroups.memory_groups, owngroups.memory_numbers),
    "roofline": Benchmark(
        "the stages of a run against this machine's limits", roofline.roofline_groups, roofline.roofline_numbers
    ),
    "import": Benchmark("import time and package count", None, alone=owngroups.import_numbers),
}
ANYWHERE = ("step", "archs", "harvest", "eval")
"What runs when no name is given and there are no peers."
_WIDTH = 128


def run_benchmarks(
    names: Sequence[str],
    *,
    settings: Sequence[str] = (),
    peers: Path | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run `names` (all with peers, the short ones without), show each, and write what is done so far to `out`.

    Raises:
        ConfigError: a name or setting is unknown, step.device has no GPU, or the folder of peers holds none.
    """
    table: dict[str, Any] = {}
    for setting in settings:
        override(table, setting)
    config = parse(BenchConfig, table, where="fovea bench")
    device = config.step.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('step.device = "cuda", but torch sees no GPU here; leave it out, or install a torch for CUDA')
    found = {} if peers is None else read_peers(peers)
    chosen = list(names) or list(BENCHMARKS if found else ANYWHERE)
    for name in chosen:
        if name not in BENCHMARKS:
            raise ConfigError(f"benchmark {name!r} does not exist; choose from {', '.join(BENCHMARKS)}")
    console = console or _console()
    result: dict[str, Any] = {
        "command": _command(chosen, settings, with_peers=bool(found)),
        "machine": describe_machine(),
        "bf16": "measured" if has_bf16(device) else EMULATED,
        "peers": {name: dict(peer.versions) for name, peer in found.items()},
        "config": config.model_dump(mode="json"),
        "benchmarks": {},
    }
    console.print(f"{result['machine']['processor']}, {result['machine']['cores']} cores, bf16 {result['bf16']}")
    for name in chosen:
        result["benchmarks"][name] = run_one(BENCHMARKS[name], Plan(config, found), console=console)
        show(result["benchmarks"][name], console)
        if out is not None:
            write_json(out, result)
    both = [result["benchmarks"].get(name) for name in ("e2e", "eval")]
    if all(both):
        for name, value in together(*both).items():
            console.print(f"{name}: {value:.2f}", highlight=False)
    return result


def run_one(benchmark: Benchmark, plan: Plan, *, console: Console) -> dict[str, Any]:
    """A benchmark's groups and numbers."""
    if benchmark.groups is None:
        assert benchmark.alone is not None
        return {"what": benchmark.what, "groups": [], "numbers": benchmark.alone(plan)}
    groups, measured = [], []
    for group in benchmark.groups(plan):
        console.print(f"{group.title}: {len(group.variants)} variants, {group.schedule.rounds} rounds", highlight=False)
        done = alternate(group.variants, peers=plan.peers, schedule=group.schedule, observe=_teller(console))
        measured.append(done)
        found = rows(done, base=group.base, peak=group.peak, limit=group.limit)
        groups.append({"title": group.title, "about": dict(group.about), "rows": found})
    numbers = benchmark.numbers(measured) if benchmark.numbers else {}
    return {"what": benchmark.what, "groups": groups, "numbers": numbers}


def read_peers(folder: Path) -> dict[str, Peer]:
    """The tools that benchmarks/peers/set_up.py installed.

    Raises:
        ConfigError: the folder has no list of them, or one is gone.
    """
    path = folder / "peers.json"
    if not path.exists():
        raise ConfigError(f"--peers {str(folder)!r} holds no peers.json; make it with benchmarks/peers/set_up.py")
    found = {name: Peer(**entry) for name, entry in json.loads(path.read_text()).items()}
    for name, peer in found.items():
        if not (Path(peer.python).exists() and Path(peer.worker).exists()):
            raise ConfigError(f"peer {name!r} of {str(path)!r} is gone; run benchmarks/peers/set_up.py again")
    return found


def _command(names: Sequence[str], settings: Sequence[str], *, with_peers: bool) -> str:
    """What to type for these results; folders are left out."""
    peers = ["--peers", "FOLDER"] if with_peers else []
    return " ".join(["fovea bench", *names, *peers, *(f"--set {setting}" for setting in settings)])


def _console() -> Console:
    """The terminal; in a file, lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _teller(console: Console) -> Callable[[str, int, Round], None]:
    def tell(name: str, number: int, taken: Round) -> None:
        others = "unknown" if taken.others is None else f"{taken.others:.2f} cores"
        took = f"{taken.tokens / taken.seconds:,.0f} tokens/s in {taken.seconds:.1f} s"
        console.print(f"  round {number} {name}: {took}; others kept {others} busy", highlight=False, markup=False)

    return tell


def described() -> Mapping[str, str]:
    """Each benchmark's name and what it measures."""
    return {name: benchmark.what for name, benchmark in BENCHMARKS.items()}
