"""Measuring a run: every saved SAE, g and the controls, on held-out D, on training D and on held-out general text.

    saes/, general/, controls --evaluate--> evaluation/*.safetensors (per-document sums, firing counts)
                                        --> metrics.jsonl, comparisons.jsonl, features/JOB/latents.parquet

Each part is complete or absent, so a killed evaluation goes on with the part it was in. Of several ranks each takes its
share of the contexts, sums are added, and the first one writes.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.data.activations import ActivationChunks, Chunk, TokenFilter, spread
from fovea.data.tokens import PackedTokens
from fovea.errors import DamagedError
from fovea.eval.bootstrap import Resampled, resample
from fovea.eval.candidates import Alone, Candidate, GeneralAlone, Reconstruction, Trained, general_reconstruction
from fovea.eval.density import FiringCounts, count_firing, load_counts, save_counts
from fovea.eval.downstream import Bench, evaluate
from fovea.eval.matched import Comparison, Curve, compare
from fovea.eval.records import MetricRecord
from fovea.eval.scoring import JobInfo, Part, score_records
from fovea.eval.sums import Sums, cached_sums
from fovea.experiment.config import DomainConfig, ExperimentConfig, JobConfig
from fovea.experiment.fit import Sources
from fovea.experiment.folder import RunFolder
from fovea.experiment.prepare import Subject
from fovea.experiment.progress import stage
from fovea.ranks import ALONE, Ranks
from fovea.sae.base import SAE
from fovea.sae.files import fingerprint
from fovea.sae.frozen import FrozenSAE

log = logging.getLogger("fovea")

_COMPARED = ("loss_recovered_gap", "loss_recovered_zero", "fvu_recovered", "fvu")


class Contender(NamedTuple):
    """One measured SAE."""

    info: JobInfo
    sae: SAE
    candidate: Candidate
    point: tuple[str, str] | None
    "Method and sparsity that place it on a curve; None for g and the controls."


class Measured(NamedTuple):
    """What one domain's measurement found."""

    records: list[MetricRecord]
    comparisons: list[Comparison]


def contender_of(name: str, domain: DomainConfig, job: JobConfig, *, sae: SAE, curve: str) -> Contender:
    """A trained job as saved; `curve` names the sparsity sweep that it is a point of."""
    info = JobInfo(name, job.method.family, job.sae.kind, domain.name, job.seed, fingerprint(sae))
    is_control = info.method == "control"
    return Contender(info, sae, Trained(name, sae, job.method), None if is_control else (curve, job.sae.label))


def control_of(name: str, domain: DomainConfig, *, sae: SAE, seed: int) -> Contender:
    """An untrained dictionary."""
    info = JobInfo(name, "control", "jumprelu", domain.name, seed, fingerprint(sae))
    return Contender(info, sae, Alone(name, sae), None)


def general_of(subject: Subject, domain: DomainConfig) -> Contender:
    """g alone."""
    assert subject.frozen is not None, "only a run with g has it as a contender"
    sae = subject.frozen.sae
    info = JobInfo("g", "general", sae.file_architecture, domain.name, None, fingerprint(sae))
    return Contender(info, sae, GeneralAlone(), None)


def bench_of(subject: Subject, keep: TokenFilter, mean: Float[Tensor, " d_in"], *, ranks: Ranks = ALONE) -> Bench:
    """What all evaluations of a run share."""
    general = None if subject.frozen is None else _in_units_of_x(subject.frozen)
    return Bench(subject.lm, subject.hook_point, keep, general, mean, ranks=ranks, device=subject.device)


def _in_units_of_x(frozen: FrozenSAE) -> Callable[[Tensor], Reconstruction]:
    """g as evaluation patches it in: an SAE that normalises every token decodes into units of its own."""
    made = general_reconstruction(frozen)

    def reconstruct(x: Float[Tensor, "tokens d_in"]) -> Reconstruction:
        own = made(x)
        return own._replace(x_hat=frozen.sae.restore(x, own.x_hat))

    return reconstruct


