"""Baselines: the record beside a table with the images that its runs are compared with, and its state for display.

The record is written when a table is published. It holds the state before the last run, and the last run itself, which
the next run adds to the baseline. So a run that is published twice counts once.
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from digits.errors import CorruptArtifactError, StoreError, UsageError, os_errors_as
from digits.model.baseline import BASELINE_IMAGES, MODEL_FEATURES, Baseline, Run, accept, join_parts, thin_parts
from digits.model.drift import (
    FEATURE_NAMES,
    MIN_IMAGES,
    Bins,
    Drift,
    Reference,
    Shift,
    add_counts,
    bins_of,
    find_drift,
)
from digits.outputs.summary import PredictionSummary, summary_path
from digits.store.files import locked
from digits.store.records import Record, read_record, write_record
from digits.wording import count

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DriftRecord:
    """Record of a table's baseline and of its last run.

    Args:
        baseline: baseline before the last run.
        waiting: images of earlier runs that were too few to compare; they are compared with those of the next run.
        last: images of the last run; None if the baseline was accepted after it.
        plan: digest of the plan of the last run.
        is_alarm: whether the last run has drifted.
        accepted_at: time at which the operator accepted the baseline, ISO 8601 in UTC; empty if it is the default one.
    """

    baseline: Baseline = field(default_factory=Baseline)
    waiting: Run | None = None
    last: Run | None = None
    plan: str = ""
    is_alarm: bool = False
    accepted_at: str = ""

    @property
    def batch(self) -> Run | None:
        """Images of the last run, together with those that waited for it."""
        if self.last is None or self.waiting is None or not self.waiting.is_like(self.last):
            return self.last
        return replace(self.last, parts=join_parts([*self.waiting.parts, *self.last.parts]))

    def settle(self) -> Self:
        """Return the record before the next run: the last run is in the baseline unless it drifted, or it waits."""
        batch = self.batch
        if batch is None:
            return self
        if batch.images < MIN_IMAGES:
            return replace(self, waiting=batch, last=None, is_alarm=False)
        baseline = self.baseline if self.is_alarm else self.baseline.extend(batch)
        return replace(self, baseline=baseline, waiting=None, last=None, is_alarm=False)

    def add(self, run: Run, plan: str, reference: Reference) -> tuple[Self, Drift | None]:
        """Return the record after a run, and the comparison of its images; a repeated run replaces itself.

        Without a baseline, the images are compared with the test images.

        Args:
            run: images of the run.
            plan: digest of its plan.
            reference: features of the model's test images.
        """
        before = self if self.last and self.plan == plan else self.settle()
        after = replace(before, last=run, plan=plan)
        batch = after.batch or run
        drift = before.baseline.compare(batch) or _compare_with_test_images(batch, reference)
        alarm = bool(drift and drift.is_alarm)
        return replace(after, last=replace(run, parts=thin_parts(run.parts)), is_alarm=alarm), drift

    def accept(self) -> Self:
        """Return the record with the images of the last run as baseline; the record itself if there is none."""
        batch, now = self.batch, datetime.now(UTC).isoformat(timespec="seconds")
        state = replace(self, waiting=None, last=None, is_alarm=False)
        return replace(state, baseline=accept(batch), accepted_at=now) if batch else state

    def as_record(self) -> Record:
        """Return the record as JSON values."""
        runs = {"waiting": self.waiting and self.waiting.as_record(), "last": self.last and self.last.as_record()}
        return {**vars(self), "baseline": self.baseline.as_record(), **runs}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Return the record that `as_record` wrote."""
        runs = {name: record[name] and Run.from_record(record[name]) for name in ("waiting", "last")}
        return cls(**{**record, "baseline": Baseline.from_record(record["baseline"]), **runs})


def _compare_with_test_images(run: Run, reference: Reference) -> Drift | None:
    """Compare the features that are counted in the bins of the test images; others have the bins of a baseline."""
    same = {name: part for name, part in reference.items() if run.bins.get(name) == part["edges"]}
    drift = find_drift(add_counts(run.parts), same)
    return drift if drift and drift.shifts else None


def record_path(out: Path) -> Path:
    """Return the path of the drift record of a table."""
    return out.with_name(f"{out.stem}.drift.json")


