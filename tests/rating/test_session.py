"""A rater's way: stages, undo, resume, locks, and what is refused."""

import pytest
from pydantic import ValidationError

from fovea.errors import StudyError
from fovea.rating.session import RaterEvent
from fovea.rating.store import Store
from fovea.rating.study import Study
from tests.rating.made_study import made, work


@pytest.fixture
def study(tmp_path):
    study = made(tmp_path)
    yield study
    study.close()


def ann(study):
    return study.rater(study.tokens()["ann"])


def reopened(study):
    return Study.open(study.folder.parent.parent, study.name)


def past_practice(session):
    work(session, n_steps=4)
    assert session.progress().phase == "rating"
    return session


def say(session, kind, key, **more):
    return session.record(RaterEvent(kind=kind, key=key, **more))


def test_the_whole_way(study):
    session = ann(study)
    phases = []
    assert session.progress().phase == "practice"
    item = session.next_item()
    say(session, "explain", "a", item=item.id, text="about cells")
    receipt = say(session, "rate", "b", item=item.id, specificity=3)
    assert receipt.feedback.anchor == study.config.rubric.points[3]
    assert "fires" in receipt.feedback.fact
    while session.progress().phase != "locked":
        phases.append(session.progress().phase)
        work(session, n_steps=1)
    assert list(dict.fromkeys(phases)) == ["practice", "rating", "review", "guess", "closing"]
    with pytest.raises(StudyError, match="locked"):
        say(session, "draft", "z", item=item.id, text="x")


def test_feedback_is_for_practice_only(study):
    session = past_practice(ann(study))
    item = session.next_item()
    say(session, "explain", "e", item=item.id, text="x")
    assert say(session, "rate", "r", item=item.id, specificity=1).feedback is None


def test_the_explanation_comes_first_and_is_fixed(study):
    session = past_practice(ann(study))
    item = session.next_item()
    assert item.stage == "explain"
    with pytest.raises(StudyError, match="explanation comes before"):
        say(session, "rate", "1", item=item.id, specificity=1)
    with pytest.raises(StudyError, match="empty"):
        say(session, "explain", "2", item=item.id, text="  \n")
    say(session, "explain", "3", item=item.id, text="first")
    assert session.item(item.id).stage == "rate"
    with pytest.raises(StudyError, match="fixed"):
        say(session, "explain", "4", item=item.id, text="second")
    assert session.undo("5").id == item.id
    assert session.item(item.id).stage == "explain"
    assert session.item(item.id).draft == "first"


def test_cannot_tell_is_not_a_low_point_and_needs_no_explanation(study):
    session = past_practice(ann(study))
    item = session.next_item()
    with pytest.raises(StudyError, match="one of the two"):
        say(session, "rate", "1", item=item.id, specificity=0, cannot_tell=True)
    with pytest.raises(StudyError, match="one of the two"):
        say(session, "rate", "2", item=item.id)
    say(session, "rate", "3", item=item.id, cannot_tell=True)
    answer = session.item(item.id).answer
    assert answer.cannot_tell
    assert answer.specificity is None
    assert answer.is_done


@pytest.mark.parametrize("point", [-1, 4, 99])
def test_points_outside_the_rubric_are_refused(study, point):
    session = past_practice(ann(study))
    item = session.next_item()
    say(session, "explain", "e", item=item.id, text="x")
    with pytest.raises(StudyError, match="the rubric's points are 0 to 3"):
        say(session, "rate", "r", item=item.id, specificity=point)


def test_undo_takes_back_one_step_at_a_time_and_stays_in_the_log(study):
    session = past_practice(ann(study))
    first = session.next_item()
    say(session, "explain", "1", item=first.id, text="x")
    say(session, "rate", "2", item=first.id, specificity=2, nice=True, note="n")
    second = session.next_item()
    assert second.id != first.id
    say(session, "skip", "3", item=second.id, text="broken text")
    assert session.undo("u1").id == second.id
    assert not session.item(second.id).answer.is_done
    assert session.undo("u2").id == first.id
    assert session.item(first.id).stage == "rate"
    assert session.undo("u3").stage == "explain"
    assert session.undo("u4") is None, "practice is over"
    kinds = [event.kind for event in study.store.events(1) if event.kind != "open"]
    assert kinds[-6:] == ["explain", "rate", "skip", "undo", "undo", "undo"]


