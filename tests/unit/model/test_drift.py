"""Tests of drift detection: shifts that matter are reported, and differences by chance are not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.errors import CorruptArtifactError
from digits.model.drift import (
    SIGNIFICANCE_LEVEL,
    Drift,
    Reference,
    Shift,
    Values,
    add_counts,
    bin_counts,
    bins_of,
    chi_square_tail,
    find_drift,
    fit_reference,
    measure_files,
    measure_images,
    population_stability_index,
)
from digits.model.onnx_model import OnnxModel, Predictor
from digits.outputs.summary import PredictionSummary, draw_trend, summary_path
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import merge_parts
from digits.prediction.worker import run_worker
from digits.store.records import read_record
from tests.support.tiny_model import MakePictures, draw, write_model

PIXELS = np.stack([draw(number) for number in range(400)])
SHARE = 0.009


def draw_features(random: np.random.Generator, images: int, *, shift: float = 0, rejected: float = SHARE) -> Values:
    """Draw features of images: ten classes, normally distributed ink, and a share rejected as no digit."""
    return {
        "classes": random.integers(0, 10, images),
        "ink": random.normal(shift, 1, images),
        "no_digit": (random.random(images) < rejected) - 0.5,
    }


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Return the reference of 10,000 images."""
    return fit_reference(draw_features(np.random.default_rng(0), 10_000), classes=10)


def drifted_features(values: Values, reference: Reference) -> list[str]:
    """Return the names of the features that have drifted."""
    found = find_drift(bin_counts(values, bins_of(reference)), reference)
    return [shift.feature for shift in found.drifted] if found else []


@pytest.mark.parametrize("images", [50, 300, 5_000])
def test_false_alarms_are_rare(reference: Reference, images: int) -> None:
    """In 2,000 runs of images like the test images, their share is at most twice the significance level."""
    random = np.random.default_rng(1)
    alarms = sum(bool(drifted_features(draw_features(random, images), reference)) for _ in range(2_000))
    assert alarms <= 2_000 * SIGNIFICANCE_LEVEL * 2


def test_p_values_are_calibrated(reference: Reference) -> None:
    """Among runs of images like the test images, about a fifth has a p-value below 0.2."""
    random, alone = np.random.default_rng(2), {"ink": reference["ink"]}
    found = [find_drift(bin_counts(draw_features(random, 300), bins_of(alone)), alone) for _ in range(1_000)]
    share = np.mean([one.shifts[0].p < 0.2 for one in found if one])
    assert 0.1 < share < 0.22


@pytest.mark.parametrize(
    ("changes", "feature"),
    [({"shift": 0.6}, "ink"), ({"shift": -0.6}, "ink"), ({"rejected": 0.06}, "no_digit")],
)
@pytest.mark.parametrize("images", [300, 100_000])
def test_a_shift_is_reported(reference: Reference, changes: dict[str, float], feature: str, images: int) -> None:
    """No other feature is reported."""
    assert drifted_features(draw_features(np.random.default_rng(3), images, **changes), reference) == [feature]


@pytest.mark.parametrize("classes", [range(8), [0, 0, *range(1, 10), 0]])
def test_a_changed_distribution_of_classes_is_reported(reference: Reference, classes: list[int]) -> None:
    """Two classes are missing, or one is three times as frequent."""
    random = np.random.default_rng(4)
    values = {**draw_features(random, 300), "classes": random.choice(list(classes), 300)}
    assert drifted_features(values, reference) == ["classes"]


def test_a_significant_shift_that_is_too_small_to_matter_is_not_reported(reference: Reference) -> None:
    values = draw_features(np.random.default_rng(5), 200_000, shift=0.15)
    found = find_drift(bin_counts(values, bins_of(reference)), reference)
    assert found is not None
    ink = next(shift for shift in found.shifts if shift.feature == "ink")
    assert (ink.p < 1e-9, ink.drifted) == (True, False)
    assert 0.01 < ink.psi < 0.1


def test_few_images_or_no_reference_give_no_comparison(reference: Reference) -> None:
    few = draw_features(np.random.default_rng(6), 49, shift=5)
    assert find_drift(bin_counts(few, bins_of(reference)), reference) is None
    many = draw_features(np.random.default_rng(6), 300, shift=5)
    assert find_drift(bin_counts(many, {}), {}) is None


def test_features_that_a_run_lacks_are_not_compared(reference: Reference) -> None:
    """A model may have no out-of-distribution score."""
    values = {"ink": draw_features(np.random.default_rng(7), 300)["ink"]}
    found = find_drift(bin_counts(values, bins_of(reference)), reference)
    assert found is not None
    assert [shift.feature for shift in found.shifts] == ["ink"]


