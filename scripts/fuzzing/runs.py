"""Run folders that somebody else made: what report, serve and export read of them."""

import json
from pathlib import Path

from scripts.fuzzing.mutations import Changed, Files
from scripts.fuzzing.reader import Reader, files_of
from starlette.datastructures import QueryParams
from tests.features.made import make
from tests.report.make_run import Shape, make_run

from fovea.app.payload import card_payload
from fovea.app.query import read_query
from fovea.app.table import Table
from fovea.eval.records import read_metrics
from fovea.experiment.folder import RunFolder
from fovea.features.files import quick_digest
from fovea.features.read import Features
from fovea.features.words import latent_words
from fovea.report import page
from fovea.report.drawing import WIDE, Drawn, Figure

SHAPES = {
    "one": Shape(d_sae=8, n_documents=8, methods=("ssae",), one_sparsity="ssae"),
    "two": Shape(domains=("biology", "history"), d_sae=8, n_documents=8, methods=("ssae",), intervals=False),
}
JOBS = {"g": 8, "ssae-batch_topk-k16-s0": 6}


def reports(folder: Path) -> dict[str, Files]:
    """Two finished runs, without figures."""
    return {name: files_of(make_run(folder / name, shape)) for name, shape in SHAPES.items()}


def read_report(folder: Path, seed: str) -> None:  # noqa: ARG001
    """All of a report but its figures' pixels, and what `fovea.load_run` gives."""
    page.page_of(folder, draw=_drawn)
    read_metrics(folder / "metrics.jsonl")
    RunFolder(folder).config()


def _drawn(figure: Figure) -> Drawn:
    """A figure whose chart is made, but not drawn."""
    json.dumps(figure.draw(WIDE), allow_nan=False)
    return Drawn(figure.name, figure.title, figure.tab, figure.caption, "<svg/>", "<svg/>")


def evidence(folder: Path) -> dict[str, Files]:
    """Evidence of two SAEs."""
    return {"made": files_of(make(folder / "made", jobs=JOBS))}


def mend_evidence(files: Files, changed: Changed) -> Changed:
    """The manifest with the digests of what is there now."""
    manifest = changed.get("features/manifest.json", files["features/manifest.json"])
    try:
        told = json.loads(manifest)
        for name in told["inputs"]:
            now = changed.get(name, files[name])
            if isinstance(now, bytes):
                told["inputs"][name] = _digest(now)
        return {**changed, "features/manifest.json": json.dumps(told).encode()}
    except (ValueError, KeyError, TypeError, RecursionError):
        return changed


def _digest(data: bytes) -> str:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        return quick_digest(Path(file.name))


def read_evidence(folder: Path, seed: str) -> None:  # noqa: ARG001
    """The table, some cards and words, as the explorer shows them."""
    features = Features(folder)
    table = Table({job: features.table(job) for job in features.jobs})
    rows = table.select(read_query(QueryParams()))
    json.dumps(table.rows(rows[:50]), allow_nan=False)
    for job in features.jobs:
        features.alive(job)
        for latent in (0, 3):
            card = card_payload(features.card(job, latent))
            json.dumps(card, allow_nan=False).encode()
        for _ in zip(range(3), latent_words(folder, job), strict=False):
            pass


REPORTS = Reader("report", reports, read_report, share=2)
EVIDENCE = Reader("features", evidence, read_evidence, share=4, mend=mend_evidence)
