"""The roofline on a tiny lm: limits, stages, and the kinds of operations that time goes to."""

import pytest
import torch

from fovea.bench import roofline
from fovea.bench.driver import OURS, Measured, Round, Variant
from fovea.bench.ours import prepare
from fovea.bench.suite import PEAK, Plan
from tests.bench.test_passes import config

__all__ = ["config"]


def ran(name: str, seconds: float, *, flops: float | None = None, n_bytes: float | None = None) -> Measured:
    task = {"kind": "profiled"} | ({} if n_bytes is None else {"bytes_per_token": n_bytes})
    shares = {"share of time": {"products": 1.0}}
    return Measured(Variant(name, OURS, task, flops), [Round(seconds, seconds, 1_000_000, None)], 1, shares, None)


def test_a_stage_is_bounded_by_arithmetic_or_by_memory():
    copied = roofline._COPY_NUMBERS * 8.0
    found = roofline.roofline_numbers(
        [
            [
                ran(PEAK, 1.0, flops=100e3),  # 100 GFLOP/s
                ran(roofline.COPY, 1_000_000 * copied / 10e9),  # 10 GB/s
                ran("dense", 2.0, flops=100e3, n_bytes=1.0),
                ran("sparse", 2.0, flops=10e3, n_bytes=10e3),
            ]
        ]
    )
    assert found["memory bandwidth, GB/s"] == pytest.approx(10.0)
    dense, sparse = found["stages"]["dense"], found["stages"]["sparse"]
    assert (dense["limit_gflops"], dense["share_of_limit"]) == (pytest.approx(100.0), pytest.approx(0.5))
    assert (sparse["limit_gflops"], sparse["share_of_limit"]) == (pytest.approx(10.0), pytest.approx(0.5))
    assert sparse["flops_per_byte"] == pytest.approx(1.0)
    assert roofline.roofline_numbers([[ran("dense", 1.0, flops=1.0, n_bytes=1.0)]]) == {}


def test_shares_of_time_are_by_kind_of_operation():
    a = torch.randn(256, 256)

    def unit() -> int:
        (a @ a).topk(8)
        return 1

    found = roofline.shares(unit)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["products"] > 0
    assert found["selection"] > 0


def test_every_stage_of_a_run_is_there_and_runs(config):
    (group,) = roofline.roofline_groups(Plan(config, {}))
    stages = [variant for variant in group.variants if "bytes_per_token" in variant.task]
    assert [variant.name.partition(",")[0] for variant in stages][:2] == ["lm to the hook point", "lm after it"]
    assert len(stages) == 2 + 2 * len(config.step.d_sae)
    for variant in stages[:4]:
        unit, results = prepare(dict(variant.task))
        assert unit() > 0
        assert (variant.flops_per_token or 0) > 0
        assert results()["share of time"]["products"] > 0
    unit, _ = prepare({"kind": "copy", "numbers": 64})
    assert unit() == 1
