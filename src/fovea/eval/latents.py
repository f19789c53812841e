"""What is known of each latent, as tables: features/JOB/latents.parquet, features/baselines.json and summary records.

FiringCounts on D and on general text, Novelty --> one row per latent; counts and medians --> MetricRecords
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fovea.atomic import replacing, write_json
from fovea.eval.definitions import DEFINITIONS
from fovea.eval.density import FiringCounts, density_bound, median_density
from fovea.eval.novelty import MATCHED, Baseline, Novelty, summarise
from fovea.eval.records import MetricRecord
from fovea.eval.scoring import JobInfo, Part

SPECIFIC = 100
"How many times denser on D than on general text a latent must be to count as specific to D."
_STEMS = (("novelty", "_median"), ("n_matched", ""), ("n_above_random", ""), ("n_above_moment", ""))
"Names of the fields of NoveltyCounts as metrics, before and after the side."
_NOVELTY_IDS = ("n_novel", *(f"{stem}_{side}{end}" for side in ("decoder", "encoder") for stem, end in _STEMS))


class Baselines(NamedTuple):
    """What chance gives, for an SAE of n_latents."""

    decoder: Baseline
    encoder: Baseline
    n_latents: int
    seed: int


class LatentFacts(NamedTuple):
    """What was counted and measured for one SAE's latents."""

    domain: FiringCounts
    general: FiringCounts | None
    "None when the run has no general text."
    novelty: Novelty | None
    "None when the run has no g to compare with."


def write_latents(path: Path, facts: LatentFacts) -> None:
    """Write latents.parquet: one row per latent, what is missing as null; atomically."""
    n = len(facts.domain.counts)
    counts = {"domain": facts.domain, "general": facts.general}
    columns: dict[str, pa.Array] = {"latent": pa.array(np.arange(n), pa.int32())}
    for name, found in counts.items():
        columns[f"n_fired_{name}"] = _column(found.counts if found else None, n, kind=pa.int64())
        columns[f"n_tokens_{name}"] = pa.array([found.n_tokens if found else None] * n, pa.int64())
    for side in ("decoder", "encoder"):
        found = None if facts.novelty is None else facts.novelty._asdict()[side]
        columns[f"novelty_{side}"] = _column(found.value if found else None, n, kind=pa.float32())
        columns[f"nearest_{side}"] = _column(found.nearest if found else None, n, kind=pa.int32())
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def write_baselines(path: Path, baselines: Baselines) -> None:
    """Write baselines.json: evenly spaced quantiles, 0 to 1, of each baseline's max cosines; atomically."""
    content: dict[str, object] = {
        kind: {
            side: [round(v, 6) for v in getattr(getattr(baselines, side), kind).tolist()]
            for side in ("decoder", "encoder")
        }
        for kind in ("random", "moment")
    }
    write_json(path, content | {"n_latents": baselines.n_latents, "seed": baselines.seed})


def write_definitions(path: Path) -> None:
    """Write every metric's definition as json, id -> {name, formula, unit, direction, source, note}; atomically."""
    write_json(path, {key: definition._asdict() for key, definition in DEFINITIONS.items()})


def firing_records(counts: FiringCounts, *, job: JobInfo, part: Part) -> list[MetricRecord]:
    """How many latents live and how often they fire, on one corpus split."""
    fired = int(counts.alive.sum())
    median = median_density(counts)
    values: dict[str, tuple[int | float | None, str]] = {
        "n_latents": (len(counts.counts), ""),
        "n_alive": (fired, ""),
        "n_dead": (len(counts.counts) - fired, ""),
        "n_dense": (int((counts.counts * 10 > counts.n_tokens).sum()), ""),
        "density_median": (median, "no latent fired"),
        "density_bound": (density_bound(counts.n_tokens), "no tokens"),
    }
    return [_record(job, part, metric=metric, value=value, counts=counts) for metric, value in values.items()]


def novelty_records(facts: LatentFacts, baselines: Baselines | None, *, job: JobInfo, part: Part) -> list[MetricRecord]:
    """How new the latents that fired on D are, against g; `part` is the part of D on which firing was counted."""
    values: dict[str, tuple[int | float | None, str]] = dict.fromkeys(
        _NOVELTY_IDS, (None, "no general SAE to compare with")
    )
    values["n_domain_specific"] = (n_domain_specific(facts), "no general text to compare with")
    if facts.novelty is not None and baselines is not None:
        alive = facts.domain.alive
        for side, reference in (("decoder", baselines.decoder), ("encoder", baselines.encoder)):
            found = summarise(facts.novelty._asdict()[side], reference, alive=alive)
            values |= {
                f"{stem}_{side}{end}": (n, "no latent fired") for (stem, end), n in zip(_STEMS, found, strict=True)
            }
        values["n_novel"] = (int((alive & (facts.novelty.decoder.value < MATCHED)).sum()), "")
    return [_record(job, part, metric=metric, value=value, counts=facts.domain) for metric, value in values.items()]


def n_domain_specific(facts: LatentFacts) -> int | None:
    """Latents over 100 times as dense on D as on general text (one firing there at least is assumed); in integers."""
    if facts.general is None or facts.general.n_tokens == 0 or facts.domain.n_tokens == 0:
        return None
    domain, general = facts.domain, facts.general
    floor = general.counts.clamp(min=1)
    return int((domain.counts * general.n_tokens > SPECIFIC * floor * domain.n_tokens).sum())


def _column(values: Tensor | None, n: int, *, kind: Any) -> Any:
    """A parquet column of an arrow `kind`; NaN and an absent tensor become null."""
    if values is None:
        return pa.nulls(n, kind)
    missing = values.isnan() if values.is_floating_point() else torch.zeros_like(values, dtype=torch.bool)
    return pa.array(values.cpu().numpy(), kind, mask=missing.cpu().numpy())


def _record(
    job: JobInfo, part: Part, *, metric: str, value: tuple[int | float | None, str], counts: FiringCounts
) -> MetricRecord:
    number, why_missing = value
    return MetricRecord(
        **job._asdict(),
        **part._asdict(),
        metric=metric,
        definition=metric,
        value=number,
        ci_low=None,
        ci_high=None,
        n_tokens=counts.n_tokens,
        n_documents=counts.n_documents,
        unit=DEFINITIONS[metric].unit,
        reason=why_missing if number is None else None,
    )