def test_the_chi_square_tail_equals_tabulated_values() -> None:
    for value, freedom, expected in ((3.841, 1, 0.05), (5.991, 2, 0.05), (16.919, 9, 0.05), (29.588, 10, 0.001)):
        assert chi_square_tail(value, freedom) == pytest.approx(expected, rel=1e-3)
    assert chi_square_tail(0, 3) == chi_square_tail(4, 0) == 1


def test_the_population_stability_index_equals_its_formula() -> None:
    """It is 0 for equal shares."""
    half, tenth = np.array([5e6, 5e6]), np.array([1e6, 9e6])
    assert population_stability_index(half, half / 10) == pytest.approx(0, abs=1e-6)
    assert population_stability_index(tenth, half) == pytest.approx(
        0.4 * np.log(0.9 / 0.5) - 0.4 * np.log(0.1 / 0.5), rel=1e-4
    )


def test_each_feature_of_the_ink_measures_its_property() -> None:
    """Softer strokes, less ink, a lower intensity and a slant change the feature of that name."""
    picture = np.zeros((1, 28, 28), np.uint8)
    picture[0, 4:24, 12:16] = 255
    chances = np.array([[0.2, 0.8]], np.float32)
    plain = measure_images(picture, chances, np.array([0.5]))
    assert (plain["classes"][0], plain["no_digit"][0], plain["slant"][0]) == (1, 0.5, pytest.approx(0, abs=1e-6))
    assert plain["ink"][0] == pytest.approx(255 * 80 / 784)
    assert plain["level"][0] == pytest.approx(255)
    pale = measure_images(picture // 2, chances, None)
    assert pale["level"][0] == pytest.approx(127)
    assert pale["sharpness"][0] == pytest.approx(plain["sharpness"][0])
    assert "novelty" not in pale
    soft = (picture.astype(float) + np.roll(picture, 1, 2) + np.roll(picture, -1, 2)).astype(np.uint16) // 3
    assert measure_images(soft.astype(np.uint8), chances, None)["sharpness"][0] < plain["sharpness"][0]
    oblique = np.stack([np.roll(row, number // 3 - 4) for number, row in enumerate(picture[0])])[np.newaxis]
    assert measure_images(oblique, chances, None)["slant"][0] > 0.2


def test_drift_is_described_in_a_sentence() -> None:
    """The largest shift comes first. The sentence is empty without drift."""
    shifts = (Shift("ink", 0.31, 1e-5, True), Shift("size", 9.1, 0, True), Shift("slant", 0.02, 1, False))
    drift = Drift(300, shifts)
    named = "size of the images (PSI 9.10), amount of ink (PSI 0.31)"
    assert drift.sentence == drift.description == f"the images differ from the model's test images: {named}"
    assert Drift(300, shifts, 2_000).sentence == f"the images differ from the baseline of their table: {named}"
    assert Drift(300, shifts[2:]).sentence == ""
    assert Drift(300, shifts[2:], 2_000).description == "the 300 images are like the baseline of their table"
    assert Drift.from_record(json.loads(json.dumps(drift.as_record()))) == drift


def test_only_drift_from_a_baseline_is_an_alarm() -> None:
    """A difference from the test images is none: a source may always differ from them."""
    shifts = (Shift("ink", 0.31, 1e-5, True),)
    assert (Drift(300, shifts).is_alarm, Drift(300, shifts, 2_000).is_alarm) == (False, True)


def test_size_and_polarity_alone_are_no_drift() -> None:
    """They are named if another feature has drifted."""
    harmless = (Shift("size", 9.1, 0, True), Shift("polarity", 9.1, 0, True))
    assert Drift(300, harmless, 2_000).drifted == ()
    assert not Drift(300, harmless, 2_000).is_alarm
    assert len(Drift(300, (*harmless, Shift("ink", 0.31, 1e-5, True)), 2_000).drifted) == 3


def test_a_record_of_an_earlier_version_has_no_baseline() -> None:
    record = {"images": 300, "shifts": [{"feature": "ink", "psi": 0.3, "p": 0.0, "drifted": True}]}
    assert Drift.from_record(record).baseline == 0


@pytest.fixture(scope="module")
def referenced(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Return a model with a reference, which includes features of the files."""
    directory = write_model(tmp_path_factory.mktemp("referenced"))
    probabilities = Predictor(OnnxModel.load(directory, version=1)).predict(PIXELS)
    files = measure_files(np.full(400, 28), np.zeros(400), PIXELS.max(axis=(1, 2)))
    reference = fit_reference({**measure_images(PIXELS, probabilities, None), **files}, classes=10)
    spec = json.loads((directory / "spec.json").read_text())
    (directory / "spec.json").write_text(json.dumps({**spec, "reference": reference}))
    return OnnxModel.load(directory, version=1)


def make_plan(root: Path, model: OnnxModel, *, incremental: bool = False) -> Plan:
    """Plan the images of a folder, in shards of 16."""
    options = PredictionConfig(shard_size=16, incremental=incremental)
    return plan_predictions(root / "in", model=model, options=options, out=root / "p.csv", work=root / "work")


def predict(root: Path, model: OnnxModel, *, incremental: bool = False) -> PredictionSummary:
    """Predict the images of a folder in this process."""
    plan = make_plan(root, model, incremental=incremental)
    run_worker(plan)
    return merge_parts(plan)


def drifted(summary: PredictionSummary) -> list[str]:
    """Return the names of the features that have drifted in a run with a comparison."""
    assert summary.drift is not None
    return sorted(shift.feature for shift in summary.drift.drifted)


def test_a_run_is_compared_with_the_test_images(
    tmp_path: Path, referenced: OnnxModel, make_pictures: MakePictures
) -> None:
    """The same images have no drift. Dark ink, larger images and less contrast are measured in the files."""
    make_pictures(tmp_path / "in", 80)
    summary = predict(tmp_path, referenced)
    assert (drifted(summary), summary.drift and summary.drift.images) == ([], 80)
    for number in range(80):
        paper = np.pad(220 - draw(number) // 3, 8, constant_values=220)
        Image.fromarray(paper).save(tmp_path / "in" / f"{number:04d}.png")
    assert {"size", "polarity", "contrast"} <= set(drifted(predict(tmp_path, referenced)))


def test_a_resumed_run_has_the_same_drift(tmp_path: Path, referenced: OnnxModel, make_pictures: MakePictures) -> None:
    """The counts are part of the shards' commit records, and a repeated shard counts once."""
    make_pictures(tmp_path / "in", 80)
    whole = predict(tmp_path, referenced)
    plan = make_plan(tmp_path, referenced)
    run_worker(plan)
    plan.uncommit(1)
    plan.part_path(3, ".part").write_bytes(b"damaged")
    run_worker(plan)
    with pytest.raises(CorruptArtifactError):
        merge_parts(plan)
    run_worker(plan)
    again = merge_parts(plan)
    assert again.drift == whole.drift
    assert [run["images"] for run in again.trend] == [80]


def test_the_trend_contains_the_last_runs(
    tmp_path: Path, referenced: OnnxModel, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run with new images occurs once, up to the limit; ten images wait for the next run. It can be drawn."""
    monkeypatch.setattr("digits.prediction.publish.RUNS_KEPT", 2)
    for count, expected in ((60, [60]), (60, [60]), (130, [60, 70]), (140, [60, 70]), (240, [70, 110])):
        make_pictures(tmp_path / "in", count)
        summary = predict(tmp_path, referenced, incremental=True)
        if count == 140:
            assert summary.drift is None
        assert [run["images"] for run in summary.trend] == expected
    record = read_record(summary_path(summary.out))
    assert PredictionSummary.from_record(record).trend == summary.trend
    picture = draw_trend(summary)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")


def test_a_model_without_a_reference_has_no_drift_and_no_trend(
    tmp_path: Path, model: OnnxModel, make_pictures: MakePictures
) -> None:
    """Models of early versions have no reference."""
    make_pictures(tmp_path / "in", 60)
    summary = predict(tmp_path, model)
    assert (summary.drift, summary.trend, draw_trend(summary)) == (None, (), None)


def test_only_a_sample_of_a_large_folder_is_measured(
    tmp_path: Path, referenced: OnnxModel, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample contains images of each shard, at regular intervals."""
    monkeypatch.setattr("digits.prediction.worker.MAX_SAMPLED_IMAGES", 60)
    make_pictures(tmp_path / "in", 128)
    summary = predict(tmp_path, referenced)
    assert summary.drift is not None
    assert summary.drift.images == 64


def test_counts_are_added_bin_by_bin() -> None:
    assert add_counts([]) == {}
    assert add_counts([{}, {"ink": [1, 2]}, {"ink": [3, 4]}]) == {"ink": [4, 6]}