class DomainMeasurement:
    """All that is measured for one domain."""

    def __init__(
        self,
        config: ExperimentConfig,
        run: RunFolder,
        *,
        domain: DomainConfig,
        bench: Bench,
        sources: Sources,
        contenders: list[Contender],
    ) -> None:
        self.config, self.run, self.domain, self.bench = config, run, domain, bench
        self.sources, self.contenders = sources, contenders

    def run_parts(self) -> Measured:
        """Records and comparisons of every part, computed or read back; none on ranks after the first."""
        measure = self.config.evaluate
        own, general = self.sources.domain.corpus, self.sources.general
        parts = [(own.heldout, measure.heldout_tokens), (own.train, measure.train_tokens)]
        if general is not None:
            parts.append((general.corpus.heldout, measure.general_tokens))
        found = Measured([], [])
        for packed, n_tokens in parts:
            part = self._measure(packed, n_tokens)
            found.records.extend(part.records)
            found.comparisons.extend(part.comparisons)
        return found

    def _measure(self, packed: PackedTokens, n_tokens: int) -> Measured:
        sums = self._sums(packed, n_tokens)
        if not self.run.ranks.is_first:
            return Measured([], [])
        split: Literal["heldout", "train"] = "train" if packed.split == "train" else "heldout"
        part = Part(packed.name, split, packed.fingerprint)
        resampled = resample(sums, corpus=packed.name, split=split, n_resamples=self.config.evaluate.n_resamples)
        jobs = {contender.candidate.name: contender.info for contender in self.contenders}
        records = score_records(sums, resampled, part=part, jobs=jobs)
        comparisons = self._compare(resampled, part)
        return Measured([record.model_copy(update={"domain": self.domain.name}) for record in records], comparisons)

    def _sums(self, packed: PackedTokens, n_tokens: int) -> Sums:
        n_contexts = max(1, min(packed.n_contexts, n_tokens // packed.context_size))
        candidates = [c.candidate for c in self.contenders if not isinstance(c.candidate, GeneralAlone)]
        title = f"measuring {len(self.contenders)} SAEs on {packed.name} ({packed.split})"

        def compute() -> Sums:
            with stage(title, n_contexts, unit="contexts") as advance:
                done = 0

                def observe(n_done: int, n_total: int) -> None:
                    nonlocal done
                    del n_total
                    advance(n_done - done)
                    done = n_done

                return evaluate(
                    self.bench,
                    packed,
                    candidates=candidates,
                    n_contexts=n_contexts,
                    contexts_per_batch=self.config.evaluate.contexts_per_batch,
                    observe=observe,
                )

        path = self.run.evaluation / self.domain.name / f"{packed.name}-{packed.split}.safetensors"
        return cached_sums(path, compute, key=self._key(packed, n_contexts), ranks=self.run.ranks)

    def count(self, chunks: ActivationChunks) -> dict[str, FiringCounts]:
        """Firing counts of every contender on a split, up to the experiment's density_tokens; the same on all ranks."""
        packed, ranks = chunks.packed, self.run.ranks
        wanted = min(self.config.evaluate.density_tokens, packed.n_contexts * packed.context_size)
        # The key is in the name: counts of other SAEs or tokens are never read for these.
        key = self._key(packed, wanted)[:16]
        path = self.run.evaluation / self.domain.name / f"firing-{packed.name}-{packed.split}-{key}.safetensors"
        # What the first rank sees decides: files reach other machines late.
        if ranks.any(ranks.is_first and _is_whole(path)):
            return ranks.after_first(lambda: load_counts(path))
        with stage(f"counting firing on {packed.name} ({packed.split})", wanted, unit="tokens") as advance:
            done = 0

            def observe(n_done: int) -> None:
                nonlocal done
                advance(n_done - done)
                done = n_done

            encoders = {contender.info.job: contender.sae.encode for contender in self.contenders}
            rows, device = _spread_rows(chunks, wanted, ranks), self.bench.device
            counts = count_firing(rows, encoders, device=device, observe=observe, ranks=ranks)
        ranks.by_first(lambda: save_counts(path, counts))
        return counts

    def _compare(self, resampled: Resampled, part: Part) -> list[Comparison]:
        curves = _curves(self.contenders)
        return [
            comparison
            for metric in _COMPARED
            for comparison in compare(resampled, curves, metric=metric, part=part, domain=self.domain.name)
        ]

    def _key(self, packed: PackedTokens, n_contexts: int) -> str:
        parts: dict[str, Any] = {
            "lm": self.bench.lm.fingerprint,
            "dtype": self.bench.lm.computation,
            "hook_point": str(self.bench.hook_point),
            "filter": self.bench.token_filter.to_dict(),
            "tokens": packed.fingerprint,
            "mean": hashlib.sha256(self.bench.mean.numpy().tobytes()).hexdigest(),
            "n_contexts": [n_contexts, self.config.evaluate.contexts_per_batch],
            "saes": [contender.info.sae_fingerprint for contender in self.contenders],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_whole(path: Path) -> bool:
    """Whether firing counts are there and unharmed."""
    try:
        load_counts(path)
    except FileNotFoundError:
        return False
    except DamagedError as error:
        log.warning("%s: firing is counted again", error)
        return False
    return True


def _curves(contenders: list[Contender]) -> list[Curve]:
    """Each method's sparsity points; jobs that differ in the seed alone share a point."""
    points: dict[str, dict[str, list[str]]] = {}
    for contender in contenders:
        if contender.point is not None:
            method, sparsity = contender.point
            points.setdefault(method, {}).setdefault(sparsity, []).append(contender.info.job)
    return [Curve(method, tuple(tuple(names) for names in by_point.values())) for method, by_point in points.items()]


def _spread_rows(chunks: ActivationChunks, n_tokens: int, ranks: Ranks) -> Iterator[Chunk]:
    """About `n_tokens` rows (none more) of all ranks, in chunks from all over the split, dealt to the ranks in turn."""
    done = 0
    indices = spread(chunks.n_chunks, -(-n_tokens // (chunks.contexts_per_chunk * chunks.packed.context_size)))
    for first in range(0, len(indices), ranks.size):
        # A rank that is dealt no chunk takes part with none of the rows of the first.
        is_dealt = first + ranks.rank < len(indices)
        chunk = chunks.chunk(indices[first + ranks.rank if is_dealt else 0])
        lengths = ranks.gather(torch.tensor(len(chunk.x) * is_dealt)).tolist()
        kept = max(0, min(lengths[ranks.rank], n_tokens - done - sum(lengths[: ranks.rank])))
        yield Chunk(*(field[:kept] for field in chunk))
        done += sum(lengths)