def test_undo_of_an_edit_restores_what_was_said_before(study):
    session = past_practice(ann(study))
    first = session.next_item()
    say(session, "explain", "1", item=first.id, text="x")
    say(session, "rate", "2", item=first.id, specificity=2)
    session.next_item()
    assert session.item(first.id).stage == "answered"
    say(session, "rate", "3", item=first.id, specificity=0, note="on second thoughts")
    assert session.item(first.id).answer.specificity == 0
    session.undo("4")
    assert session.item(first.id).answer.specificity == 2
    assert session.item(first.id).answer.note == ""


def test_a_restart_continues_on_the_exact_item_with_its_draft(study):
    session = past_practice(ann(study))
    work(session, n_steps=7)
    item = session.next_item()
    say(session, "draft", "d1", item=item.id, text="half a tho")
    again = reopened(study)
    there = ann(again).next_item()
    assert there == session.item(item.id)
    assert there.draft == "half a tho"
    assert ann(again).progress() == session.progress()
    other = session.order()[2]
    session.item(other)  # looking back at an answered item, then the power goes
    assert ann(reopened(study)).next_item().id == other


def test_a_step_sent_twice_counts_once(study):
    session = past_practice(ann(study))
    item = session.next_item()
    one = say(session, "explain", "same", item=item.id, text="x")
    n = len(study.store.events(1))
    two = say(session, "explain", "same", item=item.id, text="x")
    assert (two.seq, two.is_replay, one.is_replay) == (one.seq, True, False)
    assert len(study.store.events(1)) == n
    with pytest.raises(StudyError, match="belongs to another step"):
        say(session, "rate", "same", item=item.id, specificity=1)
    session.undo("back")
    n = len(study.store.events(1))
    session.undo("back")
    assert len(study.store.events(1)) == n


def test_two_tabs_of_one_rater_see_the_same_log(study):
    one, two = past_practice(ann(study)), ann(reopened(study))
    item = one.next_item()
    say(one, "explain", "1", item=item.id, text="from tab one")
    with pytest.raises(StudyError, match="fixed"):
        say(two, "explain", "2", item=item.id, text="from tab two")
    assert two.next_item().answer.explanation == "from tab one"


def test_raters_reach_only_their_own_items_and_never_each_other(study):
    session = past_practice(ann(study))
    bob = study.rater(study.tokens()["bob"])
    theirs = {item.id for item in study.store.items(2)}
    assert not theirs & {item.id for item in study.store.items(1)}
    for identity in (*sorted(theirs)[:3], "../sealed.json", "", "' OR 1=1 --"):
        with pytest.raises(StudyError, match="no such item"):
            session.item(identity)
        with pytest.raises(StudyError, match="no such item"):
            say(session, "rate", "k", item=identity, cannot_tell=True)
    before = bob.progress()
    work(session, n_steps=10)
    assert bob.progress() == before


def test_items_of_later_phases_are_closed(study):
    session = ann(study)
    for item in study.store.items(1):
        if item.phase != "practice":
            with pytest.raises(StudyError, match="no such item"):
                session.item(item.id)


def test_nobodys_token(study):
    for token in ("", "x", study.tokens()["ann"] + "x", study.tokens()["ann"][:-1]):
        with pytest.raises(StudyError, match="belongs to no rater"):
            study.rater(token)


def test_ratings_are_fixed_before_the_guessing(study):
    session = ann(study)
    while session.progress().phase != "guess":
        work(session, n_steps=1)
    rated = [item.id for item in study.store.items(1) if item.phase == "rating"]
    with pytest.raises(StudyError, match="no such item"):
        say(session, "rate", "late", item=rated[0], specificity=0)
    assert session.undo("u") is None
    guess = session.next_item()
    assert guess.stage == "guess"
    with pytest.raises(StudyError, match="must be one of direct, ssae"):
        say(session, "guess", "g", item=guess.id, guess="finetune")
    with pytest.raises(StudyError, match="not what this item asks for"):
        say(session, "rate", "h", item=guess.id, specificity=1)
    say(session, "guess", "i", item=guess.id, guess=None)
    assert session.undo("j").id == guess.id


def test_stopping_early_needs_a_reason_and_leaves_a_record(study):
    session = past_practice(ann(study))
    with pytest.raises(StudyError, match="reason for stopping early"):
        say(session, "finish", "f")
    say(session, "finish", "g", text="no time left")
    assert session.progress().phase == "guess"


