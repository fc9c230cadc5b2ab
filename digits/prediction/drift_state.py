"""Drift state: the baseline of a table and the result of its last run, for display."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from digits.errors import CorruptArtifactError
from digits.model.baseline import BASELINE_IMAGES, Baseline
from digits.model.drift import FEATURE_NAMES, Shift
from digits.outputs.summary import PredictionSummary, summary_path
from digits.prediction.baselines import DriftRecord, require_drift_record
from digits.store.records import Record, read_record
from digits.wording import count


@dataclass(frozen=True)
class DriftState:
    """Baseline of a table and result of its last run.

    Args:
        table: path of the table.
        baseline: state of the baseline, in words.
        last_run: time, images and model of the last run that was compared, in words.
        state: result of the comparison, in words.
        alarm: whether the last run has drifted from a baseline that was not accepted since.
        features: one row per feature: images in the baseline, and the shift of the last run.
    """

    table: Path
    baseline: str
    last_run: str
    state: str
    alarm: bool
    features: Sequence[Record]

    def facts(self) -> dict[str, str]:
        """Return what is to be printed before the features, by name."""
        return {"baseline": self.baseline, "last run": self.last_run, "state": self.state}


def drift_state(out: Path) -> DriftState:
    """Return the drift state of a table.

    Raises:
        UsageError: if no images of the table were measured.
    """
    record, summary = require_drift_record(out), _summary_of(out)
    baseline = record.settle().baseline
    drift = summary and summary.drift
    shifts = {shift.feature: shift for shift in (drift.shifts if drift else ())}
    latest = summary.trend[-1] if summary and summary.trend else None
    return DriftState(
        table=out,
        baseline=describe_baseline(baseline, record.accepted_at),
        last_run=f"{latest['at']}, {latest['images']:,} images, model {latest['model_version']}" if latest else "none",
        state=_describe_state(record, drift.description if drift else ""),
        alarm=record.is_alarm,
        features=[
            _row(name, baseline, shifts.get(name)) for name in FEATURE_NAMES if name in {*baseline.bins, *shifts}
        ],
    )


def _summary_of(out: Path) -> PredictionSummary | None:
    with suppress(FileNotFoundError, CorruptArtifactError):
        return PredictionSummary.from_record(read_record(summary_path(out)))
    return None


def describe_baseline(baseline: Baseline, accepted_at: str) -> str:
    """Return the state of a baseline in words.

    Args:
        baseline: baseline with the images of all runs so far.
        accepted_at: time at which it was accepted; empty if it is the default one.
    """
    counts = sorted(baseline.images(name) for name in baseline.bins)
    if not counts:
        return "none"
    collected = count(counts[-1], "image")
    if accepted_at:
        return f"{collected}, accepted at {accepted_at}"
    if counts[0] >= BASELINE_IMAGES:
        return f"{collected}, the first ones of the table"
    return (
        f"{counts[0]:,} of {BASELINE_IMAGES:,} images; until then, runs are only compared with the model's test images"
    )


def _describe_state(record: DriftRecord, description: str) -> str:
    if record.last is None:
        return "no alarm: the images of the last run were accepted"
    if record.is_alarm:
        return f"alarm: {description or 'the last images that were compared differ from the baseline'}"
    return f"no alarm: {description}" if description else "no alarm: too few images to compare"


def _row(name: str, baseline: Baseline, shift: Shift | None) -> Record:
    return {
        "feature": FEATURE_NAMES[name],
        "baseline": f"{baseline.images(name):,}",
        "psi": f"{shift.psi:.3f}" if shift else "",
        "p": f"{shift.p:.3g}" if shift else "",
        "drifted": "yes" if shift and shift.drifted else "",
    }
