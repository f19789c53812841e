"""A run folder to report on, without training anything.

Loss recovered, FVU and L0 of the three methods are the seed experiment's own (masked, gap to g; subjects hs_bio,
hs_math, history); the rest (CE, intervals, tables of latents) is made up from them, so that the shapes are those of
a real run.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fovea.eval.definitions import DEFINITIONS

# (method, l1): [D: L0, loss recovered, FVU recovered, general: L0, loss recovered, FVU recovered]
POINTS = {
    "biology": {
        ("finetune", "4"): (23.60, 0.6328, 0.3873, 24.55, 0.1348, 0.1343),
        ("finetune", "2"): (34.74, 0.6914, 0.4234, 34.02, 0.2695, 0.1580),
        ("finetune", "1"): (48.11, 0.7227, 0.4282, 43.56, 0.3379, 0.1529),
        ("direct", "5"): (13.08, 0.4590, 0.2391, 15.89, -1.4297, -0.4952),
        ("direct", "2"): (39.99, 0.7109, 0.4004, 50.83, -0.5117, -0.1820),
        ("direct", "1"): (107.01, 0.8281, 0.5211, 140.98, 0.0674, 0.0749),
        ("ssae", "20"): (26.73, 0.5156, 0.3073, 23.50, 0.2295, 0.1932),
        ("ssae", "10"): (44.31, 0.5625, 0.3507, 40.61, 0.2295, 0.2085),
        ("ssae", "6"): (55.34, 0.5977, 0.3725, 52.50, 0.2432, 0.2190),
    },
    "mathematics": {
        ("finetune", "4"): (22.17, 0.6680, 0.4424, 23.81, 0.1216, 0.1126),
        ("finetune", "2"): (32.59, 0.7188, 0.4808, 32.63, 0.2559, 0.1356),
        ("finetune", "1"): (45.02, 0.7617, 0.4977, 41.51, 0.3242, 0.1312),
        ("direct", "5"): (11.06, 0.5117, 0.3644, 14.40, -1.4062, -0.6021),
        ("direct", "2"): (33.52, 0.7070, 0.4952, 46.74, -0.5664, -0.2855),
        ("direct", "1"): (88.31, 0.8125, 0.5907, 132.25, 0.0270, -0.0208),
        ("ssae", "20"): (26.01, 0.5195, 0.3620, 23.02, 0.2295, 0.1860),
        ("ssae", "10"): (36.84, 0.5742, 0.4062, 33.60, 0.2432, 0.1979),
        ("ssae", "6"): (43.93, 0.6133, 0.4321, 38.45, 0.2432, 0.2096),
    },
    "history": {
        ("finetune", "4"): (23.17, 0.4805, 0.3213, 23.93, 0.2031, 0.1803),
        ("finetune", "2"): (34.62, 0.5703, 0.3610, 34.37, 0.3379, 0.2192),
        ("finetune", "1"): (48.46, 0.6094, 0.3688, 45.99, 0.4062, 0.2250),
        ("direct", "5"): (12.27, -0.0253, -0.0704, 13.11, -1.1328, -0.4409),
        ("direct", "2"): (41.30, 0.4805, 0.2244, 46.69, -0.1621, -0.0707),
        ("direct", "1"): (112.80, 0.7070, 0.4179, 129.82, 0.2559, 0.1887),
        ("ssae", "20"): (24.84, 0.3789, 0.2496, 23.09, 0.2695, 0.2085),
        ("ssae", "10"): (50.32, 0.4180, 0.2777, 49.02, 0.2832, 0.2187),
        ("ssae", "6"): (71.89, 0.4434, 0.2962, 71.04, 0.2969, 0.2275),
    },
}
CE_CLEAN, CE_G, CE_ZERO, CE_MEAN, FVU_G, L0_G = 3.3906, 3.7656, 11.2, 9.8, 0.24, 20.4
CONTROLS = {"random": -16.2, "moment": -11.4, "frozen_decoder": -0.31}


@dataclass(frozen=True)
class Shape:
    """What kind of run to write."""

    domains: tuple[str, ...] = ("biology",)
    seeds: int = 1
    methods: tuple[str, ...] = ("finetune", "direct", "ssae")
    intervals: bool = True
    n_documents: int = 214
    d_sae: int = 1024
    one_sparsity: str = ""
    "A method that has a single sparsity point."
    nulls: bool = False
    "Leave KL unmeasured, with a reason."


def make_run(folder: Path, shape: Shape | None = None) -> Path:
    """Write a run folder of the given shape; the folder."""
    shape = shape or Shape()
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for domain in shape.domains:
        lines += _shared_lines(domain, shape)
        for method, knob, numbers in _points(domain, shape):
            for seed in range(shape.seeds):
                job = f"{_prefix(domain, shape)}{method}-gated-l1_{knob}-s{seed}"
                lines += _job_lines(job, (domain, method, seed), numbers, shape)
                _write_job(folder, job, (domain, method, seed), shape, rng)
        _write_control(folder, domain, shape)
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(
        folder / "comparisons.jsonl", [line for domain in shape.domains for line in _comparisons(domain, shape)]
    )
    for domain in shape.domains:
        _write_latents(folder, f"{_prefix(domain, shape)}g", ("", "general", 0), shape, rng)
    _write_rest(folder, shape, rng)
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """jsonl."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _points(domain: str, shape: Shape) -> list[tuple[str, str, tuple[float, ...]]]:
    table = POINTS.get(domain) or POINTS[list(POINTS)[sum(map(ord, domain)) % 3]]
    points = [(method, knob, numbers) for (method, knob), numbers in table.items() if method in shape.methods]
    return [p for p in points if p[0] != shape.one_sparsity or p[1] in ("2", "10")]


