"""The evidence of a run, read a latent at a time.

    RUN/features/ --Features.open--> table(job): all latents as columns   card(job, latent): one latent with everything

Raw units: an activation is the latent's value on x as the lm gives it.
"""

import math
import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fovea.errors import RunError
from fovea.features.files import (
    AGAIN,
    MAKE_AGAIN,
    ROWS_PER_GROUP,
    CorpusContexts,
    GroupRule,
    Paths,
    read_contexts,
    read_manifest,
)
from fovea.features.tables import open_table, read_table
from fovea.features.text import pieces, read_vocabulary, whole
from fovea.foreign import damage


class Piece(NamedTuple):
    """One token as shown."""

    text: str
    "Exact text; a character split over tokens belongs to the first, the others show an empty string."
    token_id: int
    activation: float
    "Raw units, 0 where the latent does not fire."


class Example(NamedTuple):
    """A context in which the latent fires."""

    pieces: tuple[Piece, ...]
    "The whole context; pages shorten it."
    peak: int
    "The firing that this is an example of: the largest of the context in `top`, the sampled one in groups of ranks."
    document: str
    position: int
    "Position of the peak in its context."
    n_duplicates: int
    "How often the text that was read holds the tokens around the peak; 1 = only here."


class Group(NamedTuple):
    """Examples of one range of ranks among all firings, largest activation first."""

    name: str
    low: float
    high: float
    "Rank quantiles, 0 = largest activation; both 0 for the largest of all."
    examples: tuple[Example, ...]


class Evidence(NamedTuple):
    """One latent on one corpus. n_fired = 0 is a state: it did not activate in n_tokens tokens."""

    corpus: str
    role: Literal["domain", "general"]
    split: str
    "heldout, or heldout+train where held-out text was not enough."
    n_fired: int
    n_tokens: int
    n_documents: int
    "Documents that the tokens are from."
    max_activation: float | None
    histogram: tuple[int, ...]
    "Firings in equal bins of (0, largest activation on any corpus]."
    groups: tuple[Group, ...]


class Link(NamedTuple):
    """Another latent and how near it is: cosine of decoder rows, or share of tokens that both fire on."""

    job: str
    latent: int
    value: float


class Token(NamedTuple):
    """A token that the latent's decoder row writes for or against."""

    text: str
    token_id: int
    logit: float


class Card(NamedTuple):
    """All that is known of one latent."""

    job: str
    latent: int
    method: str
    domain: str
    evidence: tuple[Evidence, ...]
    "On the domain, then on general text (if the run has some)."
    promoted: tuple[Token, ...]
    suppressed: tuple[Token, ...]
    nearest: tuple[Link, ...]
    cofiring: tuple[Link, ...]
    nearest_general: Link | None
    "The latent of g with the nearest decoder row; None for g itself and without a g."
    novelty_decoder: float | None
    "Largest cosine with a decoder row of g: 1 = g has this direction. Named as in latents.parquet."
    novelty_encoder: float | None
    "The same for encoder columns."


