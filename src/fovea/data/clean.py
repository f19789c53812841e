"""Perplexity cleaning: drop the pieces of a document that a language model finds too hard to predict.

    text --(n tokens each)--> pieces --(mean loss of each)--> loss <= max_loss ? --> the pieces kept, joined

Tables, broken scans and formula residue have a high loss; prose has a low one.
Source: the seed work kept 1,024-token chunks whose mean GPT-2-small loss was at most 4.0 to 4.3 nats, by subject. There
a kept chunk was a document of its own; here a document keeps its id, so that its split does not depend on max_loss.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from fovea.data.corpus import Document
from fovea.data.tokenizer import PlainTokenizer, pieces_of
from fovea.errors import ConfigError
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM

_LOGIT_ROWS = 256


class ScoredPiece(NamedTuple):
    """A stretch of a document and its mean loss in nats per predicted token; None where there is nothing to predict."""

    text: str
    loss: float | None


@runtime_checkable
class Scorer(Protocol):
    """Cuts a text into pieces and scores them; the pieces' texts joined are the text."""

    @property
    def key(self) -> str:
        """What decides the scores: equal keys give equal scores."""
        ...

    def __call__(self, text: str) -> list[ScoredPiece]: ...


class LMScorer:
    """Mean next-token loss of each piece of `n_tokens` tokens under any lm; nothing is put before a piece."""

    def __init__(self, lm: LM, *, n_tokens: int = 1024) -> None:
        if n_tokens < 2:
            raise ConfigError(f"clean.n_tokens = {n_tokens}, but a piece needs at least 2 tokens; 1024 is usual")
        self.lm, self.n_tokens = lm, n_tokens
        self.tokenizer = PlainTokenizer(lm.tokenizer)

    @property
    def key(self) -> str:
        """Fingerprint of the lm and size of the pieces."""
        return f"{self.lm.fingerprint} n_tokens={self.n_tokens}"

    def __call__(self, text: str) -> list[ScoredPiece]:
        return [scored for part in pieces_of(text) for scored in self._score(part)]

    def _score(self, text: str) -> Iterator[ScoredPiece]:
        tokens = self.tokenizer.encode_with_starts(text)
        firsts = range(0, len(tokens), self.n_tokens)
        cuts = [0, *(tokens[first].start for first in firsts[1:]), len(text)]
        for first, start, end in zip(firsts, cuts[:-1], cuts[1:], strict=True):
            ids = torch.tensor([[token.id for token in tokens[first : first + self.n_tokens]]])
            yield ScoredPiece(text[start:end], mean_loss(self.lm, ids).item() if ids.shape[1] > 1 else None)


@torch.inference_mode()
def mean_loss(lm: LM, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
    """Mean cross-entropy in nats of each row's tokens after the first, given those before them."""
    prefix = lm.prefix(tokens.to(lm.device), HookPoint(0, "resid_pre"))
    hidden = lm.resume(prefix, prefix.x)[:, :-1]
    targets = tokens[:, 1:].to(lm.device)
    rows = zip(hidden.flatten(0, 1).split(_LOGIT_ROWS), targets.flatten().split(_LOGIT_ROWS), strict=True)
    losses = torch.cat([cross_entropy(lm.logits(part), target, reduction="none") for part, target in rows])
    return losses.view_as(targets).double().mean(dim=1).float().cpu()


class Cleaner:
    """Documents with their hard pieces left out, and without those that are hard throughout; all of it is counted.

    Pieces that can not be scored (a single token) are dropped. Kept pieces that were neighbours stay as they were;
    others are joined by a newline.
    """

    def __init__(self, scorer: Scorer, *, max_loss: float) -> None:
        if not max_loss > 0:
            raise ConfigError(
                f"clean.max_loss = {max_loss}, but it must be above 0 nats; the seed work used 4.0 to 4.3"
            )
        self.scorer, self.max_loss = scorer, max_loss
        self.n_kept = self.n_dropped = self.n_documents_dropped = 0

    @property
    def key(self) -> str:
        """What decides which pieces are kept."""
        return f"{self.scorer.key} max_loss={self.max_loss!r}"

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        self.n_kept = self.n_dropped = self.n_documents_dropped = 0
        for document in documents:
            text = self._cleaned(document.text)
            if text:
                yield document._replace(text=text)
            else:
                self.n_documents_dropped += 1

    def _cleaned(self, text: str) -> str:
        runs: list[list[str]] = [[]]
        for piece in self.scorer(text):
            keep = piece.loss is not None and piece.loss <= self.max_loss
            self.n_kept += keep
            self.n_dropped += not keep
            if keep:
                runs[-1].append(piece.text)
            elif runs[-1]:
                runs.append([])
        return "\n".join("".join(run) for run in runs if run).strip()