def _prefix(domain: str, shape: Shape) -> str:
    return f"{domain}-" if len(shape.domains) > 1 else ""


def _line(job: str, method: str, domain: str, **rest: Any) -> dict[str, Any]:
    keys = "architecture seed corpus split metric definition value ci_low ci_high n_tokens n_documents unit reason"
    empty = dict.fromkeys([*keys.split(), "corpus_fingerprint", "sae_fingerprint"])
    known = {"definition": rest["metric"], "unit": DEFINITIONS[rest["metric"]].unit, "corpus_fingerprint": "ab12"}
    return {"job": job, "method": method, "domain": domain, **empty, **rest, **known}


def _texts(domain: str) -> list[tuple[str, str, float]]:
    """Corpus, split, and how much better the numbers are there than on held-out text."""
    return [(domain, "heldout", 0.0), (domain, "train", 0.035), ("general", "heldout", 0.0)]


def _counts(shape: Shape, corpus: str) -> dict[str, int]:
    n = 400 if corpus == "general" else shape.n_documents
    return {"n_documents": n, "n_tokens": n * 512}


def _shared_lines(domain: str, shape: Shape) -> list[dict[str, Any]]:
    """Lines of the lm, of g and of the controls."""
    lines: list[dict[str, Any]] = []
    for corpus, split, _ in _texts(domain):
        where = {"corpus": corpus, "split": split, **_counts(shape, corpus)}
        for metric, value in {"ce_clean": CE_CLEAN, "ce_zero": CE_ZERO, "ce_mean": CE_MEAN}.items():
            lines.append(_line("lm", "lm", domain, metric=metric, value=value, **where))
        own = {"ce": CE_G, "ce_g": CE_G, "delta_ce": CE_G - CE_CLEAN, "l0": L0_G, "fvu": FVU_G, "kl": 0.41}
        own |= {"loss_recovered_zero": 0.952, "loss_recovered_mean": 0.941, "loss_recovered_gap": 0.0}
        for metric, value in {**own, "n_alive": 8100, "n_dead": 92}.items():
            lines.append(_line("g", "general", domain, architecture="jumprelu", metric=metric, value=value, **where))
        for kind, gap in CONTROLS.items():
            job = {"job": f"{_prefix(domain, shape)}control-{kind}-k40", "method": "control", "domain": domain}
            for metric, value in {"loss_recovered_gap": gap, "l0": 40.0, "fvu": 1.1, "ce": CE_G - gap * 0.375}.items():
                lines.append(_line(**job, architecture="jumprelu", seed=0, metric=metric, value=value, **where))
    return lines


