"""`fovea bench` from names to results: real workers on tiny sizes, what is refused, what a file holds."""

import io
import json
import sys

import pytest
from rich.console import Console

from fovea.bench.machine import describe_machine
from fovea.bench.run import BENCHMARKS, read_peers, run_benchmarks
from fovea.cli import app
from fovea.errors import ConfigError
from tests.flags import command_flags

TINY = (
    "rounds=1",
    "round_seconds=0.01",
    'allocators=["default"]',
    "step.synthetic=true",
    "step.d_in=16",
    "step.n_rows=600",
    "step.d_sae=[32]",
    "step.d_sae_many=32",
    "step.n_saes=[2]",
    "step.k=4",
    "step.batch_size=64",
    "step.seeds=[0,1]",
    "step.quality_steps=5",
    "lm.streamed_rows=[8192,16384]",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_variants"), [("step", [4]), ("auxk", [4]), ("many", [2]), ("quality", [4]), ("memory", [2])]
)
def test_it_runs_and_every_variant_has_numbers(tmp_path, name, n_variants):
    out = tmp_path / "results.json"
    console = Console(record=True, width=120, file=io.StringIO())
    result = run_benchmarks([name], settings=TINY, out=out, console=console)
    found = result["benchmarks"][name]
    assert [len(group["rows"]) for group in found["groups"]] == n_variants
    for group in found["groups"]:
        assert group["title"] in console.export_text(clear=False)
        for row in group["rows"]:
            assert "error" not in row, row
            assert row["tokens_per_second"] > 0
            assert row["peak_rss_mib"] > 50
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert str(tmp_path) not in out.read_text()


@pytest.mark.slow
def test_imports_are_timed_and_packages_counted():
    numbers = run_benchmarks(["import"], settings=TINY, console=Console(quiet=True))["benchmarks"]["import"]["numbers"]
    times = numbers["import seconds"]
    assert 0 < times["python itself"] < times["torch"]
    assert times["fovea"] < times["torch"]


def test_what_does_not_exist_is_refused_by_name(tmp_path):
    quiet = Console(quiet=True)
    with pytest.raises(ConfigError, match=r"'stop' does not exist; choose from step, archs"):
        run_benchmarks(["stop"], console=quiet)
    with pytest.raises(ConfigError, match="unknown setting 'round'.*did you mean 'rounds'"):
        run_benchmarks(["step"], settings=["round=3"], console=quiet)
    with pytest.raises(ConfigError, match=r"holds no peers\.json; make it with benchmarks/peers/set_up\.py"):
        run_benchmarks(["step"], peers=tmp_path, console=quiet)


def test_a_peer_whose_environment_is_gone_is_refused(tmp_path):
    entry = {"python": sys.executable, "worker": str(tmp_path / "gone.py"), "versions": {}}
    (tmp_path / "peers.json").write_text(json.dumps({"sae-lens": entry}))
    with pytest.raises(ConfigError, match="peer 'sae-lens' .* is gone"):
        read_peers(tmp_path)


def test_the_machine_is_described_without_its_name():
    import socket

    found = describe_machine()
    assert found["cores"] >= 1
    assert found["packages"]["torch"]
    assert socket.gethostname() not in json.dumps(found)


def test_the_help_names_every_benchmark():
    from typer.testing import CliRunner

    help_text = " ".join(CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "200"}).output.split())
    assert command_flags()["bench"] == ["--out", "--peers", "--rounds", "--set", "NAMES"]
    assert not [name for name in BENCHMARKS if name not in help_text]
