"""`fovea show --lm --text`: an SAE that fits says so with a figure, one that does not is warned of or refused."""

from pathlib import Path

import pytest
import torch

from fovea.errors import ConfigError, CorpusError, SAEError
from fovea.experiment.trial import trial_text, try_sae
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.sae.base import Weights
from fovea.sae.files import LoadedSAE, SAEMetadata, read_sae, save_sae
from fovea.sae.relu import ReLUSAE
from tests.experiment.tiny import HOOK_POINT, save_corpus, save_general, save_lm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An lm and text."""
    folder = tmp_path_factory.mktemp("trial")
    save_lm(folder / "lm")
    save_corpus(folder / "text.jsonl", words=range(3, 90))
    return folder


def perfect(d_in: int) -> ReLUSAE:
    """An SAE that rebuilds everything: a direction and its opposite for each entry of x, around b_dec."""
    eye = torch.eye(d_in)
    return ReLUSAE(Weights(torch.cat([eye, -eye], dim=1), torch.cat([eye, -eye]), torch.full((d_in,), 0.5), "tied"))


def saved(folder: Path, sae: ReLUSAE, **metadata: object) -> str:
    save_sae(sae, folder, metadata=SAEMetadata(hook_name=HOOK_POINT, **metadata))  # pyright: ignore[reportArgumentType]
    return str(folder)


def told(place: Path, sae: str) -> str:
    return trial_text(sae, lm=str(place / "lm"), text=str(place / "text.jsonl"), hook_point=None)


def test_an_sae_that_fits_is_given_its_figure_without_a_warning(place: Path, tmp_path: Path) -> None:
    d_in = load_lm(str(place / "lm")).d_model
    found = try_sae(saved(tmp_path / "s", perfect(d_in)), lm=str(place / "lm"), text=str(place / "text.jsonl"))
    assert found.found.fvu < 1e-6
    assert found.l0 == pytest.approx(d_in, abs=0.01)
    assert 1000 < found.n_tokens <= 2048
    assert HOOK_POINT in str(found)
    assert "warning" not in str(found)


def test_a_misread_convention_is_named(place: Path, tmp_path: Path) -> None:
    lm = load_lm(str(place / "lm"))
    x = lm.activations(torch.arange(3, 60)[None], HookPoint.parse(HOOK_POINT))[0]
    sae = perfect(lm.d_model)
    sae.set_tensors({"b_dec": x.mean(dim=0) + 20 * x.std()})
    reference = saved(tmp_path / "s", sae)
    cfg = (tmp_path / "s" / "cfg.json").read_text()
    (tmp_path / "s" / "cfg.json").write_text(
        cfg.replace('"apply_b_dec_to_input": true', '"apply_b_dec_to_input": false')
    )
    assert "b_dec is subtracted from x before the encoder: a convention of its file looks misread" in told(
        place, reference
    )


def test_an_sae_of_another_lm_is_warned_of(place: Path, tmp_path: Path) -> None:
    d_in = load_lm(str(place / "lm")).d_model
    assert "trained on org/other-lm" in told(place, saved(tmp_path / "s", perfect(d_in), model_name="org/other-lm"))


def test_wrong_pairings_are_refused_with_the_reason(place: Path, tmp_path: Path) -> None:
    d_in = load_lm(str(place / "lm")).d_model
    with pytest.raises(SAEError, match=f"reads vectors of width {d_in + 1}, but .* has width {d_in}"):
        told(place, saved(tmp_path / "wide", perfect(d_in + 1)))
    other = str(save_general(tmp_path / "other", hook_point="blocks.0.hook_resid_post"))
    with pytest.raises(SAEError, match=r"is for hook point 'blocks.0.hook_resid_post', but"):
        try_sae(other, lm=str(place / "lm"), text=str(place / "text.jsonl"), hook_point=HOOK_POINT)
    assert try_sae(other, lm=str(place / "lm"), text=str(place / "text.jsonl")).hook_point == "blocks.0.hook_resid_post"


def test_what_is_missing_is_said(place: Path, tmp_path: Path) -> None:
    sae = perfect(load_lm(str(place / "lm")).d_model)
    save_sae(sae, tmp_path / "s", metadata=SAEMetadata())
    with pytest.raises(ConfigError, match="names no hook point; say it with --hook-point"):
        told(place, str(tmp_path / "s"))
    for lm, text, missing in ((None, "a.txt", "--lm"), ("m", None, "--text")):
        with pytest.raises(ConfigError, match=f"{missing} is missing"):
            trial_text(str(tmp_path / "s"), lm=lm, text=text, hook_point=None)
    (tmp_path / "short.txt").write_text("w5")
    with pytest.raises(CorpusError, match="less than one context"):
        trial_text(saved(tmp_path / "t", sae), lm=str(place / "lm"), text=str(tmp_path / "short.txt"), hook_point=None)


def test_a_stack_of_blocks_says_its_rules(tmp_path: Path) -> None:
    from fovea.sae.show import describe
    from fovea.sae.stack import stack
    from tests.sae.cases import build

    save_sae(stack(build("topk"), build("relu", seed=3)), tmp_path, metadata=SAEMetadata())
    assert isinstance(read_sae(tmp_path), LoadedSAE)
    assert "fovea_blocks: 40 with k = 5 + 40 with thresholds" in describe(str(tmp_path))
