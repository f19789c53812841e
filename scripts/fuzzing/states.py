"""What a run keeps to go on from: a checkpoint, tokens, activations, calibration, sums and counts."""

import contextlib
from functools import cache
from pathlib import Path

import torch
from scripts.fuzzing.mutations import Changed, Files
from scripts.fuzzing.reader import Reader, files_of
from tests.train.made_jobs import make_job, make_stream
from tests.train.planted import planted

from builders import texts, tiny_lm, tokenised
from fovea.atomic import write_checked_json
from fovea.data.store import ChunkStore
from fovea.data.tokens import open_tokens
from fovea.eval.density import FiringCounts, load_counts, save_counts
from fovea.eval.sums import cached_sums, empty_sums, save_sums
from fovea.experiment.calibration import read_batch_size, read_calibration, read_filter
from fovea.experiment.folder import RunFolder
from fovea.tensorfile import write_checked
from fovea.train.checkpoint import load_checkpoint, save_checkpoint
from fovea.train.job import Job
from fovea.train.stream import Stream

D_IN = 4


@cache
def _trained() -> tuple[Job, Stream]:
    return make_job(), make_stream(planted())


def checkpoints(folder: Path) -> dict[str, Files]:
    """The state of one job after two steps."""
    job, stream = make_job(), make_stream(planted())
    for _ in range(2):
        job.step(stream.next())
    return {"step": files_of(save_checkpoint(folder, 2, jobs=[job], stream=stream))}


def read_checkpoint(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Go on from it."""
    job, stream = _trained()
    load_checkpoint(folder, [job], stream)


def kept(folder: Path) -> dict[str, Files]:
    """Tokens, a chunk of activations, a calibration, sums and counts."""
    tokenised(folder / "corpora" / "words", tiny_lm(), documents=texts(12))
    store = ChunkStore(folder / "activations", key="k", dtype=torch.float32)
    store.put(0, {"x": torch.ones(5, D_IN), "documents": torch.arange(5), "positions": torch.arange(5)})
    run = RunFolder(folder)
    rows = torch.randn(32, D_IN)
    scale = torch.tensor([0.5], dtype=torch.float64)
    write_checked(run.calibration / "words.safetensors", {"rows": rows, "mean": rows.mean(0), "scale": scale})
    keep = {"special_ids": [0, 1], "skip_first": 1, "max_norm": 9.5}
    write_checked_json(run.calibration / "filter.json", {"filter": keep, "median_norm": 1.5, "corpus": "words"})
    write_checked_json(run.calibration / "batch.json", {"contexts_per_batch": 8})
    sums = empty_sums(torch.arange(3), ("g", "ssae"), d_in=D_IN)
    save_sums(run.evaluation / "sums.safetensors", sums, key="k")
    save_counts(run.evaluation / "counts.safetensors", {"g": FiringCounts(torch.arange(6), 100, 3)})
    files = files_of(folder)
    return {"run": {name: data for name, data in files.items() if not name.endswith(".jsonl")}}


def read_kept(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Each of them, as a run that is resumed does; one refused does not hide the others."""
    from fovea.errors import FoveaError

    run = RunFolder(folder)
    sums = empty_sums(torch.arange(1), (), d_in=D_IN)
    readers = (
        lambda: open_tokens(run.corpora / "words").train.batch(range(2)),
        lambda: ChunkStore(run.activations, key="k", dtype=torch.float32).get(0),
        lambda: read_filter(run),
        lambda: read_batch_size(run.calibration / "batch.json"),
        lambda: read_calibration(run, "words"),
        lambda: cached_sums(run.evaluation / "sums.safetensors", lambda: sums, key="k"),
        lambda: _counts(run.evaluation / "counts.safetensors"),
    )
    refused: FoveaError | None = None
    for read in readers:
        try:
            read()
        except FoveaError as error:
            refused = error
    if refused is not None:
        raise refused


def _counts(path: Path) -> None:
    """Firing counts; those that are not there are counted again."""
    with contextlib.suppress(FileNotFoundError):
        load_counts(path)


def without_checksums(files: Files, changed: Changed) -> Changed:  # noqa: ARG001
    """The changed files as an older version wrote them: the last key of that name is another; a chunk must have it."""
    return {
        name: b"sha257".join(content.rsplit(b"sha256", 1))
        if isinstance(content, bytes) and not name.startswith("activations/chunk")
        else content
        for name, content in changed.items()
    }


CHECKPOINTS = Reader("checkpoint", checkpoints, read_checkpoint, share=6, mend=without_checksums)
KEPT = Reader("state", kept, read_kept, share=4, mend=without_checksums, is_rewritten=True)
