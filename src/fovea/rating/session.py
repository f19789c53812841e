"""One rater at work. Everything that a page may show comes from here, and nothing here knows a method's features.

    token --> RaterSession --next_item, item--> BlindItem      record, undo --> one event, on the disk when they return

A rater reaches only items of their own; other raters do not exist. Sessions of one rater may be open twice (two tabs,
two processes): each step is checked against the log as it is at that moment.
"""

import hashlib
import threading
import time
from typing import Any, Literal, NamedTuple

from pydantic import Field

from fovea.config import Config
from fovea.errors import StudyError
from fovea.rating.blind import BlindGroup, groups_from
from fovea.rating.state import Answer, Phase, Progress, RaterState
from fovea.rating.store import OWNER, Rater, Store, Stored

Stage = Literal["explain", "rate", "guess", "answered"]


class RaterEvent(Config):
    """One step of a rater."""

    kind: Literal["draft", "explain", "rate", "skip", "guess", "finish", "lock"]
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


class BlindItem(NamedTuple):
    """All that a rater's page may show of an item."""

    id: str
    phase: Phase
    panel: str
    "domain or general: which text the examples are from."
    subject: str
    "The domain whose specificity is asked for."
    groups: tuple[BlindGroup, ...]
    explanation: str | None
    "To be read; None where raters write."
    stage: Stage
    answer: Answer
    draft: str | None
    "None where nothing is typed; an emptied field is not nothing."
    seen: str
    "Stands for all that was answered of the item: another tab's step changes it."


class Feedback(NamedTuple):
    """What a practice item teaches."""

    anchor: str
    "The rubric's words for the point that was chosen; empty where the rater could not tell."
    fact: str
    "How concentrated the feature is on the subject's text."


class Told(NamedTuple):
    """A rated practice item with its feedback, until the next one is looked at."""

    item: BlindItem
    feedback: Feedback
    number: int
    "Its place among the practice items, from 1."
    n_items: int


class Receipt(NamedTuple):
    """The step is on the disk."""

    seq: int
    "In the log of all raters together, so that it tells of the others: not for the page."
    item: str | None
    feedback: Feedback | None
    "Of a rated practice item."
    is_replay: bool
    "The step had been recorded before; nothing was added."


class Rubric(NamedTuple):
    """What a rater is asked; the same for every item and rater."""

    question: str
    "With {subject}."
    points: tuple[str, ...]
    writes_explanation: bool
    guesses: tuple[str, ...]
    "The methods to guess among, in alphabetical order. Show them in phase `guess` only."
    has_practice: bool


