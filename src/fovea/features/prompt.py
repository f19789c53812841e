"""Which latents fire on which token of a text that someone types, for every SAE of a run.

    text --tokens--> contexts as in the run --lm, once--> x --each SAE's encoder--> the latents above zero, per token

The lm and the SAEs are loaded once. A token that measurement leaves out (special, at the start of a context, of massive
norm) is left out here too, and says so.
"""

import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fovea.config import load_toml
from fovea.data.activations import TokenFilter
from fovea.data.tokenizer import PlainTokenizer
from fovea.errors import ConfigError
from fovea.features.files import Paths, read_manifest
from fovea.features.text import pieces, read_vocabulary
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.sae.files import read_sae

MAX_CHARACTERS, MAX_TOKENS = 20_000, 2_048


class PromptToken(NamedTuple):
    """One token of the text."""

    text: str
    token_id: int
    counted: bool
    "False where measurement leaves such a token out; then nothing fires."


class Fired(NamedTuple):
    """A latent above zero."""

    latent: int
    activation: float


class JobFirings(NamedTuple):
    """What one SAE does on the text."""

    job: str
    tokens: tuple[tuple[Fired, ...], ...]
    "For each token the latents that fire, strongest first."


class Prompt(NamedTuple):
    """A text as every SAE of a run sees it."""

    tokens: tuple[PromptToken, ...]
    jobs: tuple[JobFirings, ...]


class Prompter:
    """The lm and all SAEs of a run, ready for any text; one text at a time.

    Raises:
        RunError: the run has no evidence, or it is stale.
    """

    def __init__(self, run: Path) -> None:
        manifest = read_manifest(run)
        settings = load_toml(run / "experiment.toml")
        about: dict[str, Any] = settings["lm"]
        self._lm = load_lm(about["model"], dtype=about["dtype"], device=about["device"])
        self._hook_point = HookPoint.parse(about["hook_point"])
        self._filter = TokenFilter.read(run / "calibration" / "filter.json", run)
        self._tokenizer = PlainTokenizer(self._lm.tokenizer)
        self._vocabulary = read_vocabulary(Paths.of(run).vocabulary)
        wants_bos = settings["text"]["prepend_bos"]
        self._bos = self._lm.bos_id if (self._lm.adds_bos if wants_bos == "auto" else wants_bos) else None
        self._context_size: int = settings["text"]["context_size"]
        self._encoders: dict[str, Callable[[Tensor], Tensor]] = {
            job: read_sae(run / entry["sae"]).sae.encode for job, entry in manifest["jobs"].items()
        }
        self._lock = threading.Lock()

    @torch.inference_mode()
    def fire(self, text: str) -> Prompt:
        """The latents that fire on each token of `text`.

        Raises:
            ConfigError: the text is empty or too long.
        """
        ids = self._ids(text)
        with self._lock:
            x, kept = self._activations(ids)
            jobs = tuple(JobFirings(job, _fired(encode(x), kept)) for job, encode in self._encoders.items())
        data = [self._vocabulary.tokens[index] for index in ids]
        if self._vocabulary.added_space:
            data[0] = data[0].removeprefix(b" ")
        shown = zip(pieces(data), ids, kept, strict=True)
        return Prompt(tuple(PromptToken(*token) for token in shown), jobs)

    def _ids(self, text: str) -> list[int]:
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"the text has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read; shorten it")
        # A lone surrogate is no text and has no bytes.
        (ids,) = self._tokenizer.encode([text.encode("utf-8", "replace").decode()])
        if not ids:
            raise ConfigError("the text is empty; type some words")
        if len(ids) > MAX_TOKENS:
            raise ConfigError(f"the text has {len(ids):,} tokens, at most {MAX_TOKENS:,} are read; shorten it")
        return ids

    def _activations(self, ids: list[int]) -> tuple[Tensor, list[bool]]:
        """x of the tokens that count, and which those are; contexts of the run's size, as in its corpora."""
        first = [] if self._bos is None else [self._bos]
        size = self._context_size - len(first)
        rows: list[Tensor] = []
        kept: list[bool] = []
        for start in range(0, len(ids), size):
            tokens = torch.tensor([[*first, *ids[start : start + size]]])
            x = self._lm.activations(tokens.to(self._lm.device), self._hook_point)
            counted = self._filter.keep(tokens, x)[0].cpu()
            rows.append(x[0].cpu()[counted])
            kept += counted[len(first) :].tolist()
        return torch.cat(rows), kept


def _fired(latents: Tensor, kept: list[bool]) -> tuple[tuple[Fired, ...], ...]:
    rows = iter(latents)
    return tuple(_of_token(next(rows)) if counted else () for counted in kept)


def _of_token(latents: Tensor) -> tuple[Fired, ...]:
    index = latents.nonzero()[:, 0]
    values, order = latents[index].sort(descending=True, stable=True)
    return tuple(Fired(*one) for one in zip(index[order].tolist(), values.tolist(), strict=True))


@lru_cache(maxsize=1)
def _prompter(run: Path) -> Prompter:
    return Prompter(run)


def fire(run: Path, text: str) -> Prompt:
    """The latents of every SAE of a run that fire on each token of `text`; lm and SAEs are loaded on the first call.

    Raises:
        RunError: the run has no evidence, or it is stale.
        ConfigError: the text is empty or too long.
    """
    return _prompter(run.resolve()).fire(text)
