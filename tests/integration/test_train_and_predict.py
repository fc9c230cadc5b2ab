"""Public API: from training to the table, without Prefect."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import digits
from digits.cli.train import describe_outcome
from digits.outputs.page import markdown_text
from digits.pipeline import training as pipeline
from digits.pipeline.champion import Outcome
from digits.pipeline.config import TrainingRun, group_settings
from digits.pipeline.training import write_test_images
from digits.settings import parse
from digits.store.artifacts import Store
from tests.support.small_fits import samples, small_head

SETTINGS: dict[str, Any] = {
    "architecture": "mlp",
    "hidden": (32,),
    "dropout": 0,
    "epochs": 8,
    "batch_size": 16,
    "learning_rate": 0.005,
    "min_accuracy": 0.5,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "artifacts"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write an .npz file of 320 digits to train on and 100 to test with, and return its path."""
    train, test = samples()
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=train.pixels, y_train=train.labels, x_test=test.pixels, y_test=test.labels)
    return str(path)


def train(dataset: str, root: Path, *, student_epochs: int = 0) -> Outcome:
    with small_head():
        values = {"datasets": (dataset,), **group_settings("test", {**SETTINGS, "student_epochs": student_epochs})}
        return pipeline.train(Store(root), parse(TrainingRun, values, source="test"))


@pytest.fixture(scope="module")
def outcome(dataset: str, root: Path) -> Outcome:
    return train(dataset, root)


def test_a_trained_model_is_listed_and_not_trained_twice(outcome: Outcome, dataset: str, root: Path) -> None:
    assert (outcome.version, outcome.new, outcome.promoted) == (1, True, True)
    assert [version.number for version in digits.list_models(artifacts=root)] == [1]
    with small_head():
        version = digits.train(dataset, student_epochs=0, progress=False, artifacts=root, **SETTINGS)
    assert version == digits.list_models(artifacts=root)[0]
    again = train(dataset, root)
    assert (again.version, again.new) == (1, False)
    assert "Nothing changed" in again.reasons[0]


def test_the_evaluation_of_a_model_is_that_of_its_training(outcome: Outcome, dataset: str, root: Path) -> None:
    evaluation = digits.evaluate("champion", dataset, artifacts=root)
    assert (evaluation.count, evaluation.accuracy) == (100, outcome.facts.accuracy)


def test_a_model_with_a_student_is_evaluated_and_calibrated_with_it(dataset: str, tmp_path: Path) -> None:
    """Training it again does nothing, as for any model."""
    outcome = train(dataset, tmp_path, student_epochs=2)
    model = digits.load_model(artifacts=tmp_path).exported
    spec = json.loads((model.directory / "spec.json").read_text())
    assert 0 <= spec["student"] < 1
    assert spec["calibration"]["temperature"] == model.temperature
    assert spec["reference"]
    assert digits.evaluate("champion", dataset, artifacts=tmp_path).accuracy == outcome.facts.accuracy > 0.5
    assert not train(dataset, tmp_path, student_epochs=2).new


def test_a_model_is_evaluated_on_all_images_of_a_folder(outcome: Outcome, root: Path, tmp_path: Path) -> None:
    """Which may lack classes of the model, but not have others."""
    folder = write_test_images(Store(root), 1, tmp_path / "labelled")
    shutil.rmtree(folder / "4")
    paths = sorted(folder.rglob("*.png"))
    model = digits.load_model(artifacts=root)
    evaluation = digits.evaluate(model, folder, artifacts=root)
    assert evaluation.count == len(paths)
    assert evaluation.accuracy == pytest.approx(model.score(paths, [path.parent.name for path in paths]))
    frame = evaluation.to_frame()
    assert frame.support.to_dict() == {str(n): len(list(folder.glob(f"{n}/*.png"))) for n in range(10)}
    assert frame.attrs["accuracy"] == evaluation.accuracy
    assert f"<b>accuracy {evaluation.accuracy:.2%}</b>" in evaluation._repr_html_()
    (folder / "3").rename(folder / "drei")
    with pytest.raises(digits.DigitsError, match="but the dataset has also drei; evaluate it on images of its classes"):
        digits.evaluate(model, folder, artifacts=root)


