"""What strangers wrote, in every place where fovea reads: refused with a clear error, or read within bounds."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts.fuzzing.all_readers import READERS
from scripts.fuzzing.cases import Bench, unpacked

from fovea.api import Run
from fovea.app.notes import Notes
from fovea.atomic import read_checked_json, write_checked_json
from fovea.data.activations import TokenFilter
from fovea.data.corpus import documents
from fovea.data.store import ChunkStore
from fovea.errors import (
    ConfigError,
    DamagedError,
    FoveaError,
    ModelError,
    RunError,
    StudyError,
)
from fovea.eval.density import load_counts
from fovea.features.files import Paths
from fovea.features.read import Features
from fovea.features.tables import MAX_ROWS
from fovea.features.text import read_vocabulary
from fovea.foreign import MAX_DEPTH, Refusal, damage, expanded, read_object, read_text, regular
from fovea.lm.files import load_model, locate
from fovea.lm.load import load_lm
from fovea.rating.study import Study
from fovea.report.latents import read_latents
from fovea.report.page import page_of
from fovea.report.rundata import read_run
from fovea.sae.files import load_sae
from fovea.tensorfile import read_checked, write_checked, write_tensors
from tests.experiment.tiny import save_lm
from tests.features.made import make
from tests.house import ROOT
from tests.rating.made_study import made
from tests.report.make_run import Shape, make_run

NO = Refusal(RunError, "go away")
CORPUS = (ROOT / "tests" / "golden" / "fuzz_readers.jsonl").read_text().splitlines()


def test_a_link_may_lead_elsewhere_in_the_folder_but_not_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (folder / "a").write_text("a")
    (folder / "sub" / "inside").symlink_to("../a")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "far").symlink_to(tmp_path)
    (folder / "nowhere").symlink_to("nothing")
    assert read_text(folder / "sub" / "inside", folder, NO) == "a"
    for name, said in {
        "out": "outside",
        "far/secret": "outside",
        "nowhere": "cannot be opened",
        "sub": "regular",
    }.items():
        with pytest.raises(RunError, match=said):
            regular(folder / name, folder, NO)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(RunError, match="is not a regular file; go away"):
        read_object(tmp_path / "x.json", tmp_path, NO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, f"nested deeper than {MAX_DEPTH}"),
        ('{"a":' * 70 + "1" + "}" * 70, f"nested deeper than {MAX_DEPTH}"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": 1e999}', "more than a float holds"),
        ('{"a": ' + "9" * 5000 + "}", "not valid json"),
        ("[1]", "holds a list, but an object is needed"),
        ('{"a": "' + "x" * 2000 + '"}', "at most 1,000 are read"),
    ],
)
def test_json_bombs_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RunError, match=said):
        read_object(tmp_path / "x.json", tmp_path, NO, most=1000 if "x" * 9 in text else 10**6)


CHECKED = {
    "x.json": (lambda path: write_checked_json(path, {"a": 1}), read_checked_json),
    "x.safetensors": (lambda path: write_checked(path, {"a": torch.ones(2)}), read_checked),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_file_with_a_checksum_is_read_as_a_strangers_file_is(name: str, tmp_path: Path) -> None:
    write, read = CHECKED[name]
    run, path = tmp_path / "run", tmp_path / "run" / "sub" / name
    with pytest.raises(FileNotFoundError):
        read(path)
    write(path)
    whole = read(path)
    path.rename(run / name)
    path.symlink_to(run / name)
    assert str(read(path, within=run)) == str(whole)
    with pytest.raises(DamagedError, match="outside"):
        read(path)
    (run / name).write_bytes((run / name).read_bytes().replace(b'"a"', b'"b"', 1))
    with pytest.raises(DamagedError, match="its checksum is wrong.*; make it again"):
        read(path, "make it again", within=run)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedError, match="is not a regular file; make it again"):
        read(path, "make it again")
    path.unlink()
    for nonsense in (b"", b"\xff" * 99, b"[" * 10_000, b'{"sha256": NaN}', b"[1]"):
        path.write_bytes(nonsense)
        with pytest.raises(DamagedError, match="; make it again"):
            read(path, "make it again")


def test_what_is_refused_inside_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mine"), damage(tmp_path, NO):
        raise ConfigError("mine")
    with pytest.raises(RunError, match=r"is damaged \(KeyError: 'a'\); go away"), damage(tmp_path, NO):
        raise KeyError("a")


def test_a_home_of_nobody_is_refused() -> None:
    with pytest.raises(RunError, match="go away"):
        expanded("~nobody-of-that-name/x", NO)
    for read in (load_sae, load_lm, lambda text: list(documents(text))):
        with pytest.raises(FoveaError, match="nobody-of-that-name"):
            read("~nobody-of-that-name/x")


# Runs of others


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", Shape(d_sae=8, n_documents=8, methods=("ssae",), one_sparsity="ssae"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "experiment.toml", "provenance.json", "comparisons.jsonl"])
def test_a_report_shows_no_file_from_outside_the_run(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((run / name).read_bytes() if (run / name).exists() else b"{}")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "secret")
    with pytest.raises(RunError, match="outside"):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("metrics.jsonl", b"\xff\xfe"),
        ("metrics.jsonl", b"[" * 10_000),
        ("provenance.json", b'{"starts": 3}'),
        ("provenance.json", b"[" * 10_000),
        ("experiment.toml", b"not toml"),
        ("experiment.toml", b"\xff"),
    ],
)
def test_a_run_that_is_damaged_is_refused_by_the_report(name: str, data: bytes, run: Path) -> None:
    (run / name).write_bytes(data)
    with pytest.raises((RunError, ConfigError)):
        page_of(run, draw=lambda figure: pytest.fail(f"{figure.name} is not drawn") if name == "x" else _drawn(figure))


def _drawn(figure: Any) -> Any:
    from fovea.report.drawing import Drawn

    return Drawn(figure.name, figure.title, figure.tab, figure.caption, "<svg/>", "<svg/>")


def test_a_table_of_more_rows_than_any_sae_has_latents_is_not_read(run: Path) -> None:
    path = run / "features" / "g" / "latents.parquet"
    pq.write_table(pa.table({"n_fired_general": np.zeros(MAX_ROWS + 1, np.int8)}), path)
    assert path.stat().st_size < 2**16
    with pytest.raises(RunError, match="16,777,217 rows, at most 16,777,216 are read"):
        read_latents(run, "g")


def changed_manifest(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = Paths.of(run).manifest
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["jobs"].update({"../../evil": m["jobs"]["g"]}), "is no name of a job or corpus"),
        (lambda m: m["corpora"].update({"/etc": m["corpora"]["words"]}), "is no name of a job or corpus"),
        (lambda m: m["inputs"].update({"../secret": "x"}), "leads out of the run"),
        (lambda m: m["inputs"].update({"/etc/passwd": "x"}), "leads out of the run"),
        (lambda m: m["jobs"]["g"].update(d_sae=2**40), "a job of 1099511627776 latents"),
        (lambda m: m["jobs"]["g"].update(corpora=["nowhere"]), "a corpus that is not there"),
        (lambda m: m.pop("jobs"), "KeyError: 'jobs'"),
        (lambda m: m.update(jobs=[1]), "is damaged"),
    ],
)
def test_evidence_that_names_what_is_not_its_own_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    make(tmp_path, jobs={"g": 4})
    changed_manifest(tmp_path, change)
    with pytest.raises(RunError, match=said):
        Features(tmp_path)


@pytest.mark.parametrize("name", ["evidence", "links"])
def test_evidence_that_is_damaged_is_refused(name: str, tmp_path: Path) -> None:
    make(tmp_path, jobs={"g": 4})
    path = getattr(Paths.of(tmp_path), name)("g")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(RunError, match=r"damaged|not a readable"):
        Features(tmp_path).card("g", 2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"damaged|not a readable"):
        Features(tmp_path).card("g", 0)


@pytest.mark.parametrize("value", ["text", b"\xff"])
def test_evidence_that_holds_no_numbers_is_refused(value: str | bytes, tmp_path: Path) -> None:
    make(tmp_path, jobs={"g": 4})
    path = Paths.of(tmp_path).evidence("g")
    table = pq.read_table(path)
    column = table.column_names.index("max_activation")
    pq.write_table(table.set_column(column, "max_activation", pa.array([value] * len(table))), path)
    with pytest.raises(RunError, match=f"max_activation holds {type(value).__name__}, not numbers"):
        Features(tmp_path).card("g", 0)


def test_a_vocabulary_that_is_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fovea.features.text.MAX_TOKENS", 100)
    path = tmp_path / "tokens.parquet"
    pq.write_table(pa.table({"bytes": [b"x"] * 101}).replace_schema_metadata({"added_space": "false"}), path)
    with pytest.raises(RunError, match="101 rows, at most 100"):
        read_vocabulary(path)


@pytest.mark.parametrize(
    "text", ["{", '{"filter": {}}', '{"filter": {"special_ids": 3, "skip_first": 1, "max_norm": 1}}']
)
def test_a_filter_that_is_damaged_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "filter.json").write_text(text)
    with pytest.raises(RunError, match="measured again"):
        TokenFilter.read(tmp_path / "filter.json", tmp_path)


def test_counts_and_chunks_that_are_damaged_are_said(tmp_path: Path) -> None:
    write_tensors(tmp_path / "counts.safetensors", {"g.counts": torch.zeros(2), "g.totals": torch.zeros(2)})
    with pytest.raises(RunError, match="are no counts"):
        load_counts(tmp_path / "counts.safetensors")
    store = ChunkStore(tmp_path / "chunks", key="k", dtype=torch.float32)
    os.mkfifo(tmp_path / "chunks" / "chunk-000000.safetensors")
    assert store.get(0) is None, "it is removed and computed again"


def test_a_run_without_settings_is_none(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is not a regular file"):
        Run(tmp_path)


# Studies and notes


def test_a_study_with_a_trigger_of_others_is_refused(tmp_path: Path) -> None:
    study = made(tmp_path, features_per_arm=2, n_practice=1, n_guesses=2)
    study.close()
    connection = sqlite3.connect(study.folder / "study.sqlite")
    connection.execute("CREATE TRIGGER evil AFTER INSERT ON event BEGIN DELETE FROM fact; END")
    connection.close()
    with pytest.raises(StudyError, match="tables, indices and triggers are not those of one"):
        Study.open(tmp_path, "one")


def test_notes_with_a_trigger_of_others_are_refused(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.add("g", 0, "mine")
    notes.close()
    connection = sqlite3.connect(tmp_path / "notes.sqlite")
    connection.execute("CREATE TRIGGER evil AFTER INSERT ON events BEGIN SELECT 1; END")
    connection.close()
    with pytest.raises(RunError, match="other tables or triggers"):
        Notes(tmp_path).refresh()


# Language models


@pytest.fixture
def lm(tmp_path: Path) -> Path:
    return save_lm(tmp_path / "lm")


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "pytorch_model.bin", 3])
def test_an_index_that_names_what_is_not_of_the_folder_is_refused(name: Any, lm: Path) -> None:
    (lm / "model.safetensors").rename(lm / "other.safetensors")
    (lm / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="no safetensors file of the folder"):
        locate(str(lm))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_whose_files_lead_out_of_its_folder_is_refused(name: str, lm: Path, tmp_path: Path) -> None:
    (lm / name).rename(tmp_path / "elsewhere")
    (lm / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="outside"):
        load_lm(str(lm))


def test_a_tokenizer_that_asks_for_its_own_code_runs_nothing(lm: Path) -> None:
    (lm / "evil.py").write_text("from pathlib import Path; Path(__file__).with_name('harm').touch()")
    edited(lm / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil")
    with contextlib.suppress(FoveaError):
        load_lm(str(lm))
    assert not (lm / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 24 * 2**12, "intermediate_size": 2**20}, "describes .* numbers, but its weights have"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1.000e\\+06, at most 4096"),
        ({"vocab_size": 2**40}, "vocab_size"),
        ({"hidden_size": "x"}, "cannot be read"),
        ({"model_type": ["llama"]}, "not a causal lm"),
    ],
)
def test_a_config_that_describes_a_giant_allocates_nothing(changes: dict[str, Any], said: str, lm: Path) -> None:
    edited(lm / "config.json", **changes)
    with pytest.raises(ModelError, match=said):
        load_model(locate(str(lm)), "x", dtype=torch.float32, device=torch.device("cpu"))


# The fuzzer's corpus, and a few inputs more


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    place = tmp_path_factory.mktemp("bench")
    for name in ("place", "outside"):
        (place / name).mkdir()
    return Bench(READERS, place / "place", place / "outside")


@pytest.mark.slow
@pytest.mark.parametrize("line", range(len(CORPUS)))
def test_the_corpus_of_the_fuzzer_is_refused_or_read_as_before(line: int, bench: Bench) -> None:
    case, outcome = unpacked(CORPUS[line], READERS, bench.outside)
    assert bench.outcome(case).split(": ")[:2] == outcome.split(": ")[:2]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 2**40))
def test_damaged_files_are_refused_or_read(number: int, bench: Bench) -> None:
    bench.outcome(bench.case(0, number))
