"""What the functions of `import fovea` return: a run as an object, a text as an SAE sees it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fovea.errors import RunError, SAEError
from fovea.eval.records import metrics_frame
from fovea.experiment.calibration import read_filter
from fovea.experiment.config import ExperimentConfig, JobConfig
from fovea.experiment.fit import jobs_of
from fovea.experiment.folder import RunFolder
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM
from fovea.sae.files import LoadedSAE, read_sae

if TYPE_CHECKING:
    import pandas as pd


MASSIVE = 10.0
"Multiple of the median norm above which a token is an attention sink."


class Encoding(NamedTuple):
    """A text as an SAE sees it, BOS left out."""

    tokens: list[str]
    latents: Float[Tensor, "tokens d_sae"]
    "0 where `is_massive`."
    is_massive: Bool[Tensor, " tokens"]
    "Tokens over 10 times as long as the median of the text, like the first one of most lms: no SAE is trained on them."


class Run:
    """A finished run folder.

    Raises:
        RunError: the folder is not a run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = RunFolder(folder)
        self.config: ExperimentConfig = self._folder.config()

    @property
    def jobs(self) -> list[str]:
        """Names of the trained jobs."""
        return sorted(path.parent.name for path in self._folder.saes.glob("*/job.json"))

    def metrics(self) -> "pd.DataFrame":
        """Every record of metrics.jsonl, a row each.

        Raises:
            RunError: the run has not been measured.
        """
        return metrics_frame(self._folder.metrics)

    def general(self) -> LoadedSAE:
        """g, as the run used it."""
        return read_sae(self._folder.general)

    def sae(self, job: str) -> LoadedSAE:
        """The SAE of a job.

        Raises:
            RunError: the run has no such job.
        """
        if job not in self.jobs:
            raise RunError(f"run {str(self._folder.path)!r} has no job {job!r}; it has: {', '.join(self.jobs)}")
        return read_sae(self._folder.saes / job)

    def patched(self, lm: LM, job: str) -> AbstractContextManager[None]:
        """Context in which `lm.model` runs with the job's reconstruction of x.

        Massive-norm tokens (the first of a text, as a rule) keep their activation, as in measurement. Measurement also
        spares special tokens and positions below skip_first, which a patch on activations cannot see.
        """
        rebuild = self._rebuild(job)
        max_norm = read_filter(self._folder).max_norm
        return lm.patched(HookPoint.parse(self.config.lm.hook_point), _sparing_massive(rebuild, max_norm))

    def _rebuild(self, job: str) -> Callable[[Tensor], Tensor]:
        sae, method = self.sae(job).sae, self._job_config(job).method
        general = self.general().sae if method.adds_general else None
        return lambda x: method.combine(None if general is None else general(x), sae(x))

    def _job_config(self, job: str) -> JobConfig:
        for domain in self.config.domain:
            if job in (found := jobs_of(self.config, domain)):
                return found[job]
        raise RunError(f"the experiment of {str(self._folder.path)!r} has no job {job!r}; its folder was changed")


@torch.inference_mode()
def encode_text(lm: LM, sae: LoadedSAE, text: str) -> Encoding:
    """Latents of `sae` on every token of `text`, at the hook point that its file names.

    Raises:
        SAEError: the file names no hook point.
    """
    if sae.metadata.hook_name is None:
        raise SAEError(
            f"SAE {sae.reference!r} names no hook point, so its place in the lm is unknown; save it with one"
        )
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    n_before = int(bool(sae.metadata.prepend_bos))
    if n_before:
        assert lm.bos_id is not None, "an SAE trained with BOS belongs to an lm that has one"
        ids = [lm.bos_id, *ids]
    x = lm.activations(torch.tensor([ids], device=lm.device), HookPoint.parse(sae.metadata.hook_name))[0]
    tokens = [str(lm.tokenizer.decode([i])) for i in ids[n_before:]]
    rows = x[n_before:].cpu()
    norms = rows.norm(dim=-1)
    is_massive = norms > MASSIVE * norms.median()
    return Encoding(tokens, sae.sae.encode(rows).masked_fill(is_massive[:, None], 0.0), is_massive)


def _sparing_massive(rebuild: Callable[[Tensor], Tensor], max_norm: float | None) -> Callable[[Tensor], Tensor]:
    """`rebuild`, but vectors longer than `max_norm` stay as they are."""

    def patch(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        x_hat = rebuild(x.cpu()).to(x)
        return x_hat if max_norm is None else torch.where(x.norm(dim=-1, keepdim=True) > max_norm, x, x_hat)

    return patch
