"""What the explorer's pages ask for: every endpoint, as functions of a Call.

Features (evidence on disk) -> Table (columns in memory), TextIndex (words), Notes (what the owner said)
reads: run, latents, position, latent, context, compare, rows_as_csv; writes: mark, page, prompt
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.app.calls import Call, Reply
from fovea.app.comparison import compare
from fovea.app.files import csv_text, static_page
from fovea.app.notes import Marks, Notes
from fovea.app.payload import card_payload, example_payload
from fovea.app.prompting import Prompter
from fovea.app.query import Query, read_page, read_query
from fovea.app.run import describe_run, is_control, ordered_jobs
from fovea.app.table import COUNTS, Table
from fovea.app.textsearch import TextIndex
from fovea.errors import ConfigError, UnknownReferenceError
from fovea.features.read import Card, Features
from fovea.features.words import latent_words

MAX_NOTE = 4000
MAX_EXPORT = 200
MAX_TEXT = 2000
Mask = NDArray[np.bool_]


class Explorer:
    """The explorer of one run folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run
        self.features = Features(run)
        jobs = ordered_jobs(self.features)
        controls = [job for job in jobs if is_control(self.features, job)]
        self.table = Table({job: self.features.table(job) for job in jobs}, controls=controls)
        self.notes = Notes(run)
        self.notes.refresh()
        self.about = describe_run(run, self.features, self.table)
        self.prompter = Prompter(run)
        self.index = TextIndex(self.table.n_rows)

    def start(self) -> None:
        """Begin to read the text of all latents, beside the requests."""
        threading.Thread(target=self.index.fill, args=(self._texts(),), daemon=True, name="fovea-text").start()

    def stop(self) -> None:
        """Let go of threads and files."""
        self.index.stop()
        self.notes.close()

    def run(self, call: Call) -> Reply:
        """What the pages need to know of the run: jobs, corpora, words."""
        del call
        return Reply(self.about | {"search_progress": round(self.index.progress, 3)})

    def latents(self, call: Call) -> Reply:
        """A page of the table."""
        page, rows = read_page(call.query), self._rows(read_query(call.query))
        shown = rows[page.offset : page.offset + page.limit]
        marks = [self.notes.of(*self.table.place(row)) for row in shown.tolist()]
        return Reply(
            {
                "total": len(rows),
                "offset": page.offset,
                "rows": self.table.rows(shown),
                "marks": [[m.is_flagged, m.notes[-1].text[:120] if m.notes else ""] for m in marks],
                "search_progress": round(self.index.progress, 3),
            }
        )

    def position(self, call: Call) -> Reply:
        """Where a latent stands among the rows of a query, and who its neighbours there are."""
        row = self._row(call.query.get("at_job", ""), call.query.get("at_latent", ""))
        rows = self._rows(read_query(call.query))
        places = np.flatnonzero(rows == row)
        if not places.size:
            return Reply({"position": None, "total": len(rows), "previous": None, "next": None})
        at = int(places[0])
        previous = self.table.place(int(rows[at - 1])) if at > 0 else None
        following = self.table.place(int(rows[at + 1])) if at + 1 < len(rows) else None
        return Reply({"position": at, "total": len(rows), "previous": previous, "next": following})

    def latent(self, call: Call) -> Reply:
        """One latent's card, its row of the table and its marks."""
        return Reply(self._card(call.path["job"], call.path["latent"]))

    def context(self, call: Call) -> Reply:
        """One example in its whole context."""
        row = self._row(call.path["job"], call.path["latent"])
        card = self._read(row)
        try:
            corpus, group, example = (int(call.query.get(key, "")) for key in ("corpus", "group", "example"))
            if min(corpus, group, example) < 0:
                raise IndexError
            found = card.evidence[corpus].groups[group].examples[example]
        except (ValueError, IndexError):
            raise UnknownReferenceError("that latent has no such example; reload the page") from None
        return Reply(example_payload(found, around=None))

    def compare(self, call: Call) -> Reply:
        """Two jobs side by side."""
        return Reply(compare(self.table, (call.query.get("a", ""), call.query.get("b", ""))))

    def mark(self, call: Call) -> Reply:
        """Add or take back a note, raise or lower the flag."""
        job, latent = self.table.place(self._row(call.text("job", 400), str((call.body or {}).get("latent", ""))))
        match call.text("action", 20):
            case "note":
                text = call.text("text", MAX_NOTE).strip()
                if not text:
                    raise ConfigError("text: the note is empty")
                marks = self.notes.add(job, latent, text)
            case "retract":
                number = call.body.get("number")
                marks = self.notes.retract(job, latent, number if isinstance(number, int) else -1)
            case "flag" | "unflag" as action:
                marks = self.notes.flag(job, latent, action == "flag")
            case action:
                raise ConfigError(f"action: {action!r} is not one of note, retract, flag, unflag")
        return Reply(_marks(marks))

    def page(self, call: Call) -> Reply:
        """A selection as one static page."""
        places = call.body.get("latents") if isinstance(call.body, dict) else None
        around = call.body.get("around") if isinstance(call.body, dict) else None
        if not isinstance(places, list) or not 0 < len(places) <= MAX_EXPORT:
            raise ConfigError(f"latents: between 1 and {MAX_EXPORT} go on one page; select fewer or export the table")
        if around is not None and (not isinstance(around, int) or not 0 <= around <= 1000):
            raise ConfigError("around: how many tokens to keep on each side of a peak, 0 to 1000, or null for all")
        cards = [self._card(*_place(place), around=around) for place in places]
        words = "Whole contexts." if around is None else f"Contexts are cut to {around} tokens on each side of a peak."
        html = static_page(f"{len(cards)} features of {self.about['title']}", words, cards)
        return Reply(html, "text/html; charset=utf-8", "features.html")

    def prompt(self, call: Call) -> Reply:
        """Which latents fire on which token of a text."""
        return Reply(self.prompter.answer(call.text("text", MAX_TEXT)))

    def rows_as_csv(self, call: Call) -> Reply:
        """All rows of a query as csv."""
        rows = self._rows(read_query(call.query))
        names = [n for n in self.table.columns if n not in ("job", "latent", "is_bound")]
        texts, flagged = self.notes.texts(), set(self.notes.flagged())
        lines: list[list[Any]] = []
        for row in rows.tolist():
            place = self.table.place(row)
            values = [self.table.columns[name][row] for name in names]
            numbers = [None if np.isnan(value) else f"{value:.10g}" for value in values]
            lines.append([*place, *[_bare(n) for n in numbers], int(place in flagged), texts.get(place, "")])
        content = csv_text(["job", "latent", *names, "flag", "notes"], lines)
        return Reply(content, "text/csv; charset=utf-8", "latents.csv")

    def _card(self, job: str, latent: str | int, *, around: int | None = -1) -> dict[str, Any]:
        row = self._row(job, str(latent))
        card = self._read(row)
        payload = card_payload(card) if around == -1 else card_payload(card, around=around)
        counts = {name: self.table.columns[name][row] for name in COUNTS}
        return payload | {
            "counts": {name: None if np.isnan(value) else int(value) for name, value in counts.items()},
            "row": self.table.rows(np.array([row]))[0],
            "slot": self.about["jobs"][int(self.table.columns["job"][row])]["slot"],
            "marks": _marks(self.notes.of(*self.table.place(row))),
        }

    def _row(self, job: str, latent: str) -> int:
        if not latent.isascii() or not latent.isdigit() or len(latent) > 9:
            raise UnknownReferenceError("a latent is named by its number")
        return self.table.row(job, int(latent))

    def _read(self, row: int) -> Card:
        return self.features.card(*self.table.place(row))

    def _rows(self, query: Query) -> NDArray[np.int64]:
        self.notes.refresh()
        marked = np.zeros(self.table.n_rows, bool)
        for job, latent in self.notes.flagged():
            if job in self.table.job_rows:
                marked[self.table.row(job, latent)] = True
        return self.table.select(query, also=self._found(query.words), marked=marked)

    def _found(self, words: tuple[str, ...]) -> Mask | None:
        """Rows in which every word stands: in the name of the job, as the number, in a note or in the text."""
        if not words:
            return None
        found = np.ones(self.table.n_rows, bool)
        for word in words:
            hits = self.index.rows_with(word)
            bare = word.removeprefix("#")
            if bare.isascii() and bare.isdigit() and len(bare) < 10:
                hits |= self.table.columns["latent"] == int(bare)
            for job in self.table.jobs:
                if word in job.casefold():
                    hits[self.table.job_rows[job]] = True
            for (job, latent), text in self.notes.texts().items():
                if word in text.casefold() and job in self.table.job_rows:
                    hits[self.table.row(job, latent)] = True
            found &= hits
        return found

    def _texts(self) -> Iterator[str]:
        for job in self.table.jobs:
            yield from latent_words(self.folder, job)


def _marks(marks: Marks) -> dict[str, Any]:
    return {"flagged": marks.is_flagged, "notes": [note._asdict() for note in marks.notes]}


def _place(place: Any) -> tuple[str, str]:
    if not (isinstance(place, list) and len(place) == 2 and isinstance(place[0], str)):
        raise ConfigError("latents: a list of [job, latent] is needed")
    return place[0], str(place[1])


def _bare(text: str | None) -> float | int | None:
    """A number that was rounded as text, so that csv writes it bare."""
    if text is None:
        return None
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
