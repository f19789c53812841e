"""One rater at work. Everything that a page may show comes from here, and nothing here knows a method's features.

    token --> RaterSession --next_item, item--> BlindItem      record, undo --> one event, on the disk when they return

A rater reaches only items of their own; other raters do not exist. Sessions of one rater may be open twice (two tabs,
two processes): each step is checked against the log as it is at that moment.
"""

import threading
import time
from typing import Any, Literal, NamedTuple

from fovea.errors import StudyError
from fovea.rating.blind import BlindGroup, groups_from
from fovea.rating.orders import new_id
from fovea.rating.state import STEPS, Answer, Phase, Progress, RaterState
from fovea.rating.steps import RaterEvent, check, digest, own_item, rubric_of
from fovea.rating.store import OWNER, Rater, Store, Stored

Stage = Literal["explain", "rate", "guess", "answered"]
_OTHER_STEP = "key {!r} belongs to another step; give each step a key of its own"


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


class RaterSession:
    """One rater's way through the study."""

    def __init__(self, store: Store, rater: Rater) -> None:
        self._store = store
        self._rater = rater
        self._lock = threading.RLock()
        self._state = RaterState(store.items(rater.number))
        self._shown: str | None = None
        "The item that this process showed last: after a restart, time is counted from when it is shown again."
        self._clock: tuple[float, float] | None = None
        "Time of the latest event that this process stored, and what the monotonic clock said then."
        self.name, self.number = rater.name, rater.number
        with store.sound():
            self.rubric = rubric_of(store.facts, self._state)

    def _refresh(self) -> RaterState:
        with self._store.sound():
            self._state.apply(self._store.events(self._rater.number, after=self._state.last_seq))
        return self._state

    def progress(self) -> Progress:
        """How far the rater is."""
        with self._lock:
            state = self._refresh()
            with self._store.sound():
                return state.progress()

    def order(self) -> tuple[str, ...]:
        """Ids of the phase's items in this rater's order."""
        with self._lock:
            state = self._refresh()
            return tuple(state.order(state.phase))

    def answers(self) -> list[tuple[str, Answer]]:
        """The phase's items in this rater's order, with what was said of each; looking at this list is not logged."""
        with self._lock:
            state = self._refresh()
            with self._store.sound():
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
            with self._store.sound():
                return Told(self._blind(self._state, item), feedback, order.index(item) + 1, len(order))

    def item(self, identity: str) -> BlindItem:
        """One item of the phase, as a page may show it. Looking is logged, so that a restart comes back to it.

        Raises:
            StudyError: this rater has no such item now.
        """
        with self._lock:
            state = self._refresh()
            own_item(state, identity)
            if state.touched != identity or self._shown != identity:
                with self._store.writing():
                    own_item(self._refresh(), identity)  # as it is now: another process may have gone on
                    if state.phase != "locked" and not self.is_over():
                        self._append(f"open {new_id()}", kind="open", item=identity, body={})
                state, self._shown = self._refresh(), identity
            return self._blind(state, identity)

    def _blind(self, state: RaterState, identity: str) -> BlindItem:
        with self._store.sound():
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
                seen=digest(answer),
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
            check(state, self.rubric, event)
            body = event.kept | ({"seconds": self._seconds(state)} if event.kind in STEPS else {})
            stored = self._append(event.key, kind=event.kind, item=event.about, body=body)
        return Receipt(stored.seq, event.about, self._feedback(stored), False)

    def undo(self, key: str) -> BlindItem | None:
        """Take back the latest step of the phase; the item that it was about, None if there is nothing to take back.

        Args:
            key: Idempotency key, as of an event.
        """
        with self._lock:
            with self._store.writing():
                before = self._store.find(self._rater.number, key)
                if before is not None and before.kind != "undo":
                    raise StudyError(_OTHER_STEP.format(key))
                if before is None:
                    latest = self._open_state().undoable
                    if latest is None:
                        return None
                    self._append(key, kind="undo", item=latest.item, body={"of": latest.seq})
            current = self._refresh().current
            return None if current is None else self._blind(self._state, current)

    def _open_state(self) -> RaterState:
        if self.is_over():
            raise StudyError("the study is unblinded; nothing more can be recorded")
        state = self._refresh()
        if state.is_locked:
            raise StudyError("your ratings are locked; nothing more can be recorded")
        return state

    def _append(self, key: str, *, kind: str, item: str | None, body: dict[str, Any]) -> Stored:
        stored = self._store.append(self._rater.number, key, kind=kind, item=item, body=body)
        if kind != "draft":
            self._clock = stored.at, time.monotonic()
        return stored

    def _seconds(self, state: RaterState) -> float:
        """Since the item was seen: by a clock that nobody sets, unless another process showed it."""
        if state.opened_at is None:
            return 0.0
        if self._clock is not None and self._clock[0] == state.opened_at:
            return round(time.monotonic() - self._clock[1], 3)
        return round(max(time.time() - state.opened_at, 0.0), 3)

    def _replay(self, before: Stored, event: RaterEvent) -> Receipt:
        kept = {name: value for name, value in before.body.items() if name != "seconds"}
        if (before.kind, before.item, kept) != (event.kind, event.about, event.kept):
            raise StudyError(_OTHER_STEP.format(event.key))
        return Receipt(before.seq, before.item, self._feedback(before), True)

    def _feedback(self, event: Stored) -> Feedback | None:
        item = None if event.item is None else self._state.items[event.item]
        if event.kind != "rate" or item is None or item.phase != "practice":
            return None
        with self._store.sound():
            point = event.body["specificity"]
            return Feedback(
                "" if point is None else self.rubric.points[point], self._store.evidence(item.evidence)["fact"]
            )
