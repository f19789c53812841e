"""How much evidence is collected."""

from pydantic import Field, PositiveInt

from fovea.config import Config


class FeaturesConfig(Config):
    """Evidence about each latent."""

    tokens: PositiveInt = 200_000
    "Tokens of D and of general text each: held-out documents, then, where they are not enough, training documents."
    top: PositiveInt = 20
    "Largest activations shown, each from another context and with another text around it."
    per_group: PositiveInt = 5
    "Examples shown of each range of ranks."
    rank_edges: tuple[float, ...] = Field(default=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0), min_length=2)
    "Ends of the ranges of ranks, ascending from 0 (the largest activation) to 1."
    histogram_bins: PositiveInt = 32
    tokens_shown: PositiveInt = 10
    "Promoted and suppressed tokens of each latent."
    neighbours: PositiveInt = 8
    "Nearest and co-firing latents of each latent."
