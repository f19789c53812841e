"""Cross-entropy and KL of the lm with each candidate's reconstruction in place of its activations: one pass for all.

    tokens --prefix, once--> x --candidate--> x_hat --resume--> hidden --head, in chunks of scored rows--> CE, KL
                             `--resume--> clean hidden -----------^ (clean log-probabilities once per chunk)

Kept positions (the token filter's, inside a document) are patched and count for FVU and L0; the others keep their
original activation. Position p is scored for CE and KL if it is kept, is not the last of its context and its target,
the token at p + 1, is not special. CE and KL come from fp32 log-softmax; sums are float64.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fovea.data.activations import TokenFilter, spread
from fovea.data.tokens import PackedTokens, TokenBatch
from fovea.errors import ConfigError, CorpusError
from fovea.eval.candidates import GENERAL, MEAN, ZERO, Ablation, Candidate, EvalBatch, GeneralAlone, Reconstruction
from fovea.eval.sums import Sums, add_by_row, empty_sums, rows_of, summed, without_empty_documents
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM, Prefix
from fovea.ranks import ALONE, Ranks

MASK_NATS = 0.001
"A token is in the seed's mask if g raises its loss by more than this."
_HELD_AT_ONCE = 16
"Candidates whose hidden states are held while the head runs: bounds memory at the cost of one clean head per group."
_CLEAN = ""


class Bench(NamedTuple):
    """What all evaluations of a run share."""

    lm: LM
    hook_point: HookPoint
    token_filter: TokenFilter
    general: Callable[[Tensor], Reconstruction] | None
    "g, or None when the run has no general SAE; see candidates.general_reconstruction."
    mean: Float[Tensor, " d_in"]
    "Mean kept activation of the general training text (of D's where there is none): what mean ablation puts in."
    rows_per_chunk: int = 512
    "Scored tokens per call of the lm's head; 256 to 1024 is fastest on CPUs."
    ce_alone: bool = False
    "Leave out KL (then nan) and the ablations: nothing is run that CE and FVU of the candidates do not need."
    ranks: Ranks = ALONE
    "Batches are dealt to them in turn, so each is the same whoever evaluates it; the sums are those of all."
    device: torch.device | str = "cpu"
    "Where the SAEs lie, g among them."


class Positions(NamedTuple):
    """Which positions of a token batch count for what."""

    kept: Bool[Tensor, "batch pos"]
    scored: Bool[Tensor, "batch pos"]


class TokenLosses(NamedTuple):
    """Loss of each scored token under one candidate, nats."""

    ce: Float[Tensor, " tokens"]
    kl: Float[Tensor, " tokens"]
    "KL(clean || patched); nan where it was not asked for."


def evaluate(
    bench: Bench,
    packed: PackedTokens,
    *,
    candidates: Sequence[Candidate],
    n_contexts: int,
    contexts_per_batch: int,
    observe: Callable[[int, int], None] | None = None,
) -> Sums:
    """Per-document sums over `n_contexts` contexts, spread evenly over `packed`, for the candidates, g and ablations.

    Args:
        observe: Called after each batch with the number of contexts done and the number there are to do; the other
            ranks are taken to be as far.

    Raises:
        ConfigError: two candidates share a name.
        CorpusError: no token of these contexts is kept.
    """
    references = [GeneralAlone()] if bench.general is not None else []
    ablations = [Ablation(ZERO, torch.zeros_like(bench.mean)), Ablation(MEAN, bench.mean)]
    everyone = [*references, *([] if bench.ce_alone else ablations), *candidates]
    names = [candidate.name for candidate in everyone]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(
            f"candidates to evaluate share the names {twice}; names must differ, and {[GENERAL, ZERO, MEAN]} are taken"
        )
    indices = spread(packed.n_contexts, n_contexts)
    batches = [indices[start : start + contexts_per_batch] for start in range(0, len(indices), contexts_per_batch)]
    documents = torch.cat([packed.batch(batch).documents.flatten() for batch in batches]).unique()
    sums = empty_sums(documents[documents >= 0], names, d_in=len(bench.mean))
    done = 0
    with torch.inference_mode():
        for batch in batches[bench.ranks.rank :: bench.ranks.size]:
            add_batch(bench, packed.batch(batch), candidates=everyone, sums=sums)
            done += len(batch) * bench.ranks.size
            if observe is not None:
                observe(min(done, len(indices)), len(indices))
    sums = summed(sums, bench.ranks)
    if not sums.corpus.n_tokens.any():
        raise CorpusError(
            f"corpus {packed.name!r} ({packed.split}): no token of its {len(indices)} contexts is kept; give more text"
        )
    return without_empty_documents(sums)


def positions(token_filter: TokenFilter, batch: TokenBatch, *, x: Float[Tensor, "batch pos d_in"]) -> Positions:
    """Which positions are kept and which are scored (rules at the head of this file)."""
    kept = token_filter.keep(batch.tokens, x) & (batch.documents >= 0)
    special = torch.tensor(sorted(token_filter.special_ids), dtype=batch.tokens.dtype, device=batch.tokens.device)
    scored = kept.clone()
    scored[:, -1] = False
    scored[:, :-1] &= ~torch.isin(batch.tokens[:, 1:], special)
    return Positions(kept, scored)


def add_batch(bench: Bench, batch: TokenBatch, *, candidates: Sequence[Candidate], sums: Sums) -> None:
    """Add one batch of contexts to `sums`, in place."""
    batch = TokenBatch(*(field.to(bench.lm.device) for field in batch))
    prefix = bench.lm.prefix(batch.tokens, bench.hook_point)
    where = positions(bench.token_filter, batch, x=prefix.x)
    clean_hidden = bench.lm.resume(prefix, prefix.x)[where.scored]
    targets = batch.tokens.roll(-1, dims=1)[where.scored]
    x = prefix.x[where.kept].to(bench.device)
    shared = EvalBatch(x, bench.general)
    kept_rows = rows_of(batch.documents[where.kept].cpu(), sums)
    scored_rows = rows_of(batch.documents[where.scored].cpu(), sums)
    add_by_row(sums.corpus.n_tokens, kept_rows, torch.ones(len(kept_rows)))
    add_by_row(sums.corpus.n_scored, scored_rows, torch.ones(len(scored_rows)))
    add_by_row(sums.corpus.sum_x, kept_rows, x)
    add_by_row(sums.corpus.sum_x_sq, kept_rows, x.double().square().sum(dim=-1))

    losses: dict[str, TokenLosses] = {}
    for start in range(0, len(candidates), _HELD_AT_ONCE):
        hidden = {_CLEAN: clean_hidden}
        for candidate in candidates[start : start + _HELD_AT_ONCE]:
            made = candidate.reconstruct(shared)
            hidden[candidate.name] = patched_hidden(bench, prefix, kept=where.kept, x_hat=made.x_hat)[where.scored]
            total = sums.candidates[candidate.name]
            add_by_row(total.error_sq, kept_rows, (x.double() - made.x_hat.double()).square().sum(dim=-1))
            add_by_row(total.l0_general, kept_rows, made.l0_general)
            add_by_row(total.l0_domain, kept_rows, made.l0_domain)
        losses |= token_losses(bench, hidden, targets=targets)
    add_losses(sums, scored_rows, losses=losses)


def patched_hidden(
    bench: Bench, prefix: Prefix, *, kept: Bool[Tensor, "batch pos"], x_hat: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "batch pos d_model"]:
    """Final hidden states with x_hat at the kept positions and the original activation elsewhere."""
    x_new = prefix.x.clone()
    x_new[kept] = x_hat.to(x_new)
    return bench.lm.resume(prefix, x_new)


def token_losses(
    bench: Bench, hidden: Mapping[str, Float[Tensor, "tokens d_model"]], *, targets: Int64[Tensor, " tokens"]
) -> dict[str, TokenLosses]:
    """CE against `targets` and KL from the clean lm, for each entry of `hidden`; the clean one is named "".

    The head runs on `rows_per_chunk` rows at a time: at most four blocks of rows_per_chunk x d_vocab exist at once.
    """
    parts: dict[str, list[TokenLosses]] = {name: [] for name in hidden}
    for start in range(0, len(targets), bench.rows_per_chunk):
        chunk = slice(start, start + bench.rows_per_chunk)
        log_p = bench.lm.logits(hidden[_CLEAN][chunk]).log_softmax(dim=-1)
        divergence = _unmeasured if bench.ce_alone else _divergence(log_p)
        for name, rows in hidden.items():
            log_q = log_p if name == _CLEAN else bench.lm.logits(rows[chunk]).log_softmax(dim=-1)
            ce = -log_q.gather(-1, targets[chunk, None]).squeeze(-1)
            parts[name].append(TokenLosses(ce, divergence(log_q)))
    nothing = targets.new_zeros(0, dtype=torch.float32)
    return {
        name: TokenLosses(*(torch.cat([nothing, *column]) for column in zip(*found, strict=True)))
        if found
        else TokenLosses(nothing, nothing)
        for name, found in parts.items()
    }


def _unmeasured(log_q: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, " rows"]:
    return torch.full_like(log_q[:, 0], torch.nan)


def _divergence(log_p: Float[Tensor, "tokens d_vocab"]) -> Callable[[Tensor], Tensor]:
    """KL(p || q) of each token, as a function of log q."""
    p = log_p.exp()
    negative_entropy = _expected(p, log_p)
    return lambda log_q: negative_entropy - _expected(p, log_q)


def _expected(p: Float[Tensor, "tokens d_vocab"], values: Float[Tensor, "tokens d_vocab"]) -> Float[Tensor, " tokens"]:
    """Mean of the values under p, without a table of products."""
    return torch.einsum("tv,tv->t", p, values)


def add_losses(sums: Sums, rows: Int64[Tensor, " tokens"], *, losses: Mapping[str, TokenLosses]) -> None:
    """Add the scored tokens' losses to `sums`, in place; the clean lm's are under "", g's (if any) under its name."""
    clean = losses[_CLEAN].ce.double()
    add_by_row(sums.corpus.ce_clean, rows, clean)
    general = losses[GENERAL].ce.double() if GENERAL in losses else clean
    masked = general - clean > MASK_NATS
    add_by_row(sums.corpus.n_masked, rows, masked.double())
    add_by_row(sums.corpus.gap_masked, rows, torch.where(masked, general - clean, 0.0))
    for name, total in sums.candidates.items():
        ce = losses[name].ce.double()
        add_by_row(total.ce, rows, ce)
        add_by_row(total.kl, rows, losses[name].kl)
        add_by_row(total.gain_masked, rows, torch.where(masked, general - ce, 0.0))
