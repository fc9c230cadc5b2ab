"""Drift of an inbox of real digits: batches of one source raise no alarm, and a change of the source does."""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from digits.data.datasets import load
from digits.errors import StoreError
from digits.images.types import Pixels
from digits.model.drift import fit_reference, measure_files, measure_images
from digits.model.onnx_model import OnnxModel, Predictor
from digits.outputs.summary import PredictionSummary
from digits.prediction.baselines import accept_last_run, drift_state, read_drift_record
from digits.prediction.config import PredictionConfig
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import merge_parts
from digits.prediction.worker import run_worker
from digits.store.records import Record
from tests.support.tiny_model import write_model

BATCH, BATCHES = 200, 16


@pytest.fixture(scope="module")
def digits() -> Pixels:
    """Return the training images of the bundled sample."""
    return load("mnist-sample", downloads=Path()).train_pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Return a network with random weights, and the sample's test images as its reference."""
    return make_model(tmp_path_factory.mktemp("model"), load("mnist-sample", downloads=Path()).test_pixels, seed=0)


def make_model(place: Path, pixels: Pixels, *, seed: int) -> OnnxModel:
    """Write a network with random weights and the features of test images."""
    directory = write_model(place, seed=seed)
    probabilities = Predictor(OnnxModel.load(directory, version=1)).predict(pixels)
    files = measure_files(np.full(len(pixels), 28), np.zeros(len(pixels)), pixels.max(axis=(1, 2)))
    reference = fit_reference({**measure_images(pixels, probabilities, None), **files}, classes=10)
    spec = json.loads((directory / "spec.json").read_text())
    (directory / "spec.json").write_text(json.dumps({**spec, "reference": reference}))
    return OnnxModel.load(directory, version=1)


def predict(root: Path, images: Sequence[Pixels] | Pixels, model: OnnxModel) -> PredictionSummary:
    """Put images into the inbox, and predict those that are new."""
    inbox = root / "inbox"
    inbox.mkdir(exist_ok=True)
    first = len(list(inbox.iterdir()))
    for number, pixels in enumerate(images, first):
        Image.fromarray(pixels).save(inbox / f"{number:05d}.png")
    options = PredictionConfig(incremental=True)
    plan = plan_predictions(inbox, model=model, options=options, out=root / "table.csv", work=root / "work")
    run_worker(plan)
    return merge_parts(plan)


def alarms(root: Path, batches: Sequence[Sequence[Pixels] | Pixels], model: OnnxModel) -> list[bool]:
    """Return for each batch whether it is an alarm, and check that the state of the table says the same."""
    found = []
    for batch in batches:
        summary = predict(root, batch, model)
        assert summary.drift is not None
        assert drift_state(root / "table.csv").alarm == summary.drift.is_alarm == bool(summary.trend[-1]["drifted"])
        found.append(summary.drift.is_alarm)
    return found


def test_an_inbox_of_inverted_digits_raises_no_alarm_but_its_change_does(
    tmp_path: Path, digits: Pixels, model: OnnxModel
) -> None:
    """Dark ink on light paper never matches the test images. Blurred strokes are a change, until they are accepted."""
    inverted = 255 - digits
    batches = [inverted[first : first + BATCH] for first in range(0, BATCH * BATCHES, BATCH)]
    assert not any(alarms(tmp_path, batches, model))
    blurred = [
        np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))) for pixels in inverted[-3 * BATCH :]
    ]
    assert alarms(tmp_path, [blurred[:BATCH]], model) == [True]
    state = drift_state(tmp_path / "table.csv")
    assert state.state.startswith("alarm: the images differ from the baseline of their table: ")
    assert "sharpness of strokes" in state.state
    accept_last_run(tmp_path / "table.csv", tmp_path / "work")
    assert alarms(tmp_path, [blurred[BATCH : 2 * BATCH], blurred[2 * BATCH :]], model) == [False, False]


def test_the_first_images_of_a_table_are_compared_with_the_test_images_without_an_alarm(
    tmp_path: Path, digits: Pixels, model: OnnxModel
) -> None:
    """The inverted digits differ in more than polarity, which is reported."""
    drift = predict(tmp_path, 255 - digits[:300] // 2, model).drift
    assert drift is not None
    assert (bool(drift.drifted), drift.is_alarm) == (True, False)
    assert drift.sentence.startswith("the images differ from the model's test images: ")


def test_a_run_that_ends_after_its_baseline_was_written_counts_once(
    tmp_path: Path, digits: Pixels, model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the summary is written, and the same run is published again."""
    predict(tmp_path, digits[:100], model)

    def fail(path: Path, record: Record) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("digits.prediction.publish.write_record", fail)
        with pytest.raises(StoreError, match="No space left"):
            predict(tmp_path, digits[100:200], model)
    interrupted = read_drift_record(tmp_path / "table.csv")
    assert interrupted.settle().baseline.images("ink") == 200
    predict(tmp_path, (), model)
    assert read_drift_record(tmp_path / "table.csv") == interrupted
    predict(tmp_path, digits[200:300], model)
    assert read_drift_record(tmp_path / "table.csv").settle().baseline.images("ink") == 300


def test_a_new_champion_alone_is_no_alarm(tmp_path: Path, digits: Pixels, model: OnnxModel) -> None:
    """Its predictions of the whole inbox are their new baseline. The features of the images keep their bins."""
    other = make_model(tmp_path / "other", digits[:500], seed=1)
    assert other.reference["ink"]["edges"] != model.reference["ink"]["edges"]
    inverted = 255 - digits
    predict(tmp_path, inverted[:2_200], model)
    assert predict(tmp_path, inverted[2_200:2_400], model).drift is not None
    again = predict(tmp_path, inverted[2_400:2_500], other).drift
    assert again is not None
    assert (again.images > 2_000, again.baseline > 2_000, again.is_alarm) == (True, True, False)
    assert not {"classes", "confidence"} & {shift.feature for shift in again.shifts}
    later = predict(tmp_path, inverted[2_500:2_700], other).drift
    assert later is not None
    assert {"classes", "confidence", "ink", "contrast"} <= {shift.feature for shift in later.shifts}
    assert not later.is_alarm
