"""metrics.jsonl: sorted, complete, the same bytes each time, and refused when it is damaged."""

import json

import pytest
from pydantic import ValidationError

from fovea.errors import RunError
from fovea.eval.records import MetricRecord, finite, metrics_frame, read_metrics, write_metrics

KEYS = {
    *("job", "method", "architecture", "domain", "seed", "corpus", "split", "metric", "definition", "value", "ci_low"),
    *("ci_high", "n_tokens", "n_documents", "unit", "reason", "corpus_fingerprint", "sae_fingerprint"),
}


def record(**changes: object) -> MetricRecord:
    return MetricRecord.model_validate(
        {
            "job": "ssae-batch_topk-k16-s0",
            "method": "ssae",
            "architecture": "batch_topk",
            "domain": "biology",
            "seed": 0,
            "corpus": "biology",
            "split": "heldout",
            "metric": "ce",
            "definition": "ce",
            "value": 3.25,
            "ci_low": 3.0,
            "ci_high": 3.5,
            "n_tokens": 100,
            "n_documents": 7,
            "unit": "nats",
            "reason": None,
            "corpus_fingerprint": "c",
            "sae_fingerprint": "s",
            **changes,
        }
    )


def test_every_key_is_in_every_line_and_missing_is_null(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", [record(value=None, ci_low=None, ci_high=None, reason="gap too small")])
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == KEYS
    assert json.loads(line)["value"] is None


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path):
    records = [record(value=0.1 + 0.2, metric=metric, definition=metric) for metric in ("ce", "kl")]
    write_metrics(tmp_path / "metrics.jsonl", records)
    assert read_metrics(tmp_path / "metrics.jsonl") == records


def test_the_order_in_which_records_come_does_not_matter(tmp_path):
    records = [record(metric=metric, job=job) for metric in ("kl", "ce") for job in ("b", "a")]
    write_metrics(tmp_path / "one", records)
    write_metrics(tmp_path / "two", reversed(records))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_missing_value_needs_a_reason():
    with pytest.raises(ValidationError, match="value is null without a reason"):
        record(value=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_a_value(value: float):
    with pytest.raises(ValidationError, match="finite number"):
        record(value=value)
    assert finite(value) is None
    assert finite(1.5) == 1.5


def test_a_damaged_line_is_named(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", [record()])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"job": "half')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is not a metric record"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_run_without_metrics_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="finish it with --resume"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_data_frame_has_a_column_per_key(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", [record(), record(metric="kl", value=None, reason="why")])
    frame = metrics_frame(tmp_path / "metrics.jsonl")
    assert set(frame.columns) == KEYS
    assert frame.loc[frame.metric == "ce", "value"].item() == 3.25
    assert frame.loc[frame.metric == "kl", "value"].isna().all()
