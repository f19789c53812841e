"""Spans: what they sum, where they stand, and that they end whatever happens."""

import json
import threading
import time

import pytest

from fovea.profile import BEHIND, Profile, profiled, span


def test_a_span_counts_what_stands_within_it_apart_from_its_own(tmp_path):
    profile = Profile(tmp_path)
    for _ in range(3):
        with profile.span("outer"):
            time.sleep(0.002)
            with profile.span("inner"):
                time.sleep(0.01)
    outer, inner = profile.spans()
    assert (outer.path, inner.path) == (("outer",), ("outer", "inner"))
    assert (outer.calls, inner.calls) == (3, 3)
    assert inner.seconds >= 0.03
    assert outer.own_seconds == pytest.approx(outer.seconds - inner.seconds)
    assert inner.own_seconds == inner.seconds


def test_the_same_name_in_two_places_is_two_spans_and_the_longest_comes_first(tmp_path):
    profile = Profile(tmp_path)
    for place, seconds in (("short", 0.001), ("long", 0.02)):
        with profile.span(place), profile.span("lm"):
            time.sleep(seconds)
    assert [each.path for each in profile.spans()] == [("long",), ("long", "lm"), ("short",), ("short", "lm")]


def test_a_span_of_another_thread_says_so_and_stands_apart(tmp_path):
    profile = Profile(tmp_path)

    def work() -> None:
        with profile.span("lm"), profile.span("layer"):
            pass

    with profile.span("waiting"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert {each.path for each in profile.spans()} == {
        ("waiting",),
        (f"lm{BEHIND}",),
        (f"lm{BEHIND}", "layer"),
    }


def test_the_profile_of_a_run_that_fails_is_kept_and_spans_are_off_after(tmp_path, capsys):
    with pytest.raises(ValueError, match="as asked"), profiled(tmp_path, wanted=True), span("stage"):
        raise ValueError("as asked")
    found = json.loads((tmp_path / "profile.json").read_text())
    assert [each["path"] for each in found["spans"]] == [["stage"]]
    assert "stage" in capsys.readouterr().out
    (tmp_path / "profile.json").unlink()
    with profiled(tmp_path, wanted=False), span("stage"):
        pass
    assert not list(tmp_path.iterdir())
