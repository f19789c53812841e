"""Evidence out of thin air, written by the real writers: as many latents as a test of pages or of load wants.

make(folder, jobs={"g": 64, "ssae-a": 48}) --> a run folder whose features/ `Features` opens. No lm, no SAE: random
firing, random words. For evidence of real SAEs see tests/features/real.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fovea.features.files import (
    CorpusContexts,
    CorpusEvidence,
    Examples,
    LinkLists,
    Paths,
    group_rules,
    write_contexts,
    write_evidence,
    write_links,
    write_manifest,
)
from fovea.features.text import Vocabulary, write_vocabulary

EDGES = (0.0, 0.1, 0.5, 1.0)
N_BINS, N_CONTEXTS, CONTEXT_SIZE, N_TOKENS = 32, 40, 32, 50_000
WORDS = ("the", "cell", "—", "proof", "<b>", "&amp;", "\0", "war", "naïve", "数学", "of", "=SUM(A1)", "river")
"Tokens 3 and up. Tokens 1 and 2 are the two halves of an emoji, 0 the separator."


def make(folder: Path, *, jobs: Mapping[str, int] | None = None, seed: int = 0, words: Sequence[str] = WORDS) -> Path:
    """A folder with evidence for `jobs` (name -> number of latents) on the corpora "words" and "general"."""
    jobs = jobs or {"g": 64, "ssae-batch_topk-k16-s0": 48, "direct-batch_topk-k16-s0": 48}
    draw = np.random.default_rng(seed)
    paths, corpora = Paths.of(folder), ("words", "general")
    emoji = "🧬".encode()
    data = [b"<|end|>", emoji[:2], emoji[2:], *(f" {word}".encode() for word in words)]
    write_vocabulary(paths.vocabulary, Vocabulary(tuple(data), added_space=False))
    for corpus in corpora:
        write_contexts(paths, corpus, _contexts(draw, len(data)))
    for job, d_sae in jobs.items():
        parts = [_evidence(draw, d_sae), _evidence(draw, d_sae)]
        write_evidence(paths.evidence(job), parts)
        _write_latents(paths.latents(job), parts, draw, d_general=jobs.get("g"))
        ids = LinkLists(draw.integers(0, d_sae, (d_sae, 4)), np.sort(draw.random((d_sae, 4), np.float32))[:, ::-1])
        tokens = LinkLists(draw.integers(0, len(data), (d_sae, 6)), draw.standard_normal((d_sae, 6), np.float32))
        lists = {"promoted": tokens, "suppressed": tokens, "nearest": ids, "cofiring": ids}
        write_links(paths.links(job), lists, {"cofiring_counts": np.full((d_sae, 4), 3)})
    write_manifest(folder, _manifest(jobs), [f"features/{job}/latents.parquet" for job in jobs])
    return folder


def _contexts(draw: np.random.Generator, n_ids: int) -> CorpusContexts:
    tokens = draw.integers(3, n_ids, (N_CONTEXTS, CONTEXT_SIZE)).astype(np.uint32)
    tokens[:, 5:7] = [1, 2]
    documents = np.repeat(np.arange(N_CONTEXTS, dtype=np.int32)[:, None], CONTEXT_SIZE, axis=1)
    tokens[:, 20], documents[:, 20] = 0, -1
    starts = np.zeros((N_CONTEXTS, CONTEXT_SIZE), np.uint8)
    ids = tuple(f"{draw.integers(2**60):016x}" for _ in range(N_CONTEXTS))
    return CorpusContexts(np.arange(N_CONTEXTS), tokens, documents, starts, ids)


def _evidence(draw: np.random.Generator, d_sae: int) -> CorpusEvidence:
    n_fired = np.where(draw.random(d_sae) < 0.2, 0, draw.integers(1, 4000, d_sae))
    maxima = np.where(n_fired > 0, draw.uniform(1, 90, d_sae), 0).astype(np.float32)
    histogram = np.zeros((d_sae, N_BINS), np.int64)
    histogram[:, 0] = n_fired
    n_groups, per_group, n_active = len(EDGES), 3, 4
    latent = np.repeat(np.flatnonzero(n_fired), n_groups * per_group)
    n = len(latent)
    group = np.tile(np.repeat(np.arange(n_groups), per_group), np.count_nonzero(n_fired))
    peak = draw.integers(1, 16, n)
    shape = np.array([1.0, 0.5, 0.25, 0.125])
    height = maxima[latent] * (1 - group / (n_groups + 1))
    return CorpusEvidence(
        N_TOKENS,
        N_CONTEXTS,
        n_fired,
        maxima,
        histogram,
        Examples(
            latent,
            group,
            draw.integers(0, N_CONTEXTS, n),
            peak,
            1 + draw.integers(0, 3, n),
            np.full(n, n_active),
            (peak[:, None] + np.arange(n_active)).ravel(),
            (height[:, None] * shape).ravel().astype(np.float32),
        ),
    )


def _write_latents(
    path: Path, parts: list[CorpusEvidence], draw: np.random.Generator, *, d_general: int | None
) -> None:
    d_sae = len(parts[0].n_fired)
    columns: dict[str, Any] = {"latent": pa.array(np.arange(d_sae), pa.int32())}
    for name, part in zip(("domain", "general"), parts, strict=True):
        columns[f"n_fired_{name}"] = part.n_fired
        columns[f"n_tokens_{name}"] = np.full(d_sae, part.n_tokens)
    for side in ("decoder", "encoder"):
        has = d_general is not None
        columns[f"novelty_{side}"] = draw.random(d_sae, np.float32) if has else pa.nulls(d_sae, pa.float32())
        nearest = draw.integers(0, d_general, d_sae) if d_general is not None else None
        columns[f"nearest_{side}"] = pa.nulls(d_sae, pa.int32()) if nearest is None else pa.array(nearest, pa.int32())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _manifest(jobs: Mapping[str, int]) -> dict[str, Any]:
    about = {"split": "heldout", "n_tokens": N_TOKENS, "n_documents": N_CONTEXTS}
    return {
        "key": "made",
        "corpora": {"words": {"role": "domain", **about}, "general": {"role": "general", **about}},
        "jobs": {
            job: {
                "method": "general" if job == "g" else job.partition("-")[0],
                "domain": "words",
                "d_sae": d_sae,
                "corpora": ["words", "general"],
                "general_job": "g" if job != "g" and "g" in jobs else None,
            }
            for job, d_sae in jobs.items()
        },
        "groups": [rule._asdict() for rule in group_rules(EDGES)],
    }
