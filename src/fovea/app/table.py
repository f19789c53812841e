"""All latents of all jobs as columns in memory: filtered, sorted and cut to a page by numpy.

    Features.table(job), each job --Table.of--> columns --select(Query)--> row numbers --rows--> json

A row is one latent of one job. ratio = density on D / density on general text; where a latent never fired on general
text one firing is assumed, so its ratio is a lower bound (`is_bound`). What is not known is NaN and sorts last.
Whatever the order, latents of controls come after all others: an untrained dictionary is full of extreme ratios.
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.app.calls import number
from fovea.app.query import Query
from fovea.errors import UnknownReferenceError

Column = NDArray[Any]
Mask = NDArray[np.bool_]
COUNTS = ("n_fired_domain", "n_tokens_domain", "n_fired_general", "n_tokens_general")
_MEASURED = ("novelty_decoder", "novelty_encoder", "nearest_general")


class Table:
    """Columns of equal length, one entry per latent; read-only after it is made.

    Args:
        jobs: SAE name -> its columns.
        controls: Which of the SAEs are controls.
    """

    def __init__(self, jobs: Mapping[str, Mapping[str, Column]], *, controls: Collection[str] = ()) -> None:
        self.jobs = tuple(jobs)
        sizes = [len(table["latent"]) for table in jobs.values()]
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.columns: dict[str, Column] = {
            "job": np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            "latent": np.concatenate([np.asarray(t["latent"], np.int64) for t in jobs.values()] or [np.zeros(0)]),
        }
        for name in (*COUNTS, *_MEASURED):
            self.columns[name] = np.concatenate([_floats(t, name) for t in jobs.values()] or [np.zeros(0)])
        self._derive()
        self._is_control = np.array([job in controls for job in jobs], bool)[self.columns["job"]]
        self._orders: dict[str, Column] = {}

    @property
    def n_rows(self) -> int:
        """Number of latents of all jobs."""
        return int(self.starts[-1])

    @cached_property
    def job_rows(self) -> dict[str, slice]:
        """Rows of each job: they lie together, in the order of their latents."""
        return {name: slice(int(self.starts[i]), int(self.starts[i + 1])) for i, name in enumerate(self.jobs)}

    @cached_property
    def default_sort(self) -> str:
        """The column the table is ordered by, unless another is asked for: without general text there is no ratio."""
        return "density_domain" if np.isnan(self.columns["ratio"]).all() else "ratio"

    def row(self, job: str, latent: int) -> int:
        """Row of a latent.

        Raises:
            UnknownReferenceError: no such job or latent.
        """
        if job not in self.job_rows:
            raise UnknownReferenceError(f"no job of that name has features; there are: {', '.join(self.jobs)}")
        rows = self.job_rows[job]
        if not 0 <= latent < rows.stop - rows.start:
            raise UnknownReferenceError(f"{job} has the latents 0 to {rows.stop - rows.start - 1}, not {latent}")
        return rows.start + latent

    def place(self, row: int) -> tuple[str, int]:
        """Job and latent of a row."""
        return self.jobs[int(self.columns["job"][row])], int(self.columns["latent"][row])

    def select(self, query: Query, *, also: Mask | None = None, marked: Mask | None = None) -> NDArray[np.int64]:
        """Numbers of the rows that fit, in order.

        Args:
            also: a further condition, from the search in text.
            marked: rows with a flag, for `show=flagged` and for sorting by flag.
        """
        fits = self._fits(query, marked)
        if also is not None:
            fits &= also
        order = self._order(query.sort or self.default_sort, query.is_descending, marked)
        return order[fits[order]]

    def rows(self, numbers: NDArray[np.int64]) -> list[list[Any]]:
        """Rows as json: job, latent, firings on D and on general text, ratio, is it a bound, novelty, nearest."""
        c = self.columns
        wanted = ("job", "latent", "n_fired_domain", "n_fired_general", "ratio", "is_bound", *_MEASURED)
        cut = [c[name][numbers].tolist() for name in wanted]
        whole = {"job", "latent", "is_bound"}
        shown = [
            values if name in whole else [_plain(name, v) for v in values]
            for name, values in zip(wanted, cut, strict=True)
        ]
        return [list(row) for row in zip(*shown, strict=True)]

    def _derive(self) -> None:
        c = self.columns
        with np.errstate(divide="ignore", invalid="ignore"):
            c["density_domain"] = c["n_fired_domain"] / c["n_tokens_domain"]
            c["density_general"] = c["n_fired_general"] / c["n_tokens_general"]
            floor = np.maximum(c["n_fired_general"], 1.0) / c["n_tokens_general"]
            c["ratio"] = c["density_domain"] / floor
        c["is_bound"] = (c["n_fired_general"] == 0) & (c["n_fired_domain"] > 0)
        c["ratio"][(c["n_fired_general"] == 0) & (c["n_fired_domain"] == 0)] = np.nan

    def _fits(self, query: Query, marked: Mask | None) -> Mask:
        c = self.columns
        fits = np.ones(self.n_rows, bool)
        if query.jobs:
            fits[:] = False
            for job in query.jobs:
                fits[self.job_rows[job] if job in self.job_rows else self.row(job, 0)] = True
        match query.show:
            case "trained":
                fits &= ~self._is_control
            case "controls":
                fits &= self._is_control
            case "domain":
                fits &= c["n_fired_domain"] > 0
            case "only":
                fits &= c["is_bound"]
            case "dead":
                fits &= (c["n_fired_domain"] == 0) & ~(c["n_fired_general"] > 0)
            case "flagged":
                fits &= False if marked is None else marked
            case _:
                pass
        for bound in query.ranges:
            values = c[bound.column]
            fits &= (values >= bound.low) & (values <= bound.high)
        return fits

    def _order(self, name: str, is_descending: bool, marked: Mask | None) -> NDArray[np.int64]:
        """Row numbers sorted by a column, controls last, NaN last both ways, ties in the order of rows."""
        if name == "flag":
            values = np.zeros(self.n_rows) if marked is None else marked.astype(float)
            return self._controls_last(np.argsort(-values if is_descending else values, kind="stable"))
        key = f"{name}{'-' if is_descending else '+'}"
        if key not in self._orders:
            values = self.columns[name].astype(np.float64)
            self._orders[key] = self._controls_last(np.argsort(-values if is_descending else values, kind="stable"))
        return self._orders[key]

    def _controls_last(self, order: Column) -> Column:
        late = self._is_control[order]
        return np.concatenate([order[~late], order[late]])


def _floats(table: Mapping[str, Column], name: str) -> Column:
    """A column as float64, NaN where the job has none."""
    if name not in table:
        return np.full(len(table["latent"]), np.nan)
    return np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan)


def _plain(name: str, value: float) -> float | int | None:
    """A number of four digits or so; counts and indices as integers; NaN as null."""
    finite = number(value)
    if finite is None or name in ("n_fired_domain", "n_fired_general", "nearest_general"):
        return None if finite is None else int(finite)
    return float(f"{finite:.4g}")
