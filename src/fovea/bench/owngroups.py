"""The benchmarks that need neither lm nor alternation in time: quality, memory of a long stream, imports."""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from fovea.bench.driver import OURS, Measured, Variant
from fovea.bench.machine import has_bf16
from fovea.bench.material import activations
from fovea.bench.suite import Group, Plan, schedule_of

_HELDOUT = 8192
TOLERANCE = 0.005
"Largest relative difference of FVU and of L0 from the dense reference."
_IMPORTS = {"sae-lens": "sae_lens", "dictionary-learning": "dictionary_learning", "sparsify": "sparsify"}
_PACKAGE = {"sae-lens": "sae-lens", "dictionary-learning": "dictionary-learning", "sparsify": "eai-sparsify"}
_CLOSURE = """
import importlib.metadata as m, json, re, sys
from packaging.requirements import Requirement
seen, pending = set(), [(sys.argv[1], frozenset())]
while pending:
    name, extras = pending.pop()
    key = re.sub(r"[-_.]+", "-", name).lower()
    try:
        wants = m.requires(key) or []
    except m.PackageNotFoundError:
        continue
    if (key, extras) in seen:
        continue
    seen.add((key, extras))
    for text in wants:
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            pending.append((wanted.name, frozenset(wanted.extras)))
print(json.dumps(len({key for key, _ in seen})))
"""


def quality_groups(plan: Plan) -> list[Group]:
    """Train fovea's TopK and the dense reference from the same weights on the same rows, for each seed."""
    step = plan.config.step
    d_sae = step.d_sae[0]
    path = activations(step, plan.config.lm)
    variants: list[Variant] = []
    for seed in step.seeds:
        task = {
            "kind": "quality",
            "arch": "topk",
            "d_sae": d_sae,
            "k": step.k,
            "batch_size": step.batch_size,
            "data": str(path),
            "seed": seed,
            "n_steps": step.quality_steps,
            "n_heldout": min(_HELDOUT, step.n_rows // 4),
            "dense": False,
        }
        variants.append(Variant(f"{OURS} seed {seed}", OURS, task))
        if has_bf16():
            variants.append(Variant(f"{OURS} bf16 seed {seed}", OURS, task | {"dtype": "bfloat16"}))
        variants.append(Variant(f"dense reference seed {seed}", OURS, task | {"dense": True}))
    about = {"arch": "topk", "d_sae": d_sae, "k": step.k, "steps": step.quality_steps, "seeds": list(step.seeds)}
    title = f"quality: {step.quality_steps} steps of {step.batch_size:,} rows, d_sae {d_sae:,}"
    schedule = schedule_of(plan, "default", rounds=1, seconds=0.0, warm_ups=0)
    # One at a time: each is a whole training, so processes that wait would only hold memory.
    return [Group(title, about, variants, schedule, base=variants[0].name)]


def quality_numbers(measured: list[list[Measured]]) -> dict[str, Any]:
    """FVU and L0 of each way, mean over seeds, against the dense reference and against its spread over seeds."""
    (found,) = measured
    by_way: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        if each.results:
            by_way.setdefault(each.variant.name.rpartition(" seed ")[0], []).append(each.results)
    reference = by_way.pop("dense reference", [])
    if not reference:
        return {}
    numbers: dict[str, Any] = {"dense reference": _across(reference)}
    for way, results in by_way.items():
        entry = _across(results)
        for name in ("fvu", "l0"):
            theirs = numbers["dense reference"][name]
            entry[f"{name}_difference"] = abs(entry[name] - theirs) / theirs
        spread = numbers["dense reference"]["fvu_spread"]
        entry["holds"] = entry["fvu_difference"] <= TOLERANCE and entry["l0_difference"] <= TOLERANCE
        entry["within_seed_spread"] = abs(entry["fvu"] - numbers["dense reference"]["fvu"]) <= spread
        numbers[way] = entry
    return numbers


def _across(results: list[dict[str, Any]]) -> dict[str, Any]:
    fvu, l0 = ([each[name] for each in results] for name in ("fvu", "l0"))
    return {
        "fvu": statistics.fmean(fvu),
        "fvu_spread": max(fvu) - min(fvu),
        "l0": statistics.fmean(l0),
        "l0_spread": max(l0) - min(l0),
    }


def memory_groups(plan: Plan) -> list[Group]:
    """Peak memory of a short and a long stream through the mixing buffer into one SAE."""
    d_in = plan.config.step.d_in
    common = {"kind": "memory", "arch": "topk", "d_in": d_in, "d_sae": 64, "k": 4, "batch_size": 8192}
    variants = [Variant(f"{n:,} rows", OURS, common | {"n_rows": n}) for n in plan.config.lm.streamed_rows]
    schedule = schedule_of(plan, "default", rounds=1, seconds=0.0, warm_ups=0)
    return [Group(f"rows of {d_in} streamed", {"d_in": d_in}, variants, schedule, base=variants[0].name)]


def memory_numbers(measured: list[list[Measured]]) -> dict[str, Any]:
    """How much larger the peak of the long stream is."""
    ((short, long),) = measured
    if not (short.peak_rss and long.peak_rss):
        return {}
    return {"peak of the long stream / of the short one": long.peak_rss / short.peak_rss}


def import_numbers(plan: Plan) -> dict[str, Any]:
    """Seconds from the start of Python to the end of an import, medians, and packages that an install brings."""
    pythons = {OURS: sys.executable} | {name: plan.peers[name].python for name in _IMPORTS if name in plan.peers}
    modules = {OURS: "fovea", **_IMPORTS}
    wanted = {name: (pythons[name], f"import {modules[name]}") for name in pythons}
    wanted |= {
        "fovea, all that a run uses": (sys.executable, "import fovea.experiment.run"),
        "torch": (sys.executable, "import torch"),
        "python itself": (sys.executable, "pass"),
    }
    times: dict[str, list[float]] = {name: [] for name in wanted}
    for number in range(plan.config.rounds + 1):
        for name, (python, code) in wanted.items():
            took = _timed([python, "-c", code])
            if number and took is not None:  # the first round warms the file cache
                times[name].append(took)
    packages = {OURS: "fovea-sae", **_PACKAGE}
    counts = {name: _closure(pythons[name], packages[name]) for name in pythons}
    return {
        "import seconds": {name: statistics.median(found) if found else None for name, found in times.items()},
        "packages": counts,
    }


def _timed(command: list[str]) -> float | None:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    return None if done.returncode else time.perf_counter() - began


def _closure(python: str, package: str) -> int | None:
    """Packages that a package needs, itself among them; None where it is not installed as one."""
    done = subprocess.run([python, "-c", _CLOSURE, package], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) or None if done.returncode == 0 else None