@pytest.mark.parametrize(("form", "file"), [("onnx", "model.onnx"), ("keras", "model.keras")])
def test_a_model_is_exported_into_a_folder(outcome: Outcome, root: Path, tmp_path: Path, form: Any, file: str) -> None:
    """Files of somebody else stay."""
    folder = digits.export_model("champion", tmp_path / "mine", form, artifacts=root)
    assert sorted(path.name for path in folder.iterdir()) == [file, "spec.json"]
    if form == "onnx":
        loaded = digits.load_model(folder, artifacts=root)
        assert (loaded.version, loaded.classes_.tolist()) == (0, [*"0123456789"])
    assert digits.export_model(1, folder, form, artifacts=root) == folder
    (folder / file).write_bytes(b"edited")
    with pytest.raises(digits.DigitsError, match="was changed after Digits wrote it"):
        digits.export_model(1, folder, form, artifacts=root)
    assert (folder / file).read_bytes() == b"edited"


def test_a_class_that_is_missing_is_reported(tmp_path: Path) -> None:
    """The warning is in the outcome, also of a run that does nothing, in the terminal and in the report."""
    train_part, test_part = samples()
    for part in (train_part, test_part):
        for number, (pixels, label) in enumerate(zip(part.pixels, part.labels, strict=True)):
            folder = tmp_path / "digits" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{len(part.pixels)}-{number}.png")
    shutil.rmtree(tmp_path / "digits" / "4")
    (tmp_path / "digits" / "10").mkdir()
    for image in (tmp_path / "digits" / "1").iterdir():
        Image.open(image).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "digits" / "10" / image.name)
    (tmp_path / "digits" / "0" / "._0.png").write_bytes(b"no image")
    outcome = train(str(tmp_path / "digits"), tmp_path / "artifacts")
    assert outcome.warnings == (
        "no class for the digit 4: the model takes every image of it for another",
        "left out 1 system file or folder: 0/._0.png",
    )
    assert describe_outcome(outcome)["warning"] == "; ".join(outcome.warnings)
    report = outcome.report.with_suffix(".md").read_text("utf-8")
    assert f"- {markdown_text(f'Warning: {outcome.warnings[0]}.')}\n" in report
    assert outcome.as_record()["warnings"] == outcome.warnings
    assert train(str(tmp_path / "digits"), tmp_path / "artifacts").warnings == outcome.warnings
    assert digits.load_model(1, artifacts=tmp_path / "artifacts").classes_.tolist() == [*"012356789", "10"]


def test_a_folder_is_predicted_into_a_table(outcome: Outcome, root: Path, tmp_path: Path) -> None:
    """With the probabilities of the loaded model, and the same prediction when a single image is inspected."""
    folder = write_test_images(Store(root), 1, tmp_path / "scans")
    rows = digits.predict(folder, out=tmp_path / "scans.csv", processes=1, artifacts=root, as_records=True)
    assert len(rows) == 100
    drawing = tmp_path / "drawing.png"
    inspection = digits.inspect(folder / str(rows[0]["path"]), out=drawing, artifacts=root)
    assert drawing.is_file()
    drawing.write_bytes(b"")
    with pytest.raises(digits.DigitsError, match="was changed after Digits wrote it"):
        digits.inspect(folder / str(rows[0]["path"]), out=drawing, artifacts=root)
    assert inspection.best.name == str(rows[0]["prediction"])
    model = digits.load_model(artifacts=root)
    paths = [folder / str(row["path"]) for row in rows]
    assert model.predict(paths).tolist() == [row["prediction"] for row in rows]
    accuracy = model.score(paths, [path.parent.name for path in paths])
    assert accuracy == pytest.approx(outcome.facts.accuracy, abs=0.02)


def test_an_invalid_argument_is_a_digits_error(outcome: Outcome, root: Path) -> None:
    with pytest.raises(digits.DigitsError, match=r"train\(\): preset"):
        digits.train("mnist-sample", preset="fast", artifacts=root)  # type: ignore[arg-type]
    with pytest.raises(
        digits.DigitsError, match=r"train\(\): found the setting epoch, expected one of activation, .*epochs"
    ):
        digits.train("mnist-sample", epoch=1, artifacts=root)
    with pytest.raises(
        digits.DigitsError, match=r"export_model\(\): found the format 'tflite', expected one of onnx, k"
    ):
        digits.export_model(1, "x", "tflite", artifacts=root)  # type: ignore[arg-type]
    with pytest.raises(digits.DigitsError, match="version 7"):
        digits.load_model("7", artifacts=root)