def read_drift_record(out: Path) -> DriftRecord:
    """Return the drift record of a table; an empty one, with a warning, if it is damaged, and if there is none."""
    try:
        return DriftRecord.from_record(read_record(record_path(out)))
    except FileNotFoundError:
        return DriftRecord()
    except CorruptArtifactError as error:
        logger.warning("%s; the next images of the table become its baseline", error)
        return DriftRecord()


def bins_for(out: Path, reference: Reference) -> Bins:
    """Return the bins to count the images of a run in: those of the table's baseline, else those of the test images.

    Features that depend on the model always have the bins of the model.
    """
    return {**bins_of(reference), **{name: bins for name, bins in _kept_bins(out).items() if name in reference}}


def _kept_bins(out: Path) -> Bins:
    record = read_drift_record(out).settle()
    known = record.baseline.bins or (record.waiting.bins if record.waiting else {})
    return {name: bins for name, bins in known.items() if name not in MODEL_FEATURES}


def record_run(out: Path, run: Run, *, plan: str, reference: Reference) -> Drift | None:
    """Add a run to the drift record of its table, and return the comparison of its images; None if there are too few.

    No other process may write the record of the table at the same time.
    """
    if not run.images:
        return None
    record, drift = read_drift_record(out).add(run, plan, reference)
    write_record(record_path(out), record.as_record())
    return drift


def accept_last_run(out: Path, work: Path) -> DriftRecord:
    """Make the images of the last run into a table its baseline, and return the new drift record.

    Args:
        out: path of the table.
        work: directory of the plans, which is locked while a table is published.

    Raises:
        UsageError: if no images of the table were measured, or too few.
        StoreError: if the disk is full or not writable.
    """
    remedy = "free disk space, or check that you may write there"
    with (
        os_errors_as(StoreError, record_path(out), "the baseline could not be written", remedy),
        locked(work, flags=os.O_RDONLY),
    ):
        record = require_drift_record(out)
        if record.batch and record.batch.images < MIN_IMAGES:
            raise UsageError(
                f"{out}: the last run measured {count(record.batch.images, 'image')}, but a baseline needs at least "
                f"{MIN_IMAGES}; accept it after a run with more images"
            )
        accepted = record.accept()
        write_record(record_path(out), accepted.as_record())
        return accepted


def require_drift_record(out: Path) -> DriftRecord:
    """Return the drift record of a table.

    Raises:
        UsageError: if no images of the table were measured.
    """
    record = read_drift_record(out)
    if record == DriftRecord():
        raise UsageError(
            f"{out}: found no measured images ({record_path(out).name}) beside this table; expected a table that "
            "`digits predict` has written with a model that has reference counts; run it again"
        )
    return record


class FeatureState(NamedTuple):
    """State of one feature of a table: its images in the baseline, and the shift of the last run, if it was compared.

    `feature` is the name for people. `psi` and `p` are those of `digits.model.drift.Shift`.
    """

    feature: str
    baseline: int
    psi: float | None = None
    p: float | None = None
    drifted: bool = False

    def as_row(self) -> Record:
        """Return the state as texts for people, by column."""
        return {
            "feature": self.feature,
            "baseline": f"{self.baseline:,}",
            "psi": "" if self.psi is None else f"{self.psi:.3f}",
            "p": "" if self.p is None else f"{self.p:.3g}",
            "drifted": "yes" if self.drifted else "",
        }


@dataclass(frozen=True)
class DriftState:
    """Baseline of a table and result of its last run.

    Args:
        table: path of the table.
        baseline: state of the baseline, in words.
        last_run: time, images and model of the last run that was compared, in words.
        state: result of the comparison, in words.
        alarm: whether the last run has drifted from a baseline that was not accepted since.
        features: state of each feature.
    """

    table: Path
    baseline: str
    last_run: str
    state: str
    alarm: bool
    features: Sequence[FeatureState]

    def facts(self) -> dict[str, str]:
        """Return what is to be printed before the features, by name."""
        return {"baseline": self.baseline, "last run": self.last_run, "state": self.state}

    def rows(self) -> list[Record]:
        """Return the features as texts for people, one row per feature."""
        return [feature.as_row() for feature in self.features]


def _feature_state(name: str, baseline: Baseline, shift: Shift | None) -> FeatureState:
    state = FeatureState(FEATURE_NAMES[name], baseline.images(name))
    return state._replace(psi=shift.psi, p=shift.p, drifted=shift.drifted) if shift else state


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
            _feature_state(name, baseline, shifts.get(name))
            for name in FEATURE_NAMES
            if name in {*baseline.bins, *shifts}
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
