"""protocol.md: what will be done and how it will be read, fixed and hashed before the first rating."""

from fovea.config import dump_toml
from fovea.rating.config import StudyConfig
from fovea.rating.differences import N_PERMUTATIONS
from fovea.rating.intervals import N_RESAMPLES
from fovea.rating.power import Power
from fovea.rating.sampling import Excluded, Sample


def protocol(name: str, config: StudyConfig, sample: Sample, *, power: Power, commitment: str, made: str) -> str:
    """The protocol as markdown."""
    parts = [
        f"# Blind study {name!r}",
        f"Made {made}, before any rating. Commitment to the mapping (SHA-256 of sealed.json):\n\n    {commitment}",
        _compared(config),
        _sampled(config, sample.excluded),
        _shown(config),
        _rubric(config),
        _order(config, sample),
        _blinding(config),
        _analysis(config),
        f"## Power\n\n{power.sentence}",
        f"## Settings\n\n```toml\n{dump_toml(config)}```",
    ]
    return "\n\n".join(parts) + "\n"


def _compared(config: StudyConfig) -> str:
    arms = "\n".join(f"- {arm.name}: {', '.join(arm.jobs)}" for arm in config.arm)
    raters = ", ".join(f"{rater.name} ({rater.kind})" for rater in config.rater)
    return f"## Compared\n\n{arms}\n\nRaters: {raters}."


def _sampled(config: StudyConfig, excluded: tuple[Excluded, ...]) -> str:
    columns = (
        "arm", "domain", "latents", "dead on D", f"under {config.min_firings} firings", "eligible by firings",
        "examined", "too few examples", "sampled", "of these not shown on general text", "named as controls",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(str(value) for value in each)} |" for each in excluded]
    return (
        "## Sample\n\n"
        f"Uniform over the latents of each arm and domain that fired at least {config.min_firings} times on the "
        f"domain's text and have {config.shown.n_examples} distinct examples there; seed {config.seed}. Results are "
        "about such features: shares left out differ between methods and are part of the result. Whether a latent "
        "fires on general text does not decide.\n\n" + "\n".join(lines)
    )


def _shown(config: StudyConfig) -> str:
    shown = config.shown
    text = {"write": "Raters write an explanation of each item first; it is fixed before the rating.", "none": ""}
    told = text.get(config.explanation, "Raters read an explanation that was made before; all methods' alike.")
    return (
        "## What raters see\n\n"
        f"Each item is one panel of one feature ({', '.join(config.panels)}): {shown.n_strongest} examples of largest "
        f"activation and {shown.n_spread} spread over the ranks of the rest, each of {2 * shown.tokens_around + 1} "
        "tokens, coloured in ten shades of the item's own maximum. Every item has equally many. The two panels of a "
        "feature are separate items at separate places, so that how a feature looks on general text cannot colour its "
        "rating on the domain's. A feature that cannot fill the general panel has no item there: that it hardly fires "
        f"on general text is counted, not rated. {told}"
    )


def _rubric(config: StudyConfig) -> str:
    points = "\n".join(f"- {i}: {text}" for i, text in enumerate(config.rubric.points))
    return (
        f"## Rubric\n\n{config.rubric.question}\n\n{points}\n\n"
        'Apart from the points: "can\'t tell" (uninterpretable; never counted as a low point), skip with a reason, '
        '"nice" (a matter of taste).'
    )


def _order(config: StudyConfig, sample: Sample) -> str:
    return (
        "## Order\n\n"
        f"{len(sample.practice)} practice items outside the sample, with feedback. Then each rater's own random order "
        "in permuted blocks over arms, domains and panels, drawn from a secret that is sealed; "
        f"{100 * config.repeat_share:.0f}% of the items come again unannounced, for the agreement of raters with "
        "themselves. Item ids are random and each rater's own. Raters do not see each other's ratings."
        + _controls(config)
    )


def _controls(config: StudyConfig) -> str:
    if not config.control:
        return ""
    named = ", ".join(f"latent {each.latent} of {each.job} ({each.known})" for each in config.control)
    return (
        f"\n\nControls, mixed in blind on the {config.panels[0]} panel, reported per rater as the share put into their "
        f"half of the scale, and part of no other outcome: {named}."
    )


def _blinding(config: StudyConfig) -> str:
    return (
        "## Blinding\n\n"
        "Hidden: job, latent, method, density, histogram, scale, numbers of examples and duplicates, neighbours. Not "
        "hidden, because it is what is rated: the texts and where the feature fires in them; a rater may come to "
        f"recognise a method by that. So each rater guesses the method of {config.n_guesses} features at the end, when "
        "ratings are fixed. The mapping is opened when all raters have locked, or by force with a recorded reason."
    )


def _analysis(config: StudyConfig) -> str:
    first, second = config.arm[0].name, config.arm[1].name
    return (
        "## Analysis\n\n"
        f"Primary outcome: mean specificity on the {config.panels[0]} panel, {first} minus {second}. Unit: the "
        "feature (its raters averaged; can't tell, skipped and repeats left out). Two-sided permutation test of the "
        f"arm labels within domains, {N_PERMUTATIONS:,} permutations, +1 correction; percentile interval of "
        f"{N_RESAMPLES:,} bootstrap resamples of features within arm and domain; Cliff's delta. All other pairs and "
        "panels are secondary, with Holm's correction among them; three and more arms also have an omnibus test. "
        "Panels are never pooled. Agreement: Krippendorff's ordinal alpha and Gwet's AC2 (ordinal weights), intervals "
        'over features. "Nice" (by any rater, on any panel): Fisher\'s exact test. These tests are about features of '
        "these trained SAEs and these raters. Sensitivity, beside the primary outcome: where an arm has two jobs or "
        "more of a domain, the difference with the job as unit (whole jobs permuted; jobs, then features drawn "
        "again); and the difference by each rater alone."
    )
