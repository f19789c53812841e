"""Agreement with SAELens 6.54 where it is right: numbers of its own code, stored with version and tolerance."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fovea.data.activations import TokenFilter
from fovea.data.tokens import TokenBatch
from fovea.eval.candidates import GENERAL, MEAN, ZERO, Ablation, Alone, GeneralAlone, general_reconstruction
from fovea.eval.density import count_firing
from fovea.eval.downstream import Bench, add_batch
from fovea.eval.metrics import LM_METRICS, METRICS, point_totals
from fovea.eval.sums import empty_sums
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM
from golden.make_saelens_eval import LAYER, Case, case
from lm import tiny

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "saelens_eval.json").read_text())


class ReLU:
    """The case's SAE."""

    def __init__(self, made: Case) -> None:
        self.made = made

    def encode(self, x: Tensor) -> Tensor:
        return ((x - self.made.b_dec) @ self.made.W_enc + self.made.b_enc).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.made.W_dec + self.made.b_dec


@pytest.fixture(scope="module")
def found() -> dict[str, float | list[float]]:
    """Our numbers for the case, under SAELens's names; every position is kept, as there."""
    made = case()
    lm = LM(made.model, tiny.tokenizer(), name="tiny")
    sae = ReLU(made)
    hook_point = HookPoint(LAYER, "resid_post")
    bench = Bench(lm, hook_point, TokenFilter(frozenset(), skip_first=0), general_reconstruction(sae), made.b_dec, 16)
    documents = torch.arange(len(made.tokens))[:, None].expand_as(made.tokens).contiguous()
    places = torch.arange(made.tokens.shape[1]).expand_as(made.tokens).contiguous()
    sums = empty_sums(torch.arange(len(made.tokens)), [GENERAL, ZERO, MEAN, "sae"], d_in=lm.d_model)
    ablations = [Ablation(ZERO, torch.zeros(lm.d_model)), Ablation(MEAN, made.b_dec)]
    candidates = [GeneralAlone(), *ablations, Alone("sae", sae)]
    x = lm.activations(made.tokens, hook_point).flatten(0, 1)
    with torch.inference_mode():
        add_batch(bench, TokenBatch(made.tokens, documents, places), candidates=candidates, sums=sums)
    sae_totals, zero_totals = (point_totals(sums)[name] for name in ("sae", ZERO))
    kl_zero = METRICS["kl"](zero_totals)[0]
    counted = count_firing([_Rows(x, documents.flatten())], {"sae": sae.encode})["sae"]
    return {
        "ce_loss_without_sae": LM_METRICS["ce_clean"](sae_totals)[0],
        "ce_loss_with_ablation": LM_METRICS["ce_zero"](sae_totals)[0],
        "ce_loss_with_sae": METRICS["ce"](sae_totals)[0],
        "ce_loss_score": METRICS["loss_recovered_zero"](sae_totals)[0],
        "kl_div_with_sae": METRICS["kl"](sae_totals)[0],
        "kl_div_with_ablation": kl_zero,
        "kl_div_score": 1 - METRICS["kl"](sae_totals)[0] / kl_zero,
        "explained_variance": 1 - METRICS["fvu"](sae_totals)[0],
        "l0": METRICS["l0"](sae_totals)[0],
        "feature_density": (counted.counts / counted.n_tokens).tolist(),
    }


class _Rows:
    def __init__(self, x: Tensor, documents: Tensor) -> None:
        self.x, self.documents = x, documents


@pytest.mark.parametrize("name", sorted(GOLDEN["numbers"]))
def test_numbers_agree_with_saelens(name: str, found: dict[str, float | list[float]]):
    assert found[name] == pytest.approx(GOLDEN["numbers"][name], rel=GOLDEN["relative_tolerance"])


def test_the_golden_case_is_not_trivial():
    numbers = GOLDEN["numbers"]
    assert GOLDEN["versions"]["sae-lens"].startswith("6.54")
    assert 0.1 < numbers["ce_loss_score"] < 0.95
    assert 0.1 < numbers["explained_variance"] < 0.95
