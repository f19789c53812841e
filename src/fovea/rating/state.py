"""Where a rater stands: a fold over the rater's events, so that a restart continues on the exact item.

    practice --> rating --> review --finish--> guess --> closing --lock--> locked

Practice and guess are passed over in a study without them. Answers are changeable until `finish`, guesses until `lock`;
undo takes back the latest step of the phase, and that of practice until the first item that counts is looked at. Every
change stays in the log.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from fovea.rating.store import Item, Stored

Phase = Literal["practice", "rating", "review", "guess", "closing", "locked"]
STEPS = frozenset({"explain", "rate", "skip", "guess"})
"Kinds of events that answer something, and that undo takes back."


class Answer(NamedTuple):
    """What a rater said of one item so far."""

    explanation: str | None = None
    specificity: int | None = None
    cannot_tell: bool = False
    nice: bool = False
    note: str = ""
    skip_reason: str | None = None
    guess: str | None = None
    "An arm's name, or None where the rater could not say; see `is_done`."
    is_done: bool = False
    seconds: float = 0.0
    "Between seeing the item and answering, all stages together."
    answered_at: float | None = None


class Progress(NamedTuple):
    """How far a rater is."""

    phase: Phase
    n_done: int
    n_items: int
    "Of the phase."
    n_skipped: int
    can_undo: bool


class RaterState:
    """The fold. `apply` is the only way to change it."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = {item.id: item for item in items}
        self._orders = {
            phase: [item.id for item in sorted(items, key=lambda i: i.position) if item.phase == phase]
            for phase in ("practice", "rating", "guess")
        }
        self._steps: dict[str, list[Stored]] = {item.id: [] for item in items}
        self._undoable: list[Stored] = []
        self.drafts: dict[str, str] = {}
        self.answers: dict[str, Answer] = {}
        self._done: dict[str, set[str]] = {phase: set() for phase in self._orders}
        self.touched: str | None = None
        "The item that was last looked at and not answered since."
        self.opened_at: float | None = None
        self.has_begun = False
        "An item that counts was looked at: practice is over for good."
        self.is_finished = False
        self.is_locked = False
        self.last_seq = 0

    def apply(self, events: Iterable[Stored]) -> None:
        """Fold further events, in order."""
        for event in events:
            self.last_seq = event.seq
            if event.kind == "finish":
                self.is_finished, self.touched = True, None
            elif event.kind == "lock":
                self.is_locked, self.touched = True, None
            elif event.kind == "undo":
                self._undo(event)
            elif event.item is not None:
                self._fold(event, event.item)

    def _fold(self, event: Stored, item: str) -> None:
        self.has_begun |= self.items[item].phase == "rating"
        if event.kind in STEPS:
            self._steps[item].append(event)
            self._undoable.append(event)
            self.drafts.pop(item, None)
            self._answer(item)
            self.touched = None if self.answers[item].is_done else item
        else:
            if event.kind == "draft":
                self.drafts[item] = str(event.body["text"])
            self.touched = item
        if event.kind != "draft":
            self.opened_at = event.at

    def _undo(self, event: Stored) -> None:
        undone = self._undoable.pop()
        assert undone.seq == event.body["of"], "an undo names the latest step"
        item = str(undone.item)
        self._steps[item].remove(undone)
        if undone.kind == "explain":
            self.drafts[item] = str(undone.body["text"])
        self._answer(item)
        self.touched, self.opened_at = item, event.at

    def _answer(self, item: str) -> None:
        """What the steps of an item that still stand say."""
        answer = Answer()
        for event in self._steps[item]:
            body: dict[str, Any] = event.body
            told = answer._replace(seconds=answer.seconds + body["seconds"], answered_at=event.at)
            if event.kind == "explain":
                answer = told._replace(explanation=body["text"])
            elif event.kind == "skip":
                answer = Answer(told.explanation, skip_reason=body["text"], is_done=True)._replace(
                    note=body["note"], seconds=told.seconds, answered_at=event.at
                )
            elif event.kind == "guess":
                answer = told._replace(guess=body["guess"], is_done=True)
            else:
                rated = {name: body[name] for name in ("specificity", "cannot_tell", "nice", "note")}
                answer = told._replace(**rated, skip_reason=None, is_done=True)
        self.answers[item] = answer
        done = self._done[self.items[item].phase]
        (done.add if answer.is_done else done.discard)(item)

    def answer(self, item: str) -> Answer:
        """What was said of an item."""
        return self.answers.get(item, Answer())

    @property
    def phase(self) -> Phase:
        if self.is_locked:
            return "locked"
        if self.is_finished:
            return "guess" if self._open("guess") else "closing"
        if self._open("practice"):
            return "practice"
        return "rating" if self._open("rating") else "review"

    def order(self, phase: Phase) -> list[str]:
        """Items of the phase; review has those of rating, closing those of guess."""
        return self._orders[{"review": "rating", "closing": "guess", "locked": "rating"}.get(phase, phase)]

    def _open(self, phase: str) -> bool:
        return len(self._done[phase]) < len(self._orders[phase])

    @property
    def current(self) -> str | None:
        """The item to show: the one that was last looked at and not answered since, or the first without an answer."""
        phase = self.phase
        if phase == "locked":
            return None
        if self.touched is not None and self.touched in self.order(phase):
            return self.touched
        order = self.order(phase)
        done = self._done[self.items[order[0]].phase] if order else set[str]()
        return next((item for item in order if item not in done), None)

    @property
    def undoable(self) -> Stored | None:
        """The step that undo would take back: the latest one, within its phase."""
        if self.is_locked or not self._undoable:
            return None
        latest = self._undoable[-1]
        phase = self.items[str(latest.item)].phase
        if phase == "practice" and self.has_begun:
            return None
        return latest if (phase == "guess") == self.is_finished else None

    @property
    def told(self) -> Stored | None:
        """The rating of a practice item whose feedback is on the page: the latest step, and nothing looked at since."""
        latest = self.undoable
        if latest is None or latest.kind != "rate" or self.touched is not None:
            return None
        return latest if self.items[str(latest.item)].phase == "practice" else None

    def progress(self) -> Progress:
        """How far the rater is in the phase."""
        phase = self.phase
        order = self.order(phase)
        answers = [self.answers[item] for item in order if item in self.answers]
        n_skipped = sum(answer.skip_reason is not None for answer in answers)
        n_done = sum(answer.is_done for answer in answers)
        return Progress(phase, n_done, len(order), n_skipped, self.undoable is not None)