def _job_lines(job: str, who: tuple[str, str, int], numbers: tuple[float, ...], shape: Shape) -> list[dict[str, Any]]:
    domain, method, seed = who
    lines: list[dict[str, Any]] = []
    for corpus, split, bonus in _texts(domain):
        l0, gap, fvu = numbers[3:] if corpus == "general" else numbers[:3]
        gap += bonus + 0.008 * seed
        ce, width = CE_G - gap * (CE_G - CE_CLEAN), 0.012 * (1 + abs(gap))
        values: dict[str, float | None] = {"l0": l0, "loss_recovered_gap": gap, "ce": ce, "delta_ce": ce - CE_CLEAN}
        values |= {
            "loss_recovered_gap_masked": gap + 0.06,
            "loss_recovered_zero": (CE_ZERO - ce) / (CE_ZERO - CE_CLEAN),
        }
        values |= {"loss_recovered_mean": (CE_MEAN - ce) / (CE_MEAN - CE_CLEAN), "fvu": FVU_G * (1 - fvu)}
        values |= {
            "kl": None if shape.nulls else max(ce - CE_CLEAN, 0) * 1.1,
            "n_alive": 900,
            "n_dead": shape.d_sae - 900,
        }
        values |= {"l0_general": L0_G if method == "ssae" else 0.0, "l0_domain": l0 - L0_G if method == "ssae" else l0}
        where = {"corpus": corpus, "split": split, "seed": seed, "architecture": "gated", **_counts(shape, corpus)}
        for metric, value in values.items():
            line = _line(job, method, domain, metric=metric, value=value, **where)
            if shape.intervals and value is not None and metric[:2] in ("lo", "fv", "ce", "kl", "de"):
                line |= {"ci_low": value - width, "ci_high": value + width}
            if value is None:
                line["reason"] = "KL was switched off"
            lines.append(line)
    return lines


def _comparisons(domain: str, shape: Shape) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    curves: dict[str, list[tuple[float, ...]]] = {}
    for method, _, numbers in _points(domain, shape):
        curves.setdefault(method, []).append(numbers)
    names = sorted(curves)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    for corpus, metric, at in [
        (domain, "loss_recovered_gap", 0),
        (domain, "fvu", 0),
        ("general", "loss_recovered_gap", 3),
    ]:
        for l0 in (28.0, 33.0, 43.0):
            for a, b in pairs:
                values = [_interpolate(curves[name], l0, at, metric) for name in (a, b)]
                lines.append(_comparison((domain, corpus, metric, l0), (a, b), values, shape))
    return lines


def _comparison(
    what: tuple[str, str, str, float], pair: tuple[str, str], values: list[Any], shape: Shape
) -> dict[str, Any]:
    domain, corpus, metric, l0 = what
    a, b = values
    difference = None if a is None or b is None else a - b
    ends = None if difference is None or not shape.intervals else (difference - 0.018, difference + 0.018)
    reason = None
    if difference is None:
        reason = f"{pair[0] if a is None else pair[1]} has no two points around L0 {l0:g}"
    elif ends is None:
        reason = "too few documents for a bootstrap"
    line = {"domain": domain, "corpus": corpus, "split": "heldout", "metric": metric, "l0": l0, "method_a": pair[0]}
    line |= {"method_b": pair[1], "value_a": a, "value_b": b, "difference": difference, "reason": reason}
    return {**line, "ci_low": ends[0] if ends else None, "ci_high": ends[1] if ends else None}


def _interpolate(curve: list[tuple[float, ...]], l0: float, at: int, metric: str) -> float | None:
    points = sorted((p[at], p[at + 1] if metric != "fvu" else FVU_G * (1 - p[at + 2])) for p in curve)
    if not points[0][0] <= l0 <= points[-1][0]:
        return None
    return float(np.interp(l0, [p[0] for p in points], [p[1] for p in points]))


def _write_job(folder: Path, job: str, who: tuple[str, str, int], shape: Shape, rng: np.random.Generator) -> None:
    domain, method, seed = who
    ledger = {"n_tokens": 4_000_000, "epochs": 2.6, "n_steps": 976, "flops": 5.2e14, "flops_lm_shared": 6.5e14}
    ledger |= {
        "seconds": 41.7,
        "n_parameters": 2 * 576 * shape.d_sae,
        "d_sae": shape.d_sae,
        "n_dead": shape.d_sae - 900,
    }
    about = {"job": job, "method": method, "architecture": "gated", "domain": domain, "seed": seed}
    about |= {"sparsity": re.sub(r".*-(l1_\d+)-s\d+$", r"\1", job), "config": {}}
    path = folder / "saes" / _file_name(job) / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "ledger": ledger}))
    _write_latents(folder, job, who, shape, rng)


