"""Tests of drift records: which runs are in the baseline of a table, and what survives a repeated or damaged run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from digits.errors import UsageError
from digits.model.baseline import BASELINE_IMAGES, Run
from digits.model.drift import Reference, bin_counts, bins_of, fit_reference
from digits.prediction.baselines import (
    DriftRecord,
    accept_last_run,
    bins_for,
    drift_state,
    read_drift_record,
    record_path,
    record_run,
)
from digits.store.records import read_record

REFERENCE: Reference = fit_reference(
    {"ink": np.random.default_rng(0).normal(size=5_000), "classes": np.arange(5_000) % 10}, classes=10
)


def make_run(seed: int, images: int = 500, *, shift: float = 0, reference: Reference = REFERENCE) -> Run:
    """Draw a run of ten classes with normally distributed ink."""
    random = np.random.default_rng(seed)
    values = {"ink": random.normal(shift, 1, images), "classes": random.integers(0, 10, images)}
    bins = bins_of(reference)
    parts = [
        bin_counts({name: found[first : first + 50] for name, found in values.items()}, bins)
        for first in range(0, images, 50)
    ]
    return Run("m", bins, tuple(parts))


def after(*runs: Run) -> DriftRecord:
    """Return the record after several runs."""
    record = DriftRecord()
    for number, run in enumerate(runs):
        record, _ = record.add(run, str(number), REFERENCE)
    return record


def test_the_first_images_of_a_table_become_its_baseline() -> None:
    """Each run counts once it is followed by another. Until then it is compared with the test images."""
    record, drift = after(make_run(1)).add(make_run(2, shift=1), "next", REFERENCE)
    assert record.baseline.images("ink") == 500
    assert drift is not None
    assert (drift.baseline, bool(drift.drifted), record.is_alarm) == (0, True, False)
    assert record.settle().baseline.images("ink") == 1_000


def test_a_run_that_has_drifted_is_not_in_the_baseline() -> None:
    record, drift = after(make_run(1, BASELINE_IMAGES)).add(make_run(2, shift=1), "next", REFERENCE)
    assert drift is not None
    assert (drift.baseline, [shift.feature for shift in drift.drifted]) == (BASELINE_IMAGES, ["ink"])
    assert record.is_alarm
    assert record.settle().baseline.images("ink") == BASELINE_IMAGES
    assert not record.settle().is_alarm


def test_a_run_that_is_published_twice_counts_once() -> None:
    once = after(make_run(1), make_run(2))
    assert once.add(make_run(2), "1", REFERENCE)[0] == once


def test_a_few_images_wait_for_the_next_run() -> None:
    record = after(make_run(1, 30))
    assert record.settle().baseline.images("ink") == 0
    record, drift = record.add(make_run(2, 30), "next", REFERENCE)
    assert drift is not None
    assert drift.images == 60
    assert record.settle().baseline.images("ink") == 60


def test_images_of_another_model_do_not_wait() -> None:
    record, drift = after(make_run(1, 30)).add(replace(make_run(2, 30), model="other"), "next", REFERENCE)
    assert drift is None
    assert record.settle().waiting == record.last


def test_a_record_is_written_beside_its_table(tmp_path: Path) -> None:
    """A run without measured images writes none."""
    out = tmp_path / "table.csv"
    assert record_run(out, Run("m", {}, ()), plan="0", reference={}) is None
    assert not record_path(out).exists()
    for number in range(5):
        record_run(out, make_run(number), plan=str(number), reference=REFERENCE)
    assert record_path(out).name == "table.drift.json"
    assert read_drift_record(out) == after(*map(make_run, range(5)))
    assert DriftRecord.from_record(read_record(record_path(out))).plan == "4"


def test_a_damaged_record_starts_a_new_baseline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "table.csv"
    record_run(out, make_run(1), plan="1", reference=REFERENCE)
    record_path(out).write_text("{}")
    assert read_drift_record(out) == DriftRecord()
    assert "the next images of the table become its baseline" in caplog.text


def test_the_bins_of_a_baseline_outlast_the_model(tmp_path: Path) -> None:
    """Except those of features that depend on the model."""
    out = tmp_path / "table.csv"
    new = fit_reference({"ink": np.arange(1_000), "classes": np.arange(1_000) % 3}, classes=3)
    assert bins_for(out, new) == bins_of(new)
    record_run(out, make_run(1), plan="1", reference=REFERENCE)
    assert bins_for(out, new) == {"ink": REFERENCE["ink"]["edges"], "classes": new["classes"]["edges"]}
    assert bins_for(out, {}) == {}
    ink = tuple({"ink": part["ink"]} for part in make_run(2).parts)
    drift = record_run(out, Run("other", bins_for(out, new), ink), plan="2", reference=new)
    assert drift is None, "the ink is in other bins than that of the test images"


def test_the_bins_of_waiting_images_are_kept(tmp_path: Path) -> None:
    record_run(tmp_path / "t.csv", make_run(1, 30), plan="1", reference=REFERENCE)
    new = fit_reference({"ink": np.arange(1_000)}, classes=3)
    assert bins_for(tmp_path / "t.csv", new)["ink"] == REFERENCE["ink"]["edges"]


def test_the_last_run_can_be_accepted(tmp_path: Path) -> None:
    """Accepting it again changes nothing. Later runs are compared with it."""
    out = tmp_path / "table.csv"
    record_run(out, make_run(1, BASELINE_IMAGES), plan="1", reference=REFERENCE)
    assert drift_state(out).baseline == "2,000 images, the first ones of the table"
    record_run(out, make_run(2, shift=1), plan="2", reference=REFERENCE)
    assert drift_state(out).alarm
    accepted = accept_last_run(out, tmp_path)
    assert accepted.baseline.images("ink") == 500
    assert accept_last_run(out, tmp_path).baseline == accepted.baseline
    state = drift_state(out)
    assert not state.alarm
    assert state.baseline.startswith("500 images, accepted at 2")
    assert state.state == "no alarm: the images of the last run were accepted"
    assert [row["baseline"] for row in state.rows()] == ["500", "500"]
    drift = record_run(out, make_run(3, shift=1), plan="3", reference=REFERENCE)
    assert drift is not None
    assert (drift.drifted, drift.baseline) == ((), 500)
    back = record_run(out, make_run(4, shift=-1), plan="4", reference=REFERENCE)
    assert back is not None
    assert back.is_alarm


def test_too_few_images_cannot_be_accepted(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    record_run(out, make_run(1, 30), plan="1", reference=REFERENCE)
    with pytest.raises(UsageError, match="measured 30 images, but a baseline needs at least 50"):
        accept_last_run(out, tmp_path)
    assert drift_state(out).state == "no alarm: too few images to compare"
    assert drift_state(out).baseline == "none"


def test_a_table_without_measured_images_has_no_state(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no measured images \(t.drift.json\) beside this table"):
        drift_state(tmp_path / "t.csv")


def test_an_incomplete_baseline_is_described(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    record_run(out, make_run(1), plan="1", reference=REFERENCE)
    assert drift_state(out).baseline.startswith("500 of 2,000 images; until then")


def test_an_alarm_is_shown_without_a_summary(tmp_path: Path) -> None:
    """A later run without new images has no comparison in its summary."""
    out = tmp_path / "table.csv"
    record_run(out, make_run(1, BASELINE_IMAGES), plan="1", reference=REFERENCE)
    record_run(out, make_run(2, shift=1), plan="2", reference=REFERENCE)
    assert drift_state(out).state == "alarm: the last images that were compared differ from the baseline"
    assert drift_state(out).last_run == "none"
