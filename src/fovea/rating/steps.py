"""One step of a rater: what it says, what of it is kept, and whether it fits where the rater stands."""

import hashlib
from typing import Any, Literal, NamedTuple

from pydantic import Field

from fovea.config import Config
from fovea.errors import StudyError
from fovea.rating.state import Answer, RaterState

Kind = Literal["draft", "explain", "rate", "skip", "guess", "finish", "lock"]


class RaterEvent(Config):
    """One step of a rater."""

    kind: Kind
    key: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    "Idempotency: a step sent again under its key is stored once."
    item: str | None = Field(default=None, max_length=64)
    text: str = Field(default="", max_length=4000)
    "explain: the explanation. draft: it in the making, and after it the note. skip: the reason. finish: why so early."
    specificity: int | None = None
    cannot_tell: bool = False
    "Uninterpretable: said in place of a specificity, never counted as a low one."
    nice: bool = False
    note: str = Field(default="", max_length=2000)
    guess: str | None = Field(default=None, max_length=60)
    "An arm's name; None: cannot say."
    seen: str | None = Field(default=None, max_length=64)
    "`BlindItem.seen` of the item as it was shown: a step that was made on an older state is refused."

    @property
    def about(self) -> str | None:
        """The item that the step is stored with: none where it is about all of them."""
        return None if self.kind in ("finish", "lock") else self.item

    @property
    def kept(self) -> dict[str, Any]:
        """What the log keeps of the step, beside the time that it took."""
        return {name: getattr(self, name) for name in KEPT[self.kind]}


KEPT: dict[str, tuple[str, ...]] = {
    "draft": ("text",),
    "explain": ("text",),
    "rate": ("specificity", "cannot_tell", "nice", "note"),
    "skip": ("text", "note"),
    "guess": ("guess",),
    "finish": ("text",),
    "lock": (),
}
"Fields of a step that go into the log, by kind."


class Rubric(NamedTuple):
    """What a rater is asked; the same for every item and rater."""

    question: str
    "With {subject}."
    points: tuple[str, ...]
    writes_explanation: bool
    guesses: tuple[str, ...]
    "The methods to guess among, in alphabetical order. Show them in phase `guess` only."
    has_practice: bool


def rubric_of(facts: dict[str, Any], state: RaterState) -> Rubric:
    """The rubric that a study's facts hold."""
    return Rubric(
        facts["question"],
        tuple(facts["points"]),
        facts["writes_explanation"],
        tuple(facts["arms"]),
        bool(state.order("practice")),
    )


def check(state: RaterState, rubric: Rubric, event: RaterEvent) -> None:
    """Nothing, if the step fits the rubric and where the rater stands.

    Raises:
        StudyError: it does not; the message is for the rater.
    """
    if state.is_locked:
        raise StudyError("your ratings are locked; nothing more can be recorded")
    if event.kind == "finish":
        if state.phase != "review" and not (state.phase == "rating" and event.text.strip()):
            raise StudyError("items are left open; rate or skip them, or give a reason for stopping early")
        return
    if event.kind == "lock":
        if state.phase != "closing":
            raise StudyError("ratings are locked at the very end; go on with the next item")
        return
    item = own_item(state, event.item)
    if (event.kind == "guess") != (state.items[item].phase == "guess") and event.kind != "draft":
        raise StudyError(f"{event.kind!r} is not what this item asks for")
    if event.seen not in (None, digest(state.answer(item))):
        raise StudyError("this item was answered elsewhere, in another tab perhaps; this is how it stands now")
    checks = {"explain": _check_explain, "rate": _check_rate, "skip": _check_skip, "guess": _check_guess}
    if event.kind in checks:
        checks[event.kind](state.answer(item), rubric, event)


def own_item(state: RaterState, identity: str | None) -> str:
    """`identity`, if the rater has such an item in the present phase.

    Raises:
        StudyError: not so.
    """
    if identity is None or identity not in state.order(state.phase):
        raise StudyError("there is no such item now; go on with the next one")
    return identity


def digest(answer: Answer) -> str:
    """Equal for equal answers; says nothing else."""
    return hashlib.sha256(repr(answer).encode()).hexdigest()[:16]


def _check_explain(answer: Answer, rubric: Rubric, event: RaterEvent) -> None:
    if not rubric.writes_explanation:
        raise StudyError("this study asks for no explanation")
    if answer.explanation is not None:
        raise StudyError("the explanation is fixed once it is given; undo takes it back")
    if not event.text.strip():
        raise StudyError("the explanation is empty; write one, say that you can't tell, or skip with a reason")


def _check_rate(answer: Answer, rubric: Rubric, event: RaterEvent) -> None:
    if (event.specificity is None) != event.cannot_tell:
        raise StudyError("give a point of the rubric or say that you can't tell, one of the two")
    n = len(rubric.points)
    if event.specificity is not None and not 0 <= event.specificity < n:
        raise StudyError(f"specificity = {event.specificity}, but the rubric's points are 0 to {n - 1}")
    if rubric.writes_explanation and answer.explanation is None and not event.cannot_tell:
        raise StudyError("the explanation comes before the rating; write it first")


def _check_skip(answer: Answer, rubric: Rubric, event: RaterEvent) -> None:
    del answer, rubric
    if not event.text.strip():
        raise StudyError("a skip needs its reason; write a word or two")


def _check_guess(answer: Answer, rubric: Rubric, event: RaterEvent) -> None:
    del answer
    if event.guess is not None and event.guess not in rubric.guesses:
        raise StudyError(f"guess = {event.guess!r}, but it must be one of {', '.join(rubric.guesses)}, or none")
