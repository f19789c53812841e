"""What changes with the step: pure functions of (step, n_steps)."""

from pydantic import Field, NonNegativeInt, PositiveFloat

from fovea.config import Config


class LearningRateConfig(Config):
    """Linear warm-up to `peak`, constant, then linear decay to `final_fraction` of it."""

    peak: PositiveFloat = 1e-3
    "Learning rate of the plateau, for Adam."
    warmup_steps: NonNegativeInt = 50
    decay_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    "Share of the steps, at the end, over which the rate falls."
    final_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    "Rate after the decay, as a share of the plateau."


def learning_rate(config: LearningRateConfig, step: int, n_steps: int) -> float:
    """Learning rate of the 0-based `step` out of `n_steps`."""
    n_decay = round(config.decay_fraction * n_steps)
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    remaining = (n_steps - step) / n_decay if n_decay else 1.0
    cool = config.final_fraction + (1 - config.final_fraction) * min(1.0, remaining)
    return config.peak * min(warm, 1.0) * cool


def warmup(step: int, warmup_steps: int) -> float:
    """Share of the sparsity penalty in force at the 0-based `step`: rises linearly to 1, as in Gated SAEs."""
    return min(1.0, (step + 1) / (warmup_steps + 1))
