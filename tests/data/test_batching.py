"""The choice of a batch size: near the best, as small as that allows, and stated with what was measured."""

from pathlib import Path

import pytest

from builders import texts, tiny_lm, tokenised
from fovea.data.batching import batch_record, fastest_batch, near_best
from fovea.lm.hookpoint import HookPoint

HOOK = HookPoint(0, "resid_post")


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({4: 100.0, 8: 101.0, 16: 102.0}, 4),
        ({4: 90.0, 8: 99.0, 16: 100.0}, 8),
        ({4: 10.0, 8: 50.0, 16: 100.0}, 16),
        ({1: 5.0}, 1),
    ],
)
def test_the_smallest_size_within_three_percent_of_the_best_is_taken(speeds: dict[int, float], expected: int):
    assert near_best(speeds) == expected


def test_the_choice_is_one_of_the_sizes_that_were_timed(tmp_path: Path):
    lm = tiny_lm()
    packed = tokenised(tmp_path / "a", lm, documents=texts(30)).train
    found = fastest_batch(lm, HOOK, packed, largest=10)
    assert list(found["tokens_per_second"]) == ["4", "8"]
    assert str(found["contexts_per_batch"]) in found["tokens_per_second"]
    assert list(fastest_batch(lm, HOOK, packed, largest=1)["tokens_per_second"]) == ["1"]


def test_twice_as_many_are_tried_only_while_that_was_clearly_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seconds = {1: 1.0, 2: 1.0, 4: 1.9, 8: 3.79, 16: 1.0}
    monkeypatch.setattr("fovea.data.batching._SMALLEST_CPU", 1)
    monkeypatch.setattr("fovea.data.batching._seconds", lambda *_: seconds[_[-1]])
    lm = tiny_lm()
    packed = tokenised(tmp_path / "a", lm, documents=texts(80)).train
    found = fastest_batch(lm, HOOK, packed, largest=16)
    assert found["contexts_per_batch"] == 4
    assert list(found["tokens_per_second"]) == ["1", "2", "4", "8"]


def test_the_record_of_another_lm_hook_point_or_context_size_is_another(tmp_path: Path):
    lm = tiny_lm()
    packed = tokenised(tmp_path / "a", lm, documents=texts(30)).train
    longer = tokenised(tmp_path / "b", lm, documents=texts(30), context_size=20).train
    paths = {
        batch_record(tmp_path, lm, HOOK, packed=packed),
        batch_record(tmp_path, tiny_lm(seed=1), HOOK, packed=packed),
        batch_record(tmp_path, lm, HookPoint(1, "resid_post"), packed=packed),
        batch_record(tmp_path, lm, HOOK, packed=longer),
    }
    assert len(paths) == 4
