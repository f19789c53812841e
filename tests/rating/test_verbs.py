"""The verbs, on evidence written by the real writers."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fovea.cli import app
from fovea.rating.packet import Packet
from fovea.rating.study import Study
from fovea.rating.visible import visible
from tests.features.made import make
from tests.rating.made_study import work

pytestmark = pytest.mark.slow

ARMS = ["--arm", "ssae=ssae-batch_topk-k16-s0", "--arm", "direct=direct-batch_topk-k16-s0"]
SHOWN = "[shown]\nn_strongest = 4\nn_spread = 2\ntokens_around = 5\n"
CONFIG = f'n_practice = 2\nn_guesses = 4\n{SHOWN}[[rater]]\nname = "ann"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(CONFIG)
    return make(tmp_path / "run")


def fovea(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["study", *map(str, arguments)])
    assert done.exit_code == code, done.output + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_whole_way_by_verbs(folder: Path, tmp_path: Path):
    new = ["new", folder, "first", *ARMS, "--per-arm", 10, "--config", tmp_path / "study.toml"]
    assert "10 sampled of 48 latents" in fovea(*new, "--dry-run")
    assert not (folder / "studies").exists()
    told = fovea(*new, "--rater", "ann:scripted")
    assert "10 features per arm and 1 rater" in told
    study = Study.open(folder, "first")
    assert study.tokens()["ann"] in told
    assert "ann (scripted): 0 of 2 in practice; last step never" in fovea("status", folder, "first")
    assert "has not locked" in fovea("unblind", folder, "first", code=2)
    work(study.rater(study.tokens()["ann"]))
    assert "all have locked" in fovea("status", folder, "first")
    told = fovea("unblind", folder, "first")
    assert "ssae minus direct, domain panel" in told
    assert "1 of 1 raters are scripted" in told
    assert "unblinded after all had locked" in fovea("status", folder, "first")
    assert len(fovea("export", folder, "first", "--out", tmp_path / "out").splitlines()) == 3
    assert json.loads((folder / "studies/first/result.json").read_text())["n_scripted"] == 1


def test_packets_by_verbs(folder: Path, tmp_path: Path):
    fovea("new", folder, "first", *ARMS, "--per-arm", 10, "--config", tmp_path / "study.toml")
    file = tmp_path / "ann.packet"
    assert "give it to ann alone" in fovea("packet", folder, "first", "ann", "--out", file)
    packet = Packet(file)
    work(packet.rater(packet.token))
    packet.close()
    told = fovea("import", folder, "first", file)
    assert "events of ann are in the log now (0 were before); phase: locked" in told
    assert "nothing new: the log has all" in fovea("import", folder, "first", file)
    assert "all have locked" in fovea("status", folder, "first")
    assert "does not exist" in fovea("import", folder, "first", tmp_path / "none", code=2)
    assert "does not exist" in fovea("rate", tmp_path / "none", code=2)


def test_what_is_missing_is_said(folder: Path):
    assert "no arm is named; add --arm" in fovea("new", folder, "x", code=2)
    assert "no rater is named; add --rater" in fovea("new", folder, "x", *ARMS, code=2)
    assert "no study 'x'; it has none" in fovea("status", folder, "x", code=2)
    assert "'human' or 'scripted'" in fovea("new", folder, "x", *ARMS, "--rater", "a:robot", code=2)
    assert "no evidence" in fovea("new", folder / "no", "x", *ARMS, "--rater", "a", code=2)


def test_hidden_characters_are_shown():
    assert visible("a\0b\u202ec\u200bd\ud800\x9b") == "a\u2400b<U+202E>c<U+200B>d<U+D800><U+009B>"
    plain = "tab\tline\nfamily \U0001f468\u200d\U0001f469 \u6570\u5b66 \u2014 e\u0301"
    assert visible(plain) == plain
