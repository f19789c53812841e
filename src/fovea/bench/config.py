"""What the benchmarks run on and how long: every default once."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from fovea.config import Config


class StepConfig(Config):
    """Training steps on activations that lie in memory."""

    device: Literal["cpu", "cuda"] = "cpu"
    "Where rows and SAEs lie."
    d_sae: tuple[PositiveInt, ...] = (1152, 9216)
    d_sae_archs: tuple[PositiveInt, ...] = (1152,)
    "Widths at which the other architectures are compared."
    d_sae_many: PositiveInt = 1152
    n_saes: tuple[PositiveInt, ...] = (9, 36)
    "How many are trained side by side."
    k: PositiveInt = 32
    batch_size: PositiveInt = 4096
    n_rows: PositiveInt = 204_800
    "Rows of activations, harvested once and kept in the cache folder."
    synthetic: bool = False
    "Random low-rank rows with heavy tails in place of the lm's."
    d_in: PositiveInt = 576
    "Width of synthetic rows; real ones have the lm's."
    seeds: tuple[int, ...] = (0, 1, 2)
    "Seeds of the quality guard."
    quality_steps: PositiveInt = 144


class PassConfig(Config):
    """What runs through the lm."""

    model: str = "bundled:smollm2-135m-instruct"
    hook_point: str = "blocks.14.hook_resid_post"
    corpus: str = "bundled:biology"
    general_sae: str = "bundled:smollm2-135m-l14"
    context_size: PositiveInt = 128
    train_tokens: PositiveInt = 32_768
    "Tokens that each SAE of the end-to-end comparison learns from."
    separate_rounds: PositiveInt = 5
    "Rounds of the nine separate runs of the end-to-end comparison, which take most of its time; at most `rounds`."
    line_saes: tuple[PositiveInt, ...] = (1, 3, 9, 27)
    "How many SAEs, for the line of the cost of one more."
    eval_contexts: PositiveInt = 8
    n_evaluated: PositiveInt = 9
    "SAEs that are evaluated together."
    streamed_rows: tuple[PositiveInt, PositiveInt] = (1_000_000, 10_000_000)
    "Rows of the two streams whose peak memory is compared."


class BenchConfig(Config):
    """Settings of `fovea bench`."""

    rounds: PositiveInt = 5
    round_seconds: PositiveFloat = 1.0
    "Least duration of a round."
    allocators: tuple[str, ...] = Field(default=("default", "tuned"), min_length=1)
    step: StepConfig = StepConfig()
    lm: PassConfig = PassConfig()
