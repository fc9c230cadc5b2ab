"""Tests of the statuses `uncertain` and `not-a-digit`, with a model that can abstain."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.errors import UsageError
from digits.model.onnx_model import BATCH, OnnxModel, Predictor
from digits.prediction.config import PredictionConfig
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import merge_parts
from digits.prediction.worker import run_worker
from tests.support.tiny_model import add_novelty_output, draw, write_model


@pytest.fixture
def abstaining(tmp_path: Path) -> OnnxModel:
    """Model with novelty, a temperature of 0.5, and confidence thresholds of 0.6 and 0.9; no pixel level is novel."""
    directory = write_model(tmp_path / "model")
    add_novelty_output(directory, above=15, temperature=0.5, steps=[[0.9, 500, 0, 0.006], [0.6, 900, 9, 0.018]])
    return OnnxModel.load(directory, version=1)


def predicted(folder: Path, model: OnnxModel, **options: Any) -> dict[str, dict[str, str]]:
    """Predict a folder in this process, and return the rows by path."""
    place = folder.parent
    settings = PredictionConfig(**options)
    plan = plan_predictions(folder, model=model, options=settings, out=place / "t.csv", work=place / "work")
    run_worker(plan)
    summary = merge_parts(plan)
    with (place / "t.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert summary.statuses == Counter(row["status"] for row in rows.values())
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with one mark, a blank page, and two marks side by side."""
    place = tmp_path / "in"
    place.mkdir()
    mark = np.pad(255 - draw(1), 6, constant_values=255)
    pictures = {
        "mark": mark,
        "blank": np.full((40, 40), 200, np.uint8),
        "two": np.hstack([mark, mark]),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(place / f"{name}.png")
    return place


def test_images_without_one_digit_are_flagged_and_still_predicted(folder: Path, abstaining: OnnxModel) -> None:
    """The novelty is above 0 exactly in flagged rows."""
    rows = predicted(folder, abstaining)
    assert {path: row["status"] for path, row in rows.items()} == {
        "blank.png": "not-a-digit",
        "mark.png": "ok",
        "two.png": "not-a-digit",
    }
    assert all(row["prediction"] for row in rows.values())
    assert all((float(row["novelty"]) > 0) == (row["status"] == "not-a-digit") for row in rows.values())


def test_max_error_flags_predictions_below_its_threshold(folder: Path, abstaining: OnnxModel) -> None:
    """A rate that the validation images cannot support is refused."""
    row = predicted(folder, abstaining, max_error=0.02)["mark.png"]
    assert row["status"] == ("uncertain" if float(row["confidence"]) < 0.6 else "ok")
    stricter = predicted(folder, abstaining, max_error=0.01)["mark.png"]
    assert stricter["status"] == ("uncertain" if float(row["confidence"]) < 0.9 else "ok")
    with pytest.raises(UsageError, match="900 validation images"):
        predicted(folder, abstaining, max_error=0.001)


def test_a_model_without_novelty_and_thresholds_flags_nothing(folder: Path, tmp_path: Path) -> None:
    """Asking it for an error rate is an error."""
    rows = predicted(folder, OnnxModel.load(write_model(tmp_path / "old"), version=1))
    assert {(row["status"], row["novelty"]) for row in rows.values()} == {("ok", "")}
    with pytest.raises(UsageError, match="before thresholds"):
        predicted(folder, OnnxModel.load(tmp_path / "old", version=1), max_error=0.1)


def test_probabilities_and_novelty_do_not_depend_on_the_batch(abstaining: OnnxModel) -> None:
    """To the last bit."""
    predictor = Predictor(abstaining)
    pixels = np.random.default_rng(0).integers(0, 256, (2 * BATCH + 9, 28, 28), dtype=np.uint8)
    whole = predictor.predict_with_novelty(pixels)
    ones = [predictor.predict_with_novelty(pixels[number : number + 1]) for number in range(len(pixels))]
    assert whole.novelty is not None
    assert np.concatenate([one.probabilities for one in ones]).tobytes() == whole.probabilities.tobytes()
    assert np.concatenate([one.novelty for one in ones if one.novelty is not None]).tobytes() == whole.novelty.tobytes()
