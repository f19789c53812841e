"""What every number in metrics.jsonl means: the one list of metric definitions, by id.

Symbols: L = loss of a token in nats under the patched lm, L_clean unpatched, L_g with g(x) patched in, L_zero and
L_mean with zero or the mean; CE = sum of L over scored tokens / their number; every ratio is a ratio of sums.
"""

from typing import Literal, NamedTuple

_POST = 'Drori 2024, "Domain-specific SAEs"'


class Definition(NamedTuple):
    """One metric: `id` is what a record's `metric` and `definition` say."""

    id: str
    name: str
    formula: str
    unit: str
    direction: Literal["higher", "lower", "none"]
    "Which way is better."
    source: str
    note: str = ""

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither direction is better."""
        return {"higher": True, "lower": False, "none": None}[self.direction]


_SCORED = "Scored tokens: kept by the token filter, not last in their context, next token not special."
_GAP_NOTE = (
    "1 = as good as the unpatched lm, 0 = no better than g, negative = worse than g. Null when CE_g - CE_clean is "
    "below 0.005 nats or its interval includes 0: the ratio of two nearly equal numbers says nothing."
)

_LOSS = [
    Definition("ce_clean", "Cross-entropy of the unpatched lm", "sum L_clean / n_scored", "nats", "none", "", _SCORED),
    Definition(
        "ce_zero", "Cross-entropy with zero ablation", "sum L_zero / n_scored", "nats", "none", "", "0 in place of x."
    ),
    Definition(
        "ce_mean",
        "Cross-entropy with mean ablation",
        "sum L_mean / n_scored",
        "nats",
        "none",
        "",
        "In place of x, its mean over general training text.",
    ),
    Definition("ce_g", "Cross-entropy with the general SAE", "sum L_g / n_scored", "nats", "lower", "", _SCORED),
    Definition("ce", "Cross-entropy with the reconstruction", "sum L / n_scored", "nats", "lower", "", _SCORED),
    Definition(
        "delta_ce", "Cross-entropy added", "sum (L - L_clean) / n_scored", "nats", "lower", "", "0 = nothing lost."
    ),
    Definition(
        "kl",
        "KL from the unpatched lm",
        "sum over tokens of sum over v of p_clean(v) (log p_clean(v) - log p(v)) / n_scored",
        "nats",
        "lower",
        "",
        "By log-softmax in fp32, never by probabilities first.",
    ),
    Definition(
        "loss_recovered_gap",
        "Loss recovered, of g's gap",
        "(CE_g - CE) / (CE_g - CE_clean)",
        "fraction",
        "higher",
        _POST + ", without its mask",
        _GAP_NOTE,
    ),
    Definition(
        "loss_recovered_gap_masked",
        "Loss recovered, of g's gap, masked as in the post's code",
        "sum over M of (L_g - L) / sum over M of (L_g - L_clean), M = scored tokens with L_g - L_clean > 0.001 nats",
        "fraction",
        "higher",
        _POST + ", its repository's evaluation code",
        "For comparison with the post only. The mask keeps the tokens that g happened to hurt and drops those that it "
        "helped, so tokens revert to their mean and any other reconstruction, even a bad one, seems to recover loss; "
        "harm done where g did none is not counted at all. On general text it has turned damage into apparent gain.",
    ),
    Definition(
        "loss_recovered_zero",
        "Loss recovered, of the zero-ablation gap",
        "(CE_zero - CE) / (CE_zero - CE_clean)",
        "fraction",
        "higher",
        "SAEBench core, CE loss score",
        "Zero ablation is so harmful that almost anything scores above 0.9.",
    ),
    Definition(
        "loss_recovered_mean",
        "Loss recovered, of the mean-ablation gap",
        "(CE_mean - CE) / (CE_mean - CE_clean)",
        "fraction",
        "higher",
        "",
        "As with zero ablation, but the baseline is the mean activation of general training text.",
    ),
]
_RECONSTRUCTION = [
    Definition(
        "fvu",
        "Fraction of variance unexplained",
        "sum |x - x_hat|^2 / sum |x - mean(x)|^2",
        "fraction",
        "lower",
        "SAELens 6.54 explained variance, 1 - fvu",
        "Over kept tokens; the mean is theirs. 0 = perfect, 1 = no better than the mean, unbounded above.",
    ),
    Definition(
        "fvu_recovered",
        "Share of g's unexplained variance that is recovered",
        "(FVU_g - FVU) / FVU_g",
        "fraction",
        "higher",
        _POST + ", its repository's evaluation code",
        "1 = perfect, 0 = as g, negative = worse than g.",
    ),
    Definition(
        "l0", "Active latents per token, all blocks", "sum (n_general + n_domain) / n_tokens", "latents", "none", ""
    ),
    Definition("l0_general", "Active latents per token, g's block", "sum n_general / n_tokens", "latents", "none", ""),
    Definition(
        "l0_domain",
        "Active latents per token, the domain SAE's block",
        "sum n_domain / n_tokens",
        "latents",
        "none",
        "",
    ),
]
_LATENTS = [
    Definition("n_latents", "Latents", "d_sae", "latents", "none", ""),
    Definition("n_alive", "Latents that fired", "number of latents with count > 0", "latents", "none", ""),
    Definition(
        "n_dead",
        "Latents that never fired",
        "number of latents with count = 0",
        "latents",
        "lower",
        "",
        "Dead on these n_tokens tokens: at 95% confidence each one's density is below density_bound.",
    ),
    Definition(
        "density_bound",
        "Density below which a latent that never fired lies",
        "1 - 0.05^(1 / n_tokens), about 3 / n_tokens",
        "fraction",
        "none",
        "exact 95% upper limit of a binomial with count 0",
    ),
    Definition(
        "density_median",
        "Median density of the latents that fired",
        "median over latents with count > 0 of count / n_tokens",
        "fraction",
        "none",
        "",
        "Latents that never fired are not in it; see n_dead.",
    ),
    Definition(
        "n_dense",
        "Latents that fire on over 10% of tokens",
        "number with count > n_tokens / 10",
        "latents",
        "lower",
        "",
    ),
    Definition(
        "n_domain_specific",
        "Latents at least 100 times as dense on D as on general text",
        "number with count_D / n_D > 100 max(count_general, 1) / n_general",
        "latents",
        "higher",
        "",
        "A latent that never fired on general text is counted as if it had fired once there.",
    ),
]


def _novelty(side: str, rows: str) -> list[Definition]:
    baseline = f"{rows} in place of the latents', as many"
    return [
        Definition(
            f"novelty_{side}_median",
            f"Median similarity to g, {side}",
            f"median over latents that fired on D of max over g's {rows} of the cosine",
            "cosine",
            "none",
            _POST,
            "Low = new. Read against the baselines: the largest of many cosines is far above 0 by chance.",
        ),
        Definition(
            f"n_matched_{side}",
            f"Latents that g has already, {side}",
            f"number of latents that fired on D with max cosine to g's {rows} >= 0.9",
            "latents",
            "none",
            "",
        ),
        Definition(
            f"n_above_random_{side}",
            f"Latents closer to g than random directions, {side}",
            f"number of latents that fired on D with max cosine above the 99th percentile of random unit {baseline}",
            "latents",
            "none",
            "",
        ),
        Definition(
            f"n_above_moment_{side}",
            f"Latents closer to g than moment-matched directions, {side}",
            f"number of latents that fired on D with max cosine above the 99th percentile of Gaussian {baseline}, "
            f"with the mean and covariance of g's",
            "latents",
            "none",
            "",
        ),
    ]


_NOVELTY = [
    *_novelty("decoder", "decoder rows"),
    *_novelty("encoder", "encoder columns"),
    Definition(
        "n_novel",
        "Latents that g has not",
        "number of latents that fired on D with max cosine to g's decoder rows < 0.9",
        "latents",
        "none",
        "",
    ),
]

DEFINITIONS: dict[str, Definition] = {d.id: d for d in [*_LOSS, *_RECONSTRUCTION, *_LATENTS, *_NOVELTY]}
"Every metric that fovea writes, by id, in the order in which a report lists them."