def test_locking_comes_last(study):
    session = past_practice(ann(study))
    with pytest.raises(StudyError, match="very end"):
        say(session, "lock", "l")


def test_a_skip_needs_its_reason(study):
    session = past_practice(ann(study))
    item = session.next_item()
    with pytest.raises(StudyError, match="reason"):
        say(session, "skip", "s", item=item.id, text=" ")
    say(session, "skip", "t", item=item.id, text="garbled")
    assert session.progress().n_skipped == 1


def test_nothing_is_recorded_after_the_unblinding(study):
    session = past_practice(ann(study))
    item = session.next_item()
    study.unblind(force_reason="test")
    with pytest.raises(StudyError, match="unblinded"):
        say(session, "explain", "e", item=item.id, text="x")
    with pytest.raises(StudyError, match="unblinded"):
        session.undo("u")
    n = len(study.store.events())
    session.item(session.order()[1])
    assert len(study.store.events()) == n


def test_events_are_checked_before_they_come_here():
    for wrong in (
        {"key": "a b"},
        {"key": "k" * 65},
        {"key": ""},
        {"text": "x" * 4001},
        {"seq": 3},
        {"kind": "unblind"},
    ):
        with pytest.raises(ValidationError):
            RaterEvent(**{"kind": "rate", "key": "k", **wrong})


def test_seconds_are_measured_from_seeing_to_answering_whatever_the_clock_says(study, monkeypatch):
    clock, passed = [1000.0], [50.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    monkeypatch.setattr("time.monotonic", lambda: passed[0])
    session = past_practice(ann(study))
    item = session.next_item()
    passed[0] += 12
    clock[0] += 3600  # the machine's clock was wrong and is set while the rater reads
    say(session, "draft", "d", item=item.id, text="x")
    say(session, "explain", "e", item=item.id, text="x")
    passed[0] += 5
    clock[0] -= 9999
    say(session, "rate", "r", item=item.id, specificity=1)
    assert session.item(item.id).answer.seconds == pytest.approx(17)


def test_seconds_of_an_item_that_another_process_showed_are_by_the_log(study, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    item = past_practice(ann(study)).next_item()
    clock[0] += 7
    say(ann(reopened(study)), "explain", "e", item=item.id, text="x")
    assert study.store.events(1)[-1].body["seconds"] == pytest.approx(7)


def test_another_answer_under_a_used_key_is_refused_not_swallowed(study):
    session = past_practice(ann(study))
    item = session.next_item()
    say(session, "explain", "e", item=item.id, text="x")
    say(session, "rate", "same", item=item.id, specificity=1)
    assert say(session, "rate", "same", item=item.id, specificity=1).is_replay
    for other in ({"specificity": 2}, {"specificity": 1, "nice": True}, {"specificity": 1, "note": "n"}):
        with pytest.raises(StudyError, match="belongs to another step"):
            say(session, "rate", "same", item=item.id, **other)
    with pytest.raises(StudyError, match="belongs to another step"):
        session.undo("same")
    assert session.item(item.id).answer.specificity == 1


def test_nothing_is_opened_when_the_phase_ended_in_another_process(study, monkeypatch):
    one, two = past_practice(ann(study)), ann(reopened(study))
    item = two.next_item()
    begin = Store.writing

    def writing(store):
        """Just before this process looks, the other one stops the rating."""
        monkeypatch.setattr(Store, "writing", begin)
        say(one, "finish", "f", text="no time left")
        return begin(store)

    other = two.order()[5]
    assert other != item.id
    n = len(study.store.events(1))
    monkeypatch.setattr(Store, "writing", writing)
    with pytest.raises(StudyError, match="no such item now"):
        two.item(other)
    assert [event.kind for event in study.store.events(1)[n:]] == ["finish"]


def test_a_study_without_practice_guesses_explanations_and_repeats(tmp_path):
    study = made(tmp_path, "bare", n_practice=0, n_guesses=0, explanation="none", repeat_share=0.0, panels=["domain"])
    session = ann(study)
    assert session.next_item().stage == "rate"
    with pytest.raises(StudyError, match="asks for no explanation"):
        say(session, "explain", "e", item=session.next_item().id, text="x")
    assert work(session) == 40 + 2
    assert session.progress().phase == "locked"