class RaterSession:
    """One rater's way through the study."""

    def __init__(self, store: Store, rater: Rater) -> None:
        self._store = store
        self._rater = rater
        self._lock = threading.RLock()
        self._state = RaterState(store.items(rater.number))
        self._shown: str | None = None
        "The item that this process showed last: after a restart, time is counted from when it is shown again."
        facts = store.facts
        self.name, self.number = rater.name, rater.number
        self.rubric = Rubric(
            facts["question"],
            tuple(facts["points"]),
            facts["writes_explanation"],
            tuple(facts["arms"]),
            bool(self._state.order("practice")),
        )

    def _refresh(self) -> RaterState:
        self._state.apply(self._store.events(self._rater.number, after=self._state.last_seq))
        return self._state

    def progress(self) -> Progress:
        """How far the rater is."""
        with self._lock:
            return self._refresh().progress()

    def order(self) -> tuple[str, ...]:
        """Ids of the phase's items in this rater's order."""
        with self._lock:
            state = self._refresh()
            return tuple(state.order(state.phase))

    def answers(self) -> list[tuple[str, Answer]]:
        """The phase's items in this rater's order, with what was said of each; looking at this list is not logged."""
        with self._lock:
            state = self._refresh()
            return [(identity, state.answer(identity)) for identity in state.order(state.phase)]

    def is_over(self) -> bool:
        """Whether the study is unblinded, so that nothing more is recorded."""
        return bool(self._store.events(OWNER))

    def next_item(self) -> BlindItem | None:
        """The item to go on with; None in review, closing and locked, where a step for all items is due."""
        with self._lock:
            current = self._refresh().current
            return None if current is None else self.item(current)

    def told(self) -> Told | None:
        """The practice item whose feedback the rater has not left yet; looking at it again is not logged."""
        with self._lock:
            event = self._refresh().told
            feedback = None if event is None else self._feedback(event)
            if event is None or feedback is None:
                return None
            item, order = str(event.item), self._state.order("practice")
            return Told(self._blind(self._state, item), feedback, order.index(item) + 1, len(order))

    def item(self, identity: str) -> BlindItem:
        """One item of the phase, as a page may show it. Looking is logged, so that a restart comes back to it.

        Raises:
            StudyError: this rater has no such item now.
        """
        with self._lock:
            state = self._refresh()
            self._own(state, identity)
            is_new = state.touched != identity or self._shown != identity
            if is_new and state.phase != "locked" and not self._store.events(OWNER):
                with self._store.writing():
                    key = f"open {state.last_seq} {identity}"
                    if self._store.find(self._rater.number, key) is None:
                        self._store.append(self._rater.number, key, kind="open", item=identity, body={})
                state, self._shown = self._refresh(), identity
            return self._blind(state, identity)

    def _own(self, state: RaterState, identity: str | None) -> str:
        if identity is None or identity not in state.order(state.phase):
            raise StudyError("there is no such item now; go on with the next one")
        return identity

    def _blind(self, state: RaterState, identity: str) -> BlindItem:
        body = self._store.evidence(state.items[identity].evidence)
        answer = state.answer(identity)
        return BlindItem(
            id=identity,
            phase=state.phase,
            panel=body["panel"],
            subject=body["subject"],
            groups=groups_from(body["groups"]),
            explanation=body["explanation"],
            stage=self._stage(state, identity, answer),
            answer=answer,
            draft=state.drafts.get(identity),
            seen=_digest(answer),
        )

    def _stage(self, state: RaterState, identity: str, answer: Answer) -> Stage:
        if answer.is_done:
            return "answered"
        if state.items[identity].phase == "guess":
            return "guess"
        return "explain" if self.rubric.writes_explanation and answer.explanation is None else "rate"

    def record(self, event: RaterEvent) -> Receipt:
        """Check one step against the rubric and the rater's state, and put it into the log.

        Raises:
            StudyError: the step does not fit, the study is unblinded, or the key was used for another step.
        """
        with self._lock, self._store.writing():
            before = self._store.find(self._rater.number, event.key)
            if before is not None:
                return self._replay(before, event)
            state = self._open_state()
            body = self._body(state, event)
            if event.kind in ("explain", "rate", "skip", "guess"):
                body["seconds"] = self._seconds(state)
            item = event.item if event.kind not in ("finish", "lock") else None
            stored = self._store.append(self._rater.number, event.key, kind=event.kind, item=item, body=body)
        return Receipt(stored.seq, item, self._feedback(stored), False)

    def undo(self, key: str) -> BlindItem | None:
        """Take back the latest step of the phase; the item that it was about, None if there is nothing to take back.

        Args:
            key: Idempotency key, as of an event.
        """
        with self._lock:
            with self._store.writing():
                if self._store.find(self._rater.number, key) is None:
                    latest = self._open_state().undoable
                    if latest is None:
                        return None
                    self._store.append(self._rater.number, key, kind="undo", item=latest.item, body={"of": latest.seq})
            current = self._refresh().current
            return None if current is None else self._blind(self._state, current)

    def _open_state(self) -> RaterState:
        if self.is_over():
            raise StudyError("the study is unblinded; nothing more can be recorded")
        state = self._refresh()
        if state.is_locked:
            raise StudyError("your ratings are locked; nothing more can be recorded")
        return state

    def _seconds(self, state: RaterState) -> float:
        return 0.0 if state.opened_at is None else round(max(time.time() - state.opened_at, 0.0), 3)

    def _replay(self, before: Stored, event: RaterEvent) -> Receipt:
        item = event.item if event.kind not in ("finish", "lock") else None
        if (before.kind, before.item) != (event.kind, item):
            raise StudyError(f"key {event.key!r} belongs to another step; give each step a key of its own")
        return Receipt(before.seq, before.item, self._feedback(before), True)

    def _body(self, state: RaterState, event: RaterEvent) -> dict[str, Any]:
        """The part of the event that its kind keeps, checked."""
        if event.kind == "finish":
            return self._finish(state, event)
        if event.kind == "lock":
            if state.phase != "closing":
                raise StudyError("ratings are locked at the very end; go on with the next item")
            return {}
        item = self._own(state, event.item)
        if (event.kind == "guess") != (state.items[item].phase == "guess") and event.kind != "draft":
            raise StudyError(f"{event.kind!r} is not what this item asks for")
        if event.seen not in (None, _digest(state.answer(item))):
            raise StudyError("this item was answered elsewhere, in another tab perhaps; this is how it stands now")
        return getattr(self, f"_{event.kind}")(state.answer(item), event)

    def _finish(self, state: RaterState, event: RaterEvent) -> dict[str, Any]:
        if state.phase != "review" and not (state.phase == "rating" and event.text.strip()):
            raise StudyError("items are left open; rate or skip them, or give a reason for stopping early")
        return {"text": event.text}

    def _draft(self, answer: Answer, event: RaterEvent) -> dict[str, Any]:
        del answer
        return {"text": event.text}

    def _explain(self, answer: Answer, event: RaterEvent) -> dict[str, Any]:
        if not self.rubric.writes_explanation:
            raise StudyError("this study asks for no explanation")
        if answer.explanation is not None:
            raise StudyError("the explanation is fixed once it is given; undo takes it back")
        if not event.text.strip():
            raise StudyError("the explanation is empty; write one, say that you can't tell, or skip with a reason")
        return {"text": event.text}

    def _rate(self, answer: Answer, event: RaterEvent) -> dict[str, Any]:
        if (event.specificity is None) != event.cannot_tell:
            raise StudyError("give a point of the rubric or say that you can't tell, one of the two")
        n = len(self.rubric.points)
        if event.specificity is not None and not 0 <= event.specificity < n:
            raise StudyError(f"specificity = {event.specificity}, but the rubric's points are 0 to {n - 1}")
        if self.rubric.writes_explanation and answer.explanation is None and not event.cannot_tell:
            raise StudyError("the explanation comes before the rating; write it first")
        return {name: getattr(event, name) for name in ("specificity", "cannot_tell", "nice", "note")}

    def _skip(self, answer: Answer, event: RaterEvent) -> dict[str, Any]:
        del answer
        if not event.text.strip():
            raise StudyError("a skip needs its reason; write a word or two")
        return {"text": event.text, "note": event.note}

    def _guess(self, answer: Answer, event: RaterEvent) -> dict[str, Any]:
        del answer
        if event.guess is not None and event.guess not in self.rubric.guesses:
            raise StudyError(
                f"guess = {event.guess!r}, but it must be one of {', '.join(self.rubric.guesses)}, or none"
            )
        return {"guess": event.guess}

    def _feedback(self, event: Stored) -> Feedback | None:
        item = None if event.item is None else self._state.items[event.item]
        if event.kind != "rate" or item is None or item.phase != "practice":
            return None
        point = event.body["specificity"]
        return Feedback("" if point is None else self.rubric.points[point], self._store.evidence(item.evidence)["fact"])


def _digest(answer: Answer) -> str:
    """Equal for equal answers; says nothing else."""
    return hashlib.sha256(repr(answer).encode()).hexdigest()[:16]
