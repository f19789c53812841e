"""Every formula on cases worked out by hand, and against a float64 oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.made_sums import at_random, by_hand, candidate
from fovea.eval.definitions import DEFINITIONS
from fovea.eval.metrics import LM_METRICS, METRICS, Totals, gap, point_totals
from fovea.eval.sums import Sums, add_by_row, empty_sums


def two_documents() -> Sums:
    """Two documents of 4 and 6 scored tokens; every number below follows from these."""
    return by_hand(
        {
            "g": candidate(ce=[14.0, 16.0], kl=[3.0, 4.0], error_sq=[20.0, 30.0], l0_general=[40.0, 60.0]),
            "zero": candidate(ce=[40.0, 60.0]),
            "mean": candidate(ce=[30.0, 50.0]),
            "a": candidate(
                ce=[11.0, 14.0],
                kl=[1.0, 1.5],
                gain_masked=[2.0, 4.0],
                error_sq=[8.0, 12.0],
                l0_general=[40.0, 60.0],
                l0_domain=[4.0, 8.0],
            ),
        },
        n_tokens=[5.0, 7.0],
        n_scored=[4.0, 6.0],
        n_masked=[3.0, 4.0],
        sum_x=[[3.0, 0.0], [9.0, 0.0]],
        sum_x_sq=[50.0, 62.0],
        ce_clean=[8.0, 12.0],
        gap_masked=[6.0, 6.0],
    )


def value(totals: Totals, metric: str) -> float:
    return {**METRICS, **LM_METRICS}[metric](totals)[0].item()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("ce_clean", 20 / 10),
        ("ce_g", 30 / 10),
        ("ce_zero", 100 / 10),
        ("ce_mean", 80 / 10),
        ("ce", 25 / 10),
        ("delta_ce", (25 - 20) / 10),
        ("kl", 2.5 / 10),
        ("loss_recovered_gap", (30 - 25) / (30 - 20)),
        ("loss_recovered_gap_masked", 6 / 12),
        ("loss_recovered_zero", (100 - 25) / (100 - 20)),
        ("loss_recovered_mean", (80 - 25) / (80 - 20)),
        ("fvu", 20 / (112 - 12**2 / 12)),
        ("fvu_recovered", (50 - 20) / 50),
        ("l0", (100 + 12) / 12),
        ("l0_general", 100 / 12),
        ("l0_domain", 12 / 12),
    ],
)
def test_each_formula_gives_the_number_worked_out_by_hand(metric: str, expected: float):
    assert value(point_totals(two_documents())["a"], metric) == expected


def test_g_recovers_nothing_of_its_own_gap_and_the_unpatched_lm_all_of_it():
    sums = two_documents()
    sums.candidates["perfect"] = candidate(ce=[8.0, 12.0])
    totals = point_totals(sums)
    assert value(totals["g"], "loss_recovered_gap") == 0.0
    assert value(totals["g"], "fvu_recovered") == 0.0
    assert value(totals["perfect"], "loss_recovered_gap") == 1.0
    assert value(totals["perfect"], "fvu") == 0.0


def test_gaps_are_per_scored_token():
    totals = point_totals(two_documents())["a"]
    assert [gap(name)(totals)[0] for name in ("g", "zero", "mean")] == [1.0, 8.0, 6.0]


def test_the_mask_turns_damage_into_apparent_recovery():
    """Two tokens: g hurts the first and helps the second; the candidate undoes both, which is no gain at all."""
    clean, general, new = torch.tensor([[2.0, 2.0], [3.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    masked = general - clean > 0.001
    sums = by_hand(
        {
            "g": candidate(ce=[general.sum().item()]),
            "a": candidate(ce=[new.sum().item()], gain_masked=[(general - new)[masked].sum().item()]),
        },
        n_scored=[2.0],
        ce_clean=[clean.sum().item()],
        gap_masked=[(general - clean)[masked].sum().item()],
    )
    totals = point_totals(sums)["a"]
    assert value(totals, "loss_recovered_gap_masked") == 1.0
    assert math.isnan(value(totals, "loss_recovered_gap"))


def test_without_a_general_sae_only_what_refers_to_it_is_missing():
    sums = at_random(0)
    del sums.candidates["g"]
    totals = point_totals(sums)["a"]
    missing = {metric for metric in {**METRICS, **LM_METRICS} if math.isnan(value(totals, metric))}
    assert missing == {"ce_g", "loss_recovered_gap", "loss_recovered_gap_masked", "fvu_recovered"}


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_fvu_is_the_same_however_the_tokens_are_batched(sizes: list[int], seed: int):
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes) + 1
    x, x_hat = torch.randn(2, n, 4, generator=generator).unbind()
    x = x * torch.tensor([1.0, 1.0, 1.0, 300.0]) + 50
    documents = torch.randint(0, 3, (n,), generator=generator)
    sums = empty_sums(torch.arange(3), ["a", "zero", "mean"], d_in=4)
    for rows, part, part_hat in zip(*(v.split([*sizes, 1]) for v in (documents, x, x_hat)), strict=True):
        add_by_row(sums.corpus.n_tokens, rows, torch.ones(len(rows)))
        add_by_row(sums.corpus.sum_x, rows, part)
        add_by_row(sums.corpus.sum_x_sq, rows, part.double().square().sum(dim=-1))
        add_by_row(sums.candidates["a"].error_sq, rows, (part.double() - part_hat.double()).square().sum(dim=-1))
    x, x_hat = x.double(), x_hat.double()
    oracle = (x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert value(point_totals(sums)["a"], "fvu") == pytest.approx(oracle.item(), rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), order_seed=st.integers(0, 1000))
def test_metrics_do_not_depend_on_the_order_of_the_documents(seed: int, order_seed: int):
    sums = at_random(seed)
    order = torch.randperm(len(sums.documents), generator=torch.Generator().manual_seed(order_seed))
    shuffled = Sums(
        sums.documents,
        type(sums.corpus)(*(values[order] for values in sums.corpus)),
        {name: type(c)(*(values[order] for values in c)) for name, c in sums.candidates.items()},
    )
    for metric in METRICS:
        assert value(point_totals(shuffled)["b"], metric) == pytest.approx(
            value(point_totals(sums)["b"], metric), rel=1e-12
        )


def test_every_metric_has_a_definition_with_unit_direction_and_formula():
    for metric in {**METRICS, **LM_METRICS}:
        definition = DEFINITIONS[metric]
        assert definition.id == metric
        assert definition.unit in {"nats", "fraction", "latents", "cosine"}
        assert definition.formula
    assert DEFINITIONS["ce"].higher_is_better is False
    assert DEFINITIONS["loss_recovered_gap"].higher_is_better is True
    assert DEFINITIONS["l0"].higher_is_better is None


def test_totals_are_float64():
    assert {values.dtype for values in point_totals(at_random(0))["a"]} == {np.dtype("float64")}