class Features:
    """The evidence of a run.

    Raises:
        RunError: there is none, or it is stale.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._paths = run, Paths.of(run)
        self.manifest: dict[str, Any] = read_manifest(run)
        self.jobs: tuple[str, ...] = tuple(self.manifest["jobs"])
        self._groups = tuple(GroupRule(**group) for group in self.manifest["groups"])
        self._lock = threading.Lock()
        self._rows = lru_cache(maxsize=256)(self._read_rows)
        self._table = lru_cache(maxsize=64)(self._read_table)
        self._contexts = lru_cache(maxsize=16)(self._read_contexts)
        self._file = lru_cache(maxsize=256)(self._open_file)

    def table(self, job: str) -> dict[str, NDArray[Any]]:
        """A column per fact, a row per latent: those of latents.parquet, `ratio` and `nearest_general`.

        ratio = density on D / density on general text; with no firing on general text one is assumed, so that it is a
        lower bound. What is missing is NaN. The arrays are read-only.

        Raises:
            RunError: the run has no such job.
        """
        return self._table(self._known(job))

    def alive(self, job: str, *, min_firings: int = 1) -> NDArray[np.int64]:
        """The latents that fired on at least so many tokens of D, as far as it was read for the evidence."""
        n_fired = self._fired_on_domain(self._known(job))
        return np.flatnonzero(n_fired >= min_firings)

    def card(self, job: str, latent: int) -> Card:
        """Everything about one latent.

        Raises:
            RunError: the run has no such job, or the job no such latent.
        """
        about = self.manifest["jobs"][self._known(job)]
        if not 0 <= latent < about["d_sae"]:
            raise RunError(f"job {job!r} has no latent {latent}; it has 0 to {about['d_sae'] - 1}")
        with damage(self._paths.folder, AGAIN, pa.ArrowException):
            return self._card(job, latent, about)

    def _card(self, job: str, latent: int, about: dict[str, Any]) -> Card:
        n = len(about["corpora"])
        rows = [self._row("evidence", job, latent * n + index) for index in range(n)]
        links = self._row("links", job, latent)
        facts = {name: float(column[latent]) for name, column in self.table(job).items()}
        return Card(
            job,
            latent,
            about["method"],
            about["domain"],
            tuple(self._evidence(name, row) for name, row in zip(about["corpora"], rows, strict=True)),
            self._tokens(links["promoted_ids"], links["promoted_values"]),
            self._tokens(links["suppressed_ids"], links["suppressed_values"]),
            _links(job, links["nearest_ids"], links["nearest_values"]),
            _links(job, links["cofiring_ids"], links["cofiring_values"]),
            _nearest_general(about["general_job"], facts),
            _novelty(facts["novelty_decoder"]),
            _novelty(facts["novelty_encoder"]),
        )

    def _known(self, job: str) -> str:
        if job not in self.manifest["jobs"]:
            raise RunError(f"the evidence has no job {job!r}; it has: {', '.join(self.jobs)}")
        return job

    def _read_table(self, job: str) -> dict[str, NDArray[Any]]:
        table = read_table(self._paths.latents(job), self._run, AGAIN)
        with damage(self._paths.latents(job), AGAIN, pa.ArrowException):
            return self._columns(job, table)

    def _columns(self, job: str, table: Any) -> dict[str, NDArray[Any]]:
        if len(table) != self.manifest["jobs"][job]["d_sae"]:
            raise ValueError(f"{len(table)} rows, but the job has {self.manifest['jobs'][job]['d_sae']} latents")
        if not np.array_equal(table.column("latent").to_numpy(), np.arange(len(table))):
            raise ValueError("its latents are not numbered in order")
        columns: dict[str, NDArray[Any]] = {
            name: table.column(name).to_numpy() if table.column(name).null_count < len(table) else _missing(len(table))
            for name in table.column_names
        }
        floor = np.maximum(columns["n_fired_general"], 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            domain = columns["n_fired_domain"] / columns["n_tokens_domain"]
            columns["ratio"] = domain / (floor / columns["n_tokens_general"])
        has_general = self.manifest["jobs"][job]["general_job"] is not None
        columns["nearest_general"] = columns["nearest_decoder"] if has_general else _missing(len(table))
        for column in columns.values():
            column.flags.writeable = False
        return columns

    @lru_cache(maxsize=64)  # noqa: B019  (a Features lives as long as the process that shows it)
    def _fired_on_domain(self, job: str) -> NDArray[np.int64]:
        about = self.manifest["jobs"][job]
        n_rows = about["d_sae"] * len(about["corpora"])
        table = read_table(self._paths.evidence(job), self._run, AGAIN, columns=("corpus", "n_fired"), max_rows=n_rows)
        with damage(self._paths.evidence(job), AGAIN):
            if len(table) != n_rows:
                raise ValueError(f"{len(table):,} rows for {n_rows:,} places")
            return table.column("n_fired").to_numpy()[table.column("corpus").to_numpy() == 0]

    def _row(self, kind: Literal["evidence", "links"], job: str, row: int) -> dict[str, Any]:
        size = ROWS_PER_GROUP * (1 if kind == "evidence" else 16)
        found = self._rows(kind, job, row // size)[row % size]
        for name, value in found.items():
            for each in value if isinstance(value, list) else (value,):
                if not isinstance(each, int | float | None):
                    raise ValueError(f"{name} holds {type(each).__name__}, not numbers")
                if isinstance(each, float) and not math.isfinite(each):
                    raise ValueError(f"{name} holds {each}")
        return found

    def _read_rows(self, kind: Literal["evidence", "links"], job: str, group: int) -> list[dict[str, Any]]:
        file = self._file(kind, job)
        with self._lock:
            return file.read_row_group(group).to_pylist()

    def _open_file(self, kind: Literal["evidence", "links"], job: str) -> pq.ParquetFile:
        path = self._paths.evidence(job) if kind == "evidence" else self._paths.links(job)
        about = self.manifest["jobs"][job]
        n_rows = about["d_sae"] * (len(about["corpora"]) if kind == "evidence" else 1)
        file = open_table(path, self._run, AGAIN, max_rows=n_rows)
        groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        if sum(groups) != n_rows or max(groups, default=0) > 16 * ROWS_PER_GROUP:
            raise RunError(f"{path} is damaged ({sum(groups):,} rows for {n_rows:,} places); {MAKE_AGAIN}")
        return file

    def _read_contexts(self, corpus: str) -> CorpusContexts:
        return read_contexts(self._paths, corpus)

    @cached_property
    def _vocabulary(self) -> Any:
        return read_vocabulary(self._paths.vocabulary)

    @cached_property
    def _whole(self) -> list[str | None]:
        return [whole(token) for token in self._vocabulary.tokens]

    def _evidence(self, corpus: str, row: dict[str, Any]) -> Evidence:
        about = self.manifest["corpora"][corpus]
        examples = self._examples(corpus, row)
        groups = tuple(
            Group(rule.name, rule.low, rule.high, tuple(one for index, one in examples if index == number))
            for number, rule in enumerate(self._groups)
        )
        return Evidence(
            corpus,
            about["role"],
            about["split"],
            row["n_fired"],
            row["n_tokens"],
            row["n_documents"],
            row["max_activation"],
            tuple(row["histogram"]),
            groups,
        )

    def _examples(self, corpus: str, row: dict[str, Any]) -> list[tuple[int, Example]]:
        contexts = self._contexts(corpus)
        found: list[tuple[int, Example]] = []
        start = 0
        for index, n_active in enumerate(row["example_n_active"]):
            active = slice(start, start + n_active)
            start += n_active
            values = dict(zip(row["active_positions"][active], row["active_values"][active], strict=True))
            number = int(np.searchsorted(contexts.numbers, row["example_context"][index]))
            peak = row["example_peak"][index]
            document = contexts.document_ids[contexts.documents[number, peak]]
            shown = self._pieces(contexts, number, values)
            found.append(
                (row["example_group"][index], Example(shown, peak, document, peak, row["example_n_duplicates"][index]))
            )
        return found

    def _pieces(self, contexts: CorpusContexts, number: int, values: dict[int, float]) -> tuple[Piece, ...]:
        ids: list[int] = contexts.tokens[number].tolist()
        texts = self._texts(contexts, number, ids)
        activations = [values.get(place, 0.0) for place in range(len(ids))]
        return tuple(map(Piece, texts, ids, activations))

    def _texts(self, contexts: CorpusContexts, number: int, ids: list[int]) -> list[str]:
        if not self._vocabulary.added_space:
            texts = [self._whole[token] for token in ids]
            if all(texts):  # as nearly always: no character is split, so each token is its own text
                return [text for text in texts if text]
        data = [self._vocabulary.tokens[token] for token in ids]
        if self._vocabulary.added_space:
            for place in np.flatnonzero(contexts.starts[number]).tolist():
                data[place] = data[place].removeprefix(b" ")
        return pieces(data)

    def _tokens(self, ids: Sequence[int], values: Sequence[float]) -> tuple[Token, ...]:
        vocabulary = self._vocabulary.tokens
        return tuple(
            Token(pieces([vocabulary[token]])[0], token, value) for token, value in zip(ids, values, strict=True)
        )


def _links(job: str, ids: Sequence[int], values: Sequence[float]) -> tuple[Link, ...]:
    return tuple(Link(job, latent, value) for latent, value in zip(ids, values, strict=True))


def _nearest_general(general_job: str | None, facts: dict[str, float]) -> Link | None:
    if general_job is None or np.isnan(facts["novelty_decoder"]):
        return None
    return Link(general_job, int(facts["nearest_decoder"]), facts["novelty_decoder"])


def _novelty(value: float) -> float | None:
    return None if np.isnan(value) else value


def _missing(n: int) -> NDArray[np.float64]:
    return np.full(n, np.nan)
