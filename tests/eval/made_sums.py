"""Sums made by hand or at random, for tests of what is computed from them."""

from collections.abc import Mapping, Sequence

import torch

from fovea.eval.candidates import GENERAL, MEAN, ZERO
from fovea.eval.sums import CandidateSums, CorpusSums, Sums


def column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def candidate(**sums: Sequence[float]) -> CandidateSums:
    """Candidate sums; what is left out is zero in every document."""
    n = len(next(iter(sums.values())))
    return CandidateSums(*(column(sums.get(field, [0.0] * n)) for field in CandidateSums._fields))


def by_hand(candidates: Mapping[str, CandidateSums], **corpus: Sequence[float] | Sequence[Sequence[float]]) -> Sums:
    """Sums with the given columns; g and the ablations are all zero unless given."""
    n = len(next(iter(candidates.values())).ce)
    sums = CorpusSums(
        *(
            torch.tensor(corpus[field], dtype=torch.float64)
            if field in corpus
            else torch.zeros((n, 1) if field == "sum_x" else n, dtype=torch.float64)
            for field in CorpusSums._fields
        )
    )
    references = {name: candidate(ce=[0.0] * n) for name in (GENERAL, ZERO, MEAN)}
    return Sums(torch.arange(n), sums, references | dict(candidates))


def at_random(seed: int, *, n_documents: int = 12, names: Sequence[str] = ("a", "b"), d_in: int = 3) -> Sums:
    """Plausible random sums of integers: clean < candidates < g < mean < zero in cross-entropy."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, (n_documents, *shape), generator=generator).double()

    n_tokens = draw(5, 40)
    corpus = CorpusSums(
        n_tokens=n_tokens,
        n_scored=n_tokens - 2,
        n_masked=n_tokens // 2,
        sum_x=draw(-9, 9, d_in),
        sum_x_sq=draw(500, 900),
        ce_clean=2 * n_tokens,
        gap_masked=1.0 * n_tokens,
    )
    order = {GENERAL: 4, MEAN: 6, ZERO: 9, **dict.fromkeys(names, 3)}
    candidates = {
        name: CandidateSums(
            ce=level * n_tokens + draw(0, 3),
            kl=draw(1, 9),
            gain_masked=draw(0, 9),
            error_sq=draw(20, 90),
            l0_general=n_tokens * draw(1, 5),
            l0_domain=n_tokens * draw(1, 5),
        )
        for name, level in order.items()
    }
    return Sums(torch.arange(n_documents), corpus, candidates)
