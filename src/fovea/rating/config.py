"""The settings of one blind study. They are fixed, and written into the protocol, before anything is sampled."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from fovea.config import Config, parse
from fovea.errors import ConfigError

Panel = Literal["domain", "general"]
RaterKind = Literal["human", "scripted"]

QUESTION = "How specific to {subject} is what this feature responds to?"
POINTS = (
    "Not specific: the same in any text (function words, punctuation, layout, common word parts).",
    "Slightly: a matter that some subjects share (numbers, citations, definitions, instructions).",
    "Mostly: a matter of this subject that also comes up elsewhere, or of this subject in most examples only.",
    "Fully: a concept of this subject; who does not know the subject could not name it.",
)


class ArmConfig(Config):
    """One method that is compared."""

    name: str = Field(min_length=1, max_length=60)
    "What results call it; raters see it only when they guess."
    jobs: tuple[str, ...] = Field(min_length=1)
    "Jobs of the run; several of one domain (seeds) are pooled."


class RaterConfig(Config):
    """One who rates."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=40)
    kind: RaterKind = "human"
    "A scripted rater is a program; results say so."


class ControlConfig(Config):
    """A feature whose specificity the study's maker knows: a check of the raters, mixed in blind, never an outcome."""

    job: str
    "Any job with evidence, not only those of the arms."
    latent: NonNegativeInt
    known: Literal["general", "specific"]


class RubricConfig(Config):
    """The question and its anchored points."""

    question: str = Field(default=QUESTION, min_length=1)
    "{subject} stands for the name of the domain."
    points: tuple[str, ...] = Field(default=POINTS, min_length=2, max_length=10)
    "What 0, 1, 2 ... mean."


class ShownConfig(Config):
    """How much of a feature is shown, the same for every item."""

    n_strongest: PositiveInt = 6
    "Examples of largest activation."
    n_spread: NonNegativeInt = 4
    "Further examples, evenly spread over the ranks of the rest."
    tokens_around: PositiveInt = 24
    "Tokens shown on each side of the peak (moved inwards at the ends of a context)."

    @property
    def n_examples(self) -> int:
        return self.n_strongest + self.n_spread


class SampleConfig(Config):
    """Which features are rated."""

    seed: NonNegativeInt = 0
    "Of the sample. Orders and ids are drawn from a secret that is sealed."
    features_per_arm: PositiveInt = 100
    "In each domain."
    min_firings: PositiveInt = 10
    "Firings on the domain's text that a latent needs to be sampled."
    control: tuple[ControlConfig, ...] = ()
    "Shown on the first panel only, and not sampled for an arm."


class StudyConfig(SampleConfig):
    """One blind study."""

    arm: tuple[ArmConfig, ...] = Field(min_length=2, max_length=9)
    rater: tuple[RaterConfig, ...] = Field(min_length=1, max_length=50)
    panels: tuple[Panel, ...] = Field(default=("domain", "general"), min_length=1)
    "Texts from which examples are shown; each panel of a feature is an item of its own."
    explanation: str = Field(default="write", min_length=1)
    "write: before rating, and fixed then; none; or the path of a jsonl of job, latent, panel, text that raters read."
    rubric: RubricConfig = RubricConfig()
    shown: ShownConfig = ShownConfig()
    n_practice: NonNegativeInt = 6
    "Practice items with feedback, outside the sample."
    repeat_share: float = Field(default=0.08, ge=0.0, le=0.5)
    "Share of items that come again, unannounced."
    n_guesses: NonNegativeInt = 20
    "Features whose method each rater guesses at the end; 0 leaves the blinding unchecked."

    @property
    def writes_explanation(self) -> bool:
        return self.explanation == "write"

    @property
    def explanations_file(self) -> str | None:
        """The file of explanations to read, if there is one."""
        return None if self.explanation in ("write", "none") else self.explanation


def study_config(table: dict[str, Any], *, where: str) -> StudyConfig:
    """A checked config.

    Raises:
        ConfigError: a setting is unknown, wrong or contradicts another.
    """
    config = parse(StudyConfig, table, where=where)
    named: dict[str, list[str]] = {
        "arms": [arm.name for arm in config.arm],
        "raters": [rater.name.lower() for rater in config.rater],
        "panels": [str(panel) for panel in config.panels],
    }
    for what, names in named.items():
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{where}: two {what} are named {name!r}; give each a name of its own")
    controls = [(control.job, control.latent) for control in config.control]
    for job, latent in controls:
        if controls.count((job, latent)) > 1:
            raise ConfigError(f"{where}: latent {latent} of {job!r} is named as a control twice; name it once")
    jobs = [job for arm in config.arm for job in arm.jobs]
    for job in jobs:
        if jobs.count(job) > 1:
            raise ConfigError(f"{where}: job {job!r} is named twice; a job belongs to one arm, once")
    return config