def _write_control(folder: Path, domain: str, shape: Shape) -> None:
    """The one control that is trained has a ledger."""
    job = f"{_prefix(domain, shape)}control-frozen_decoder-k40"
    path = folder / "saes" / _file_name(job) / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"job": job, "method": "control", "architecture": "batch_topk", "sparsity": "k40", "domain": domain}
    path.write_text(json.dumps({**about, "seed": 0, "ledger": {"n_tokens": 4_000_000, "d_sae": shape.d_sae}}))


def _write_latents(folder: Path, job: str, who: tuple[str, str, int], shape: Shape, rng: np.random.Generator) -> None:
    method, n, n_tokens = who[1], shape.d_sae, 204_800
    centre, dead, silent = {
        "finetune": (-2.3, 0.01, 0.0),
        "general": (-2.3, 0.01, 0.0),
        "direct": (-2.7, 0.08, 0.05),
        "ssae": (-4.1, 0.06, 0.22),
    }.get(method, (-3.0, 0.1, 0.1))
    general = rng.binomial(n_tokens, 10 ** np.minimum(rng.normal(centre, 0.7, n), -0.3))
    domain = rng.binomial(n_tokens, 10 ** np.minimum(rng.normal(centre + 0.6, 0.7, n), -0.3)).clip(1)
    general[: int(n * (dead + silent))] = 0
    domain[: int(n * dead)] = 0
    decoder, encoder = {
        "finetune": (rng.beta(40, 3, n), rng.beta(90, 1, n)),
        "direct": (rng.beta(9, 4, n), rng.beta(4, 7, n)),
    }.get(method, (rng.beta(4, 6, n), rng.beta(12, 28, n)))
    columns: dict[str, Any] = {"latent": pa.array(np.arange(n, dtype=np.int32)), "n_fired_domain": domain}
    columns |= {"n_tokens_domain": np.full(n, n_tokens), "n_fired_general": general}
    columns |= {"n_tokens_general": np.full(n, n_tokens), "nearest_decoder": np.zeros(n, np.int32)}
    null = pa.nulls(n, pa.float32())
    columns["novelty_decoder"] = null if method == "general" else decoder.astype(np.float32)
    columns["novelty_encoder"] = null if method == "general" else encoder.astype(np.float32)
    path = folder / "features" / _file_name(job) / "latents.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _write_rest(folder: Path, shape: Shape, rng: np.random.Generator) -> None:
    def sample(mean: float, spread: float) -> list[float]:
        return rng.normal(mean, spread, 500).round(4).tolist()

    baselines = {"random": {"decoder": sample(0.158, 0.012), "encoder": sample(0.158, 0.012)}}
    baselines["moment"] = {"decoder": sample(0.24, 0.03), "encoder": sample(0.21, 0.03)}
    files: dict[str, Any] = {"features/baselines.json": {**baselines, "n_latents": shape.d_sae, "seed": 0}}
    files["definitions.json"] = {key: definition._asdict() for key, definition in DEFINITIONS.items()}
    files["excluded.json"] = {"token filter": {"positions dropped at the start of each context": 0}}
    files["excluded.json"]["token filter"] |= {
        "special tokens dropped": 17,
        "norm above which a token is dropped": 2104.2,
    }
    files["provenance.json"] = {
        "fovea": "0.1.0",
        "commit": "0123abcd",
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "machine": {"system": "Linux", "cores": 2},
        "starts": [{"time_utc": "2025-01-31T12:00:00Z", "command": "fovea run experiment.toml --out run"}],
        "lm": {"name": "bundled:smollm2-135m-instruct", "fingerprint": "9f8e", "dtype": "torch.bfloat16"},
    }
    for corpus in (*shape.domains, "general"):
        sizes = {"n_documents": 3100, "n_tokens": 1_540_000, "n_contexts": 6015, "n_tail_tokens": 201}
        splits = {"train": {**sizes, "sha256": {"a": "b"}}, "heldout": {**sizes, **_counts(shape, corpus)}}
        manifest = {"name": corpus, "settings": {"context_size": 256}, "n_documents_read": 3331, "n_duplicates": 17}
        files[f"corpora/{_file_name(corpus)}/manifest.json"] = {**manifest, "splits": splits}
        files["excluded.json"][corpus] = {"documents read": 3331, "exact duplicates dropped": 17}
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1))
    (folder / "experiment.toml").write_text(
        'seed = 0\nlm = "bundled:smollm2-135m-instruct"\nhook_point = "14.resid_post"\n'
    )


def _file_name(job: str) -> str:
    return re.sub(r"[/\\]", "_", job)
