"""Pushing to the Hub and pulling from it: over real HTTP, to a small server with the Hub's endpoints (hub.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fovea.errors import ConfigError, RunError
from fovea.experiment.card import public_name
from fovea.experiment.config import resolve
from fovea.experiment.export import export_any
from fovea.experiment.publish import Place, Publication, dry_run, push
from fovea.experiment.run import run_experiment
from fovea.sae.files import load_sae
from tests.experiment.hub import TOKEN, hub
from tests.experiment.tiny import experiment

pytestmark = pytest.mark.slow

SSAE, TOPK = "ssae_silence0.25-topk-k2-s0", "mix0.5-topk-k4-s0"
JOBS = [
    {"method": {"kind": "ssae", "silence": 0.25}, "sae": {"kind": "topk", "expansion": 2, "k": 2}},
    {"method": {"kind": "mix"}, "sae": {"kind": "topk", "expansion": 2, "k": 4}},
]
FILES = {"README.md", "cfg.json", "metrics.jsonl", "sae_weights.safetensors"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a per-token TopK on g's residual."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        run_experiment(resolve(experiment(folder, job=JOBS), where="test"), folder / "run")
    return folder / "run"


def what(job: str = SSAE, *, target: str = "hf:me/saes/words", stack: bool = True) -> Publication:
    return Publication(job, Place.parse(target), stack, "apache-2.0")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def fovea(*arguments: str, url: str, home: Path, token: str | None = TOKEN) -> "subprocess.CompletedProcess[str]":
    """The real command line, in a program of its own that knows the small server as the Hub."""
    settings = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **settings, **({} if token is None else {"HF_TOKEN": token})}
    return subprocess.run(
        [sys.executable, "-m", "fovea", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_what_would_be_uploaded_holds_weights_words_and_numbers_alone(run: Path, tmp_path: Path) -> None:
    told = dry_run(run, what(), tmp_path / "out")
    assert "0 flipped latents" in told
    assert "nothing was pushed" in told
    assert names(tmp_path / "out") == FILES
    assert set(load_file(tmp_path / "out" / "sae_weights.safetensors")) == {
        "W_enc",
        "W_dec",
        "b_enc",
        "b_dec",
        "threshold",
    }
    everything = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").iterdir()))
    assert str(run.parent).encode() not in everything
    assert str(tmp_path).encode() not in everything
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]["model_name"] == "lm"
    x = torch.randn(50, 24, generator=torch.Generator().manual_seed(0))
    parts = [load_sae(run / "general").sae, load_sae(run / "saes" / SSAE).sae]
    one = load_sae(tmp_path / "out").sae
    torch.testing.assert_close(one(x), parts[0](x) + parts[1](x), rtol=1e-5, atol=1e-5)


def test_the_card_says_how_good_it_is_and_what_is_not_known(run: Path, tmp_path: Path) -> None:
    dry_run(run, what(), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "fovea"
    assert "base_model" not in header
    fvu = [
        (result["dataset"]["name"], metric)
        for result in header["model-index"][0]["results"]
        for metric in result["metrics"]
        if metric["type"] == "fvu"
    ]
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert {record["job"] for record in records} <= {SSAE, "g", "lm"}
    for corpus, metric in fvu:
        (own,) = (
            r for r in records if (r["job"], r["metric"], r["corpus"], r["split"]) == (SSAE, "fvu", corpus, "heldout")
        )
        assert metric["value"] == own["value"]
        assert metric["args"] == {name: own[name] for name in ("ci_low", "ci_high", "n_tokens", "n_documents")}
    assert len(fvu) == 2
    for said in (
        'fovea.load_sae("hf:me/saes/words")',
        "import fovea.saelens",
        "licence not known to fovea",
        "One seed (0)",
        "latents had not fired",
        "in this file: see its licence",
        "blocks.1.hook_resid_post",
    ):
        assert said in card


def test_a_card_without_a_licence_says_so_and_asks_for_one(run: Path, tmp_path: Path) -> None:
    told = dry_run(run, what(TOPK, stack=False)._replace(license=None), tmp_path / "out")
    assert "give it with --license" in told
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: unknown" in card
    assert "not said by the author" in card
    assert "library_name: saelens" in card


def test_what_is_pushed_over_http_is_pulled_again(run: Path, tmp_path: Path) -> None:
    arguments = ("push", str(run), SSAE, "hf:me/saes/words", "--stack", "--license", "apache-2.0", "--private")
    with hub(tmp_path / "hub") as (url, calls):
        pushed = fovea(*arguments, url=url, home=tmp_path / "home")
        assert pushed.returncode == 0, pushed.stderr
        assert "pushed to hf:me/saes/words, commit c0ffee000000" in pushed.stdout
        pulled = fovea("pull", "hf:me/saes/words", "--out", str(tmp_path / "out"), url=url, home=tmp_path / "home")
        assert pulled.returncode == 0, pulled.stderr
    assert names(tmp_path / "hub" / "me") == {f"saes/words/{name}" for name in FILES}
    said = json.loads((tmp_path / "hub" / "saes.json").read_text())
    assert said.get("private") is True or said.get("visibility") == "private"
    assert sum("/commit/" in call for call in calls) == 1
    assert "fovea_blocks" in pulled.stdout
    assert names(tmp_path / "out") == FILES
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (
            tmp_path / "hub" / "me" / "saes" / "words" / name
        ).read_bytes()


def test_what_the_hub_refuses_is_said_in_one_message(run: Path, tmp_path: Path) -> None:
    with hub(tmp_path / "hub") as (url, _):
        for target, token, message in (
            ("hf:stranger/saes", TOKEN, "the token has no right to write there"),
            ("hf:me/saes", "hf_wrong", "log in with `hf auth login`"),
        ):
            refused = fovea("push", str(run), TOPK, target, url=url, home=tmp_path / "home", token=token)
            assert refused.returncode == 2, refused.stderr
            assert message in refused.stderr
            assert "Traceback" not in refused.stderr
    gone = fovea("push", str(run), TOPK, "hf:me/saes", url="http://127.0.0.1:9", home=tmp_path / "home")
    assert gone.returncode == 2
    assert "the Hub cannot be reached" in gone.stderr


def test_a_missing_token_and_being_offline_are_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fovea.experiment.publish.get_token", lambda: None)
    with pytest.raises(RunError, match=r"needs a token.*hf auth login.*--to FOLDER"):
        push(run, what())
    monkeypatch.setattr("fovea.experiment.publish.get_token", lambda: TOKEN)
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set"):
        push(run, what())


@pytest.mark.parametrize("target", ["me/saes", "hf:saes", "hf:me/", "hf:me/saes/../x", "saelens:a/b", "hf:me/sa es"])
def test_a_target_that_is_no_repository_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"write hf:OWNER/REPO|target 'hf:me/sa es'"):
        Place.parse(target)


def test_folders_of_this_machine_have_no_name_in_public(tmp_path: Path) -> None:
    assert public_name(str(tmp_path / "lm")) == "lm (local files)"
    assert public_name("./models/lm") == "lm (local files)"
    assert public_name("EleutherAI/pythia-70m") == "EleutherAI/pythia-70m"
    assert public_name("bundled:biology") == "bundled:biology"


def test_features_of_a_run_are_exported_and_a_stack_of_them_is_refused(run: Path, tmp_path: Path) -> None:
    told = export_any(run, SSAE, tmp_path / "out", layout="saedashboard", stack=False)
    assert "latents of" in told
    assert "share them only if its licence lets you" in told
    batch = json.loads((tmp_path / "out" / "batch-0.json").read_text())
    assert (batch["model_id"], batch["layer"]) == ("lm", 1)
    with pytest.raises(ConfigError, match="a stack is not one of them"):
        export_any(run, SSAE, tmp_path / "b", layout="neuronpedia", stack=True)
    with pytest.raises(RunError, match="has no job 'x'"):
        export_any(run, "x", tmp_path / "c", layout="neuronpedia", stack=False)
