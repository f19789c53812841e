"""fovea's own worker: fovea.bench.protocol runs this file as it runs a peer's."""

from typing import Any

from fovea.bench import evals, passes, roofline, steps
from fovea.bench.protocol import Prepare, Results, Unit

KINDS: dict[str, Prepare] = {
    "step": steps.step,
    "dense_step": steps.dense_step,
    "encoder": steps.encoder_product,
    "matmul": steps.matmul,
    "quality": steps.quality,
    "harvest": passes.harvest,
    "line": passes.line,
    "e2e": passes.end_to_end,
    "memory": passes.memory,
    "eval": evals.evaluation,
    "whole_forwards": evals.whole_forwards,
    "copy": roofline.copy,
    "after": roofline.after,
}


def prepare(task: dict[str, Any]) -> tuple[Unit, Results]:
    """The workload that `task["kind"]` names; "profiled" is one whose results say where its time goes."""
    if task["kind"] == "profiled":
        unit, _ = prepare(task["of"])
        return unit, lambda: {"share of time": roofline.shares(unit)}
    return KINDS[task["kind"]](task)
