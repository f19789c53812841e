"""Evaluation workloads: fovea's one pass over all SAEs, and the same numbers by whole forwards of the lm.

Each has the shape of fovea.bench.protocol.Prepare: task --> (unit, results).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fovea.bench.config import PassConfig
from fovea.bench.material import Loaded, load_subject
from fovea.bench.protocol import Results, Unit
from fovea.data.activations import TokenFilter, spread
from fovea.data.tokens import TokenBatch
from fovea.eval.candidates import Alone
from fovea.eval.downstream import Bench, evaluate, positions
from fovea.lm.model import LM
from fovea.sae.base import SAE
from fovea.sae.files import read_sae


def evaluation(task: dict[str, Any]) -> tuple[Unit, Results]:
    """fovea.eval.downstream.evaluate: CE, KL, error and L0 of every SAE, of zero and of mean ablation.

    Without `task["same"]` no KL and no ablations: CE, error and L0 of every SAE.
    """
    subject, saes = _subject(task)
    mean = torch.zeros(subject.lm.d_model)
    bench = Bench(subject.lm, subject.hook_point, subject.token_filter, None, mean, ce_alone=not task["same"])
    candidates = [Alone(name, sae) for name, sae in saes.items()]
    found: dict[str, float] = {}

    def unit() -> int:
        packed = subject.corpus.heldout
        sums = evaluate(
            bench,
            packed,
            candidates=candidates,
            n_contexts=task["n_contexts"],
            contexts_per_batch=task["contexts_per_batch"],
        )
        n_scored = sums.corpus.n_scored.sum()
        found.update({name: float(sums.candidates[name].ce.sum() / n_scored) for name in saes})
        return task["n_contexts"] * packed.context_size

    return unit, lambda: {"ce": found}


def whole_forwards(task: dict[str, Any]) -> tuple[Unit, Results]:
    """The clean lm and each SAE by a forward through all layers and the whole head; CE alone, or CE and KL.

    With `task["same"]` the ablations and KL are measured too, as fovea's own evaluation does.
    """
    subject, saes = _subject(task)
    lm, packed = subject.lm, subject.corpus.heldout
    replaced: dict[str, Callable[[Tensor], Tensor]] = dict(saes)
    if task["same"]:
        replaced |= {"zero": torch.zeros_like, "mean": torch.zeros_like}
    found: dict[str, float] = {}

    @torch.inference_mode()
    def unit() -> int:
        indices = spread(packed.n_contexts, task["n_contexts"])
        total: dict[str, float] = dict.fromkeys(replaced, 0.0)
        n_scored = 0
        for start in range(0, len(indices), task["contexts_per_batch"]):
            batch = packed.batch(indices[start : start + task["contexts_per_batch"]])
            where = _Watched(subject.token_filter, batch)
            with lm.patched(subject.hook_point, where.watch):
                clean = _log_softmax(lm, batch.tokens)
            scored = where.scored[:, :-1]
            targets = batch.tokens[:, 1:][scored]
            n_scored += len(targets)
            log_p = clean[scored]
            for name, fn in replaced.items():
                with lm.patched(subject.hook_point, where.patch(fn)):
                    log_q = _log_softmax(lm, batch.tokens)[scored]
                total[name] -= float(log_q.gather(-1, targets[:, None]).double().sum())
                if task["same"]:
                    float((log_p.exp() * (log_p - log_q)).sum())
        found.update({name: value / n_scored for name, value in total.items()})
        return len(indices) * packed.context_size

    return unit, lambda: {"ce": {name: found[name] for name in saes if name in found}}


class _Watched:
    """Which positions of a batch are patched and scored, known once the clean forward has passed the hook point."""

    def __init__(self, token_filter: TokenFilter, batch: TokenBatch) -> None:
        self._filter, self._batch = token_filter, batch
        self.kept = self.scored = torch.zeros(0, dtype=torch.bool)

    def watch(self, x: Tensor) -> Tensor:
        """x as it is; its norms say which positions count."""
        self.kept, self.scored = positions(self._filter, self._batch, x=x)
        return x

    def patch(self, fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """fn(x) at the kept positions, x elsewhere."""

        def patched(x: Tensor) -> Tensor:
            x = x.clone()
            x[self.kept] = fn(x[self.kept])
            return x

        return patched


def _log_softmax(lm: LM, tokens: Tensor) -> Tensor:
    return lm.model(tokens, use_cache=False).logits[:, :-1].float().log_softmax(dim=-1)


def _subject(task: dict[str, Any]) -> tuple[Loaded, dict[str, SAE]]:
    folders = [Path(folder) for folder in task["saes"]]
    saes = {folder.name: read_sae(folder).sae.requires_grad_(False) for folder in folders}
    return load_subject(PassConfig(**task["lm"]), dtype=task["dtype"]), saes
