"""metrics.jsonl: one record per line, every key always present, missing is null with a reason.

Estimate + what was measured on what --> MetricRecord --write_metrics--> sorted lines, equal bytes for equal records
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeInt, ValidationError, model_validator

from fovea.atomic import write_text
from fovea.config import Config
from fovea.errors import RunError

if TYPE_CHECKING:
    import pandas as pd


class MetricRecord(Config):
    """One measured number, with everything needed to know what it is."""

    job: str
    "Job name; g for the general SAE alone, lm for the language model itself, control-... for controls."
    method: str
    architecture: str | None
    domain: str | None
    seed: int | None
    corpus: str
    split: Literal["heldout", "train"]
    metric: str
    definition: str
    "Key of fovea.eval.definitions.DEFINITIONS."
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n_tokens: NonNegativeInt
    n_documents: NonNegativeInt | None
    unit: str
    reason: str | None
    "Why value or interval is null; null when both are there or the metric has no interval."
    corpus_fingerprint: str
    sae_fingerprint: str | None

    @model_validator(mode="after")
    def _missing_has_a_reason(self) -> "MetricRecord":
        if self.value is None and not self.reason:
            raise ValueError(f"{self.job} {self.metric}: value is null without a reason")
        return self


def finite(value: float | None) -> float | None:
    """`value`, or None for NaN and infinities."""
    return value if value is not None and math.isfinite(value) else None


def write_metrics(path: Path, records: Iterable[MetricRecord]) -> None:
    """Write the records sorted, one json object per line, atomically."""
    ordered = sorted(records, key=lambda r: (r.corpus, r.split, r.job, r.domain or "", r.metric))
    lines = [json.dumps(record.model_dump(mode="json"), allow_nan=False) for record in ordered]
    write_text(path, "".join(line + "\n" for line in lines))


def read_metrics(path: Path) -> list[MetricRecord]:
    """The records of a metrics.jsonl.

    Raises:
        RunError: the file is missing, or a line is not a record.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: this run has not been evaluated; finish it with --resume") from None
    records: list[MetricRecord] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(MetricRecord.model_validate_json(line))
        except ValidationError as error:
            raise RunError(
                f"{path}, line {number} is not a metric record: {error}; continue the run with --resume, which "
                "writes it again"
            ) from None
    return records


def metrics_frame(path: Path) -> "pd.DataFrame":
    """The records of a metrics.jsonl as a pandas data frame, one column per key."""
    import pandas as pd

    return pd.DataFrame([record.model_dump() for record in read_metrics(path)], columns=list(MetricRecord.model_fields))
