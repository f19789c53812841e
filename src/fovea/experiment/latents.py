"""What is known of each latent of a run: firing on D and on general text, novelty against g, with baselines.

contenders --count--> FiringCounts on D, on general text
                --novelty against g--> max cosines      --> features/JOB/latents.parquet, baselines.json, records
"""

from collections.abc import Mapping

import torch

from fovea.data.activations import ActivationChunks
from fovea.eval.bootstrap import seed_of
from fovea.eval.density import FiringCounts
from fovea.eval.latents import Baselines, LatentFacts, firing_records, novelty_records, write_baselines, write_latents
from fovea.eval.novelty import baseline, novelty
from fovea.eval.records import MetricRecord
from fovea.eval.scoring import Part
from fovea.experiment.folder import RunFolder
from fovea.experiment.measure import Contender, DomainMeasurement
from fovea.sae.base import SAE


def measure_latents(measurement: DomainMeasurement, run: RunFolder, *, general_sae: SAE | None) -> list[MetricRecord]:
    """Count on held-out text, compare with g, write the tables; returns the summary records.

    Ranks after the first only count.
    """
    sources = measurement.sources
    domain = sources.domain.heldout
    general = sources.general.heldout if sources.general else None
    counts = {chunks.packed.name: measurement.count(chunks) for chunks in (domain, general) if chunks is not None}
    if not run.ranks.is_first:
        return []
    baselines = _baselines(measurement, run, g=general_sae)
    records: list[MetricRecord] = []
    for contender in measurement.contenders:
        facts = _facts(contender, counts, domain=domain, general=general, g=general_sae)
        write_latents(run.features / _folder(measurement, contender.info.job) / "latents.parquet", facts)
        for chunks in (domain, general):
            if chunks is not None:
                found = counts[chunks.packed.name][contender.info.job]
                records += firing_records(found, job=contender.info, part=_part(chunks))
        reference = baselines.get(contender.sae.d_sae)
        records += novelty_records(facts, reference, job=contender.info, part=_part(domain))
    return records


def _folder(measurement: DomainMeasurement, job: str) -> str:
    """The job's own name; g is measured on every domain, so where there are several its folder carries the domain."""
    return f"{measurement.domain.name}-g" if job == "g" and len(measurement.config.domain) > 1 else job


def _facts(
    contender: Contender,
    counts: Mapping[str, Mapping[str, FiringCounts]],
    *,
    domain: ActivationChunks,
    general: ActivationChunks | None,
    g: SAE | None,
) -> LatentFacts:
    job, sae = contender.info.job, contender.sae
    found = None
    if g is not None:
        found = novelty(
            sae.W_enc.detach(), sae.W_dec.detach(), general_W_enc=g.W_enc.detach(), general_W_dec=g.W_dec.detach()
        )
    return LatentFacts(counts[domain.packed.name][job], counts[general.packed.name][job] if general else None, found)


def _baselines(measurement: DomainMeasurement, run: RunFolder, *, g: SAE | None) -> dict[int, Baselines]:
    """What chance gives, for each width among the contenders; the narrowest is written down for the figures."""
    if g is None:
        return {}
    widths = sorted({contender.sae.d_sae for contender in measurement.contenders})
    seed = measurement.config.seed
    made: dict[int, Baselines] = {}
    for width in widths:
        generator = torch.Generator().manual_seed(seed_of("baseline", str(seed), str(width)) >> 1)
        decoder = baseline(g.W_dec.detach(), n_rows=width, generator=generator)
        encoder = baseline(g.W_enc.detach().T, n_rows=width, generator=generator)
        made[width] = Baselines(decoder, encoder, width, seed)
    write_baselines(run.features / "baselines.json", made[widths[0]])
    return made


def _part(chunks: ActivationChunks) -> Part:
    packed = chunks.packed
    return Part(packed.name, "train" if packed.split == "train" else "heldout", packed.fingerprint)
