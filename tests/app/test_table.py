"""The table: what fits a query, in what order, page by page; and its csv."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

from fovea.app.files import csv_text, safe_cell
from fovea.app.query import Query, Range, read_page, read_query
from fovea.app.table import Table
from fovea.app.textsearch import TextIndex
from fovea.errors import ConfigError, UnknownReferenceError
from fovea.features.read import Features
from tests.app.hostile import HOSTILE

NAN = float("nan")


def made_table() -> Table:
    """Two SAEs: `a` with four latents, `b` with two and without a g."""
    a = {
        "latent": np.arange(4),
        "n_fired_domain": np.array([10, 0, 5, 0]),
        "n_tokens_domain": np.full(4, 100),
        "n_fired_general": np.array([1, 3, 0, 0]),
        "n_tokens_general": np.full(4, 200),
        "novelty_decoder": np.array([0.9, NAN, 0.1, 0.5]),
        "novelty_encoder": np.array([0.2, 0.3, 0.4, 0.5]),
        "nearest_general": np.array([3.0, NAN, 1.0, 2.0]),
    }
    return Table({"a": a, "b": {name: a[name][:2] for name in list(a)[:5]}})


def places(table: Table, query: Query, **more: Any) -> list[tuple[str, int]]:
    return [table.place(row) for row in table.select(query, **more).tolist()]


def test_the_ratio_is_of_exact_counts_and_a_bound_where_general_text_is_silent() -> None:
    table = made_table()
    np.testing.assert_allclose(table.columns["ratio"][:4], [0.1 / 0.005, 0.0, 0.05 / 0.005, NAN])
    assert table.columns["is_bound"].tolist() == [False, False, True, False, False, False]


def test_a_density_of_one_in_ten_millions_is_not_rounded_away() -> None:
    counts = {"n_fired_domain": [1], "n_tokens_domain": [10**7], "n_fired_general": [1], "n_tokens_general": [10**9]}
    table = Table({"a": {"latent": np.arange(1), **{name: np.array(value) for name, value in counts.items()}}})
    assert table.columns["density_domain"][0] == 1e-7
    assert table.columns["density_general"][0] == 1e-9
    assert table.rows(np.array([0]))[0][2:5] == [1, 1, 100.0]


@pytest.mark.parametrize("column", ["density_domain", "density_general", "ratio", "novelty_decoder", "nearest_general"])
def test_sorting_is_that_of_numpy_with_the_unknown_last_both_ways(column: str) -> None:
    table = made_table()
    for is_descending in (True, False):
        rows = table.select(Query(sort=column, is_descending=is_descending))
        values = table.columns[column][rows]
        known = values[~np.isnan(values)]
        assert np.isnan(values[len(known) :]).all()
        assert (np.diff(known) * (-1 if is_descending else 1) >= 0).all()
        assert sorted(rows.tolist()) == list(range(table.n_rows))


def test_controls_come_last_in_every_order_and_can_be_asked_for_or_left_out() -> None:
    columns = {"latent": np.arange(2), "n_tokens_domain": np.full(2, 100), "n_tokens_general": np.full(2, 100)}
    strong = columns | {"n_fired_domain": np.array([90, 80]), "n_fired_general": np.array([1, 1])}
    weak = columns | {"n_fired_domain": np.array([5, 10]), "n_fired_general": np.array([5, 5])}
    table = Table({"control-random-k4": strong, "ssae": weak}, controls=["control-random-k4"])
    assert places(table, Query()) == [("ssae", 1), ("ssae", 0), ("control-random-k4", 0), ("control-random-k4", 1)]
    for sort in ("job", "latent", "ratio", "density_general", "flag"):
        for is_descending in (True, False):
            found = [job for job, _ in places(table, Query(sort=sort, is_descending=is_descending))]
            assert found == ["ssae", "ssae", "control-random-k4", "control-random-k4"]
    assert [job for job, _ in places(table, Query(show="trained"))] == ["ssae"] * 2
    assert [job for job, _ in places(table, Query(show="controls"))] == ["control-random-k4"] * 2


def test_the_default_order_is_by_density_where_no_ratio_is_known() -> None:
    counts = {"latent": np.arange(3), "n_fired_domain": np.array([1, 3, 2]), "n_tokens_domain": np.full(3, 9)}
    assert places(Table({"a": counts}), Query()) == [("a", 1), ("a", 2), ("a", 0)]
    assert made_table().default_sort == "ratio"


def test_filters_add_up() -> None:
    table = made_table()
    order = Query(sort="latent", is_descending=False)
    assert places(table, order._replace(jobs=("b",))) == [("b", 0), ("b", 1)]
    assert places(table, order._replace(show="domain")) == [("a", 0), ("b", 0), ("a", 2)]
    assert places(table, order._replace(show="only")) == [("a", 2)]
    assert places(table, order._replace(show="dead")) == [("a", 3)]
    assert places(table, order._replace(ranges=(Range("ratio", 10, 20),), jobs=("a",))) == [("a", 0), ("a", 2)]
    assert places(table, order._replace(ranges=(Range("novelty_decoder", -np.inf, 0.5),))) == [("a", 2), ("a", 3)]
    marked = np.array([0, 1, 0, 0, 0, 1], bool)
    assert places(table, order._replace(show="flagged"), marked=marked) == [("a", 1), ("b", 1)]
    assert places(table, Query(sort="flag"), marked=marked)[:2] == [("a", 1), ("b", 1)]


def test_unknown_jobs_and_latents_are_named() -> None:
    table = made_table()
    with pytest.raises(UnknownReferenceError, match="there are: a, b"):
        table.row("c", 0)
    with pytest.raises(UnknownReferenceError, match="0 to 3, not 4"):
        table.row("a", 4)


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("sort=x", "sort"),
        ("order=up", "order"),
        ("show=none", "show"),
        ("min-ratio=many", "min-ratio"),
        ("min-ratio=nan", "min-ratio"),
        ("q=" + "x" * 201, "q"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("offset=1.5", "offset"),
        ("offset=\u0661", "offset"),
    ],
)
def test_a_query_without_sense_is_refused_by_name(query: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{what}:"):
        (read_query(QueryParams(query)), read_page(QueryParams(query)))


def test_words_and_quoted_phrases_are_read() -> None:
    assert read_query(QueryParams({"q": 'Cell "of the" #12'})).words == ("cell", "of the", "#12")


def test_text_is_found_in_its_own_row_and_across_blocks() -> None:
    texts = [f"row {i} \u00c4pfel" if i % 3 else f"row {i}" for i in range(10_000)]
    index = TextIndex(len(texts))
    assert index.progress == 0
    index.fill(texts)
    assert index.progress == 1
    assert np.flatnonzero(index.rows_with("\u00e4pfel")).tolist() == [i for i in range(10_000) if i % 3]
    assert np.flatnonzero(index.rows_with("row 9999")).tolist() == [9999]
    assert not index.rows_with("pfel\0row").any()
    assert not index.rows_with("nowhere").any()


def test_a_page_a_search_and_a_position_agree(owner: TestClient, run: Path) -> None:
    deadline = time.monotonic() + 20
    while owner.get("/api/run").json()["search_progress"] < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = owner.get(
        "/api/latents", params={"q": "g river", "sort": "latent", "order": "ascending", "limit": 5}
    ).json()
    assert found["total"] > 5
    jobs = owner.get("/api/run").json()["jobs"]
    features = Features(run)
    for job, latent, *_ in found["rows"]:
        card = features.card(jobs[job]["name"], latent)
        texts = ["".join(p.text for p in e.pieces) for ev in card.evidence for g in ev.groups for e in g.examples]
        assert any("river" in text for text in [*texts, *(token.text for token in card.promoted)])
    second, third = found["rows"][1], found["rows"][2]
    at = {"q": "g river", "sort": "latent", "order": "ascending", "at_latent": second[1]}
    position = owner.get("/api/position", params=at | {"at_job": jobs[second[0]]["name"]}).json()
    assert position["position"] == 1
    assert position["next"] == [jobs[third[0]]["name"], third[1]]


def test_pages_cover_every_row_once(owner: TestClient) -> None:
    rows: list[list[Any]] = []
    for offset in range(0, 200, 60):
        page = owner.get("/api/latents", params={"sort": "novelty_encoder", "offset": offset, "limit": 60}).json()
        assert page["total"] == 160
        rows += page["rows"]
    assert len({(row[0], row[1]) for row in rows}) == len(rows) == 160


def test_the_csv_holds_the_rows_of_the_query_in_order(owner: TestClient) -> None:
    query = {"sort": "density_domain", "job": "g", "show": "domain"}
    answer = owner.get("/api/latents.csv", params=query)
    assert answer.headers["content-disposition"] == 'attachment; filename="latents.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    page = owner.get("/api/latents", params=query).json()
    assert [int(row["latent"]) for row in rows] == [row[1] for row in page["rows"]]
    assert all(int(row["n_fired_domain"]) > 0 for row in rows)
    assert rows[0]["nearest_general"] == ""


@pytest.mark.parametrize("text", [*HOSTILE, "\t=1", " =1", "\r=1", "\ud800", "|x", "\u00a0@x", "-", "%0A=1"])
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    text = text[:1000]
    cell = safe_cell(text)
    assert not cell.lstrip(" \u00a0\ufeff").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "|"))
    assert "\0" not in cell
    assert "\u202e" not in cell
    cell.encode()
    assert list(csv.reader(io.StringIO(csv_text(["x"], [[text]]), newline="")))[1] == [cell]


def test_numbers_of_a_csv_stay_numbers() -> None:
    assert csv_text(["=a"], [[-0.5, None, 3]]) == "'=a\r\n-0.5,,3\r\n"
