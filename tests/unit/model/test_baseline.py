"""Tests of baselines: what is collected, what counts as drift from it, and what a new model changes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from digits.model.baseline import (
    BASELINE_IMAGES,
    PART_IMAGES,
    Baseline,
    Run,
    accept,
    images_in,
    join_parts,
    thin_parts,
)
from digits.model.drift import Bins, Values, bin_counts

BINS: Bins = {"classes": [n + 0.5 for n in range(9)], "ink": [-1, -0.5, 0, 0.5, 1], "polarity": [0]}


def make_run(  # noqa: PLR0913 - what the images have in common
    seed: int, images: int = 300, *, shift: float = 0, writers: float = 0, dark: float = 0.5, model: str = "m"
) -> Run:
    """Draw a run: ten classes, and ink that differs by writer, of whom each wrote 50 images.

    Args:
        seed: random seed.
        images: number of images.
        shift: mean of the ink.
        writers: standard deviation of the writers' means.
        dark: share of images with dark ink.
        model: digest of the model.
    """
    random = np.random.default_rng(seed)
    means = np.repeat(random.normal(shift, writers, -(-images // 50)), 50)[:images]
    values: Values = {
        "classes": random.integers(0, 10, images),
        "ink": random.normal(means, 1),
        "polarity": (random.random(images) < dark) - 0.5,
    }
    parts = [
        bin_counts({name: found[first : first + 64] for name, found in values.items()}, BINS)
        for first in range(0, images, 64)
    ]
    return Run(model, BINS, join_parts(parts))


def drifted(baseline: Baseline, run: Run) -> list[str]:
    """Return the features in which a run has drifted from a baseline."""
    drift = baseline.compare(run)
    assert drift is not None
    return [shift.feature for shift in drift.drifted]


def collected(*, writers: float = 0, images: int = BASELINE_IMAGES) -> Baseline:
    """Return a baseline of a run."""
    return Baseline().extend(make_run(0, images, writers=writers))


def test_parts_are_joined_until_they_have_enough_images() -> None:
    """Parts without images are left out."""
    sizes = [10, 20, 30, 0, 100, 5]
    joined = join_parts({"ink": [size]} for size in sizes)
    assert [images_in(part) for part in joined] == [60, 100, 5]
    assert join_parts([*joined, {"ink": [50]}])[-1] == {"ink": [55]}
    assert PART_IMAGES == 50


def test_a_large_run_is_thinned_at_regular_intervals() -> None:
    parts = [{"ink": [100, number]} for number in range(40)]
    assert thin_parts(parts) == tuple(parts[::2])
    assert thin_parts(parts[:20]) == tuple(parts[:20])


def test_runs_are_compared_when_the_baseline_is_complete() -> None:
    """It consists of the first images. Later ones are not added."""
    baseline = collected(images=BASELINE_IMAGES - 100)
    assert baseline.compare(make_run(1)) is None
    complete = baseline.extend(make_run(2, 100))
    assert drifted(complete, make_run(1)) == []
    assert complete.extend(make_run(1)) == complete


def test_few_images_are_not_compared() -> None:
    assert collected().compare(make_run(1, 49, shift=3)) is None


def test_an_accepted_run_is_compared_with_at_once() -> None:
    """Images like those that were accepted complete the baseline."""
    accepted = accept(make_run(1, 500))
    assert drifted(accepted, make_run(2)) == []
    assert drifted(accepted, make_run(2, shift=3)) == ["ink"]
    assert accepted.extend(make_run(3, 500)).images("ink") == 1_000


@pytest.mark.parametrize("images", [50, 300, 3_000])
def test_a_shift_is_drift(images: int) -> None:
    assert drifted(collected(), make_run(1, images, shift=1)) == ["ink"]


@pytest.mark.parametrize("images", [50, 100, 300])
def test_false_alarms_are_rare_although_writers_differ(images: int) -> None:
    """At most 1 of 100 runs. Without the dispersion, more than one run in ten would be an alarm."""
    baseline = collected(writers=0.5)
    alarms = sum(bool(drifted(baseline, make_run(seed, images, writers=0.5))) for seed in range(1, 201))
    assert alarms <= 2


def test_a_baseline_whose_parts_differ_does_not_hide_a_large_shift() -> None:
    assert drifted(collected(writers=0.5), make_run(1, shift=1.5, writers=0.5)) == ["ink"]


def test_a_small_baseline_raises_few_false_alarms() -> None:
    """Its dispersion is not well known, so that only large shifts count."""
    baseline = accept(make_run(0, 150, writers=0.5))
    assert sum(bool(drifted(baseline, make_run(seed, writers=0.5))) for seed in range(1, 201)) <= 2
    assert drifted(baseline, make_run(1, shift=4)) == ["ink"]


def test_polarity_alone_is_no_drift() -> None:
    """The shift is recorded."""
    drift = collected().compare(make_run(1, dark=1))
    assert drift is not None
    assert {shift.feature: shift.drifted for shift in drift.shifts} == {
        "classes": False,
        "ink": False,
        "polarity": True,
    }
    assert not drift.is_alarm


def test_a_new_model_needs_a_new_baseline_for_its_predictions_only() -> None:
    """An accepted baseline of the ink remains, and predictions are compared once enough were collected."""
    baseline = accept(make_run(0, BASELINE_IMAGES))
    run = make_run(1, model="other")
    drift = baseline.compare(run)
    assert drift is not None
    assert [shift.feature for shift in drift.shifts] == ["ink", "polarity"]
    extended = baseline.extend(run)
    assert (extended.images("ink"), extended.images("classes")) == (BASELINE_IMAGES, 300)
    assert extended.accepted == ("ink", "polarity")
    complete = extended.extend(make_run(2, BASELINE_IMAGES, model="other")).compare(run)
    assert complete is not None
    assert len(complete.shifts) == 3


def test_other_bins_need_a_new_baseline() -> None:
    run = make_run(1)
    other = replace(run, bins={**BINS, "ink": [0]}, parts=({**run.parts[0], "ink": [100, 200]},))
    assert collected().fit_to(other).bins.keys() == {"classes", "polarity"}
    assert collected().extend(other).bins["ink"] == [0]


def test_a_baseline_equals_its_record() -> None:
    baseline, run = accept(make_run(0)), make_run(1)
    assert Baseline.from_record(json.loads(json.dumps(baseline.as_record()))) == baseline
    assert Run.from_record(json.loads(json.dumps(run.as_record()))) == run
    assert run.is_like(make_run(2))
    assert not run.is_like(make_run(2, model="other"))


def test_a_feature_with_one_value_has_no_drift() -> None:
    """A bin that is always empty is no division by zero."""
    parts = ({"polarity": [100, 0]},) * 30
    run = Run("m", {"polarity": [0]}, parts[:1])
    drift = Baseline("m", {"polarity": [0]}, parts).compare(run)
    assert drift is not None
    assert (drift.shifts[0].p, drift.drifted) == (1, ())


def test_values_in_many_new_bins_are_drift() -> None:
    """Each of them has so few images that they are merged for the chi-square test."""
    bins = {"contrast": [float(edge) for edge in range(1, 20)]}
    before, after = [*[0] * 19, 100], [*[5] * 19, 5]
    drift = Baseline("m", bins, ({"contrast": before},) * 20).compare(Run("m", bins, ({"contrast": after},)))
    assert drift is not None
    assert drift.is_alarm
