"""Tests of a student in front of a trained network, in one ONNX file."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from digits.model.calibration import apply_temperature
from digits.model.onnx_model import ONNX_FILE, SPEC_FILE, ModelOutput, load_predictor
from digits.store.files import write_file
from digits.training import cascade, distillation, export, novelty
from digits.training.cascade import Limits
from digits.training.novelty import run_network
from tests.support.small_fits import fit, run_of, samples, small_head

DIGITS = tuple("0123456789")
TEMPERATURE = 0.5
SPEC = b"""{"class_names": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], "input_shape": [28, 28],
    "normalization": {}, "calibration": {"temperature": 0.5, "steps": []}}"""


class Parts(NamedTuple):
    """Trained network, student, and the images to which the score was fitted."""

    large: Path
    student: Any
    images: novelty.FitImages


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Train a small network and its student."""
    folder = write_model(tmp_path_factory.mktemp("large"))
    train, validation = samples()
    run = run_of("cnn", epochs=8, student_epochs=40)
    network, _ = fit(run, folder / "fit.npz")
    export.export_onnx(network, folder / ONNX_FILE)
    with small_head():
        images = novelty.add_novelty_output(folder / ONNX_FILE, train.pixels, validation.pixels, DIGITS, seed=1)
    assert images
    student = distillation.distil(load_predictor(folder).predict, train, run.training, classes=10)
    return Parts(folder, student, images)


def write_model(folder: Path) -> Path:
    """Write the spec of a model, and return its folder."""
    write_file(folder / SPEC_FILE, SPEC)
    return folder


def rejected(output: ModelOutput) -> float:
    """Return the share of images that are rejected."""
    assert output.novelty is not None
    return float((output.novelty > 0).mean())


def small_file(parts: Parts, folder: Path) -> Path:
    """Export the student with a score."""
    file = folder / "small.onnx"
    export.export_onnx(parts.student, file)
    with small_head():
        novelty.fit_novelty_output(file, parts.images, samples()[1].pixels, heads=1, seed=1)
    return file


def predict_joined(parts: Parts, folder: Path, limits: Limits) -> tuple[Any, ModelOutput]:
    """Join both networks with limits; return the predictor, and its output for the validation images."""
    small, large = onnx.load(small_file(parts, folder)), onnx.load(parts.large / ONNX_FILE)
    joined = cascade.join(small, large, limits, temperature=TEMPERATURE, factor=2.0)
    onnx.save(joined, write_model(folder) / ONNX_FILE)
    predictor = load_predictor(folder)
    return predictor, predictor.predict_with_novelty(samples()[1].pixels)


def test_the_student_learns_to_predict_like_the_trained_network(parts: Parts) -> None:
    pixels = samples()[1].pixels
    found = parts.student.predict(pixels[..., np.newaxis].astype(np.float32), verbose=0)
    expected = load_predictor(parts.large).predict(pixels)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.5


def test_images_that_the_student_is_certain_of_get_its_prediction_and_all_others_that_of_the_network(
    parts: Parts, tmp_path: Path
) -> None:
    """The calibrated probabilities are those of the student, although one temperature calibrates all predictions."""
    pixels = samples()[1].pixels
    probabilities, columns = run_network(onnx.load(small_file(parts, tmp_path)), pixels)
    confidence, scores = probabilities.max(axis=1), columns.ravel()
    limits = Limits(float(np.median(confidence)), float(np.quantile(scores, 0.8)))
    accepted = limits.accept(confidence, scores)
    assert 10 < accepted.sum() < 60
    _, output = predict_joined(parts, tmp_path, limits)
    large = load_predictor(parts.large).predict_with_novelty(pixels)
    assert large.novelty is not None
    assert output.novelty is not None
    assert np.allclose(output.probabilities[accepted], probabilities[accepted], atol=1e-5)
    assert np.allclose(output.probabilities[~accepted], large.probabilities[~accepted], atol=1e-5)
    assert np.allclose(output.novelty[accepted], 2 * scores[accepted], atol=1e-4)
    assert np.allclose(output.novelty[~accepted], large.novelty[~accepted], atol=1e-3)


@pytest.mark.parametrize("confidence", [0.0, 0.3, 2.0])
def test_no_output_depends_on_the_other_images(parts: Parts, tmp_path: Path, confidence: float) -> None:
    """The trained network predicts none, some or all of the images. The last check is of a single image."""
    pixels = samples()[1].pixels
    predictor, output = predict_joined(parts, tmp_path, Limits(confidence, 1e9))
    order = np.random.default_rng(0).permutation(len(pixels))
    shuffled = predictor.predict_with_novelty(pixels[order])
    assert np.array_equal(shuffled.probabilities, output.probabilities[order])
    assert output.novelty is not None
    assert shuffled.novelty is not None
    assert np.array_equal(shuffled.novelty, output.novelty[order])
    for number in range(0, len(pixels), 5):
        alone = predictor.predict_with_novelty(pixels[number : number + 1])
        assert np.array_equal(alone.probabilities[0], output.probabilities[number])
        assert alone.novelty is not None
        assert np.array_equal(alone.novelty, output.novelty[number : number + 1])


def test_a_student_in_front_of_a_network_lets_no_noise_pass_and_rejects_no_more_digits(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same networks give the same file."""
    monkeypatch.setattr(cascade, "CERTAIN", 0.5)
    pixels, files = samples()[1].pixels, []
    for name in "ab":
        (tmp_path / name).mkdir()
        files.append(write_model(tmp_path / name) / ONNX_FILE)
        write_file(files[-1], (parts.large / ONNX_FILE).read_bytes())
        with small_head():
            share = cascade.add_student(files[-1], parts.student, pixels, parts.images, temperature=TEMPERATURE, seed=1)
    assert 0.05 < share < 1
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [file.name for file in sorted(files[0].parent.iterdir())] == [ONNX_FILE, SPEC_FILE]
    predictor = load_predictor(files[0].parent)
    assert rejected(predictor.predict_with_novelty(pixels)) <= 0.03
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28)).astype(np.uint8)
    assert rejected(predictor.predict_with_novelty(noise)) > 0.9


def test_networks_without_a_score_are_joined_by_their_confidence(parts: Parts, tmp_path: Path) -> None:
    """Such are networks whose classes are not digits."""
    network, _ = fit(run_of("cnn"), tmp_path / "fit.npz")
    export.export_onnx(network, write_model(tmp_path) / ONNX_FILE)
    pixels = samples()[1].pixels
    (expected,) = run_network(onnx.load(tmp_path / ONNX_FILE), pixels)
    share = cascade.add_student(tmp_path / ONNX_FILE, parts.student, pixels, None, temperature=TEMPERATURE, seed=1)
    output = load_predictor(tmp_path).predict_with_novelty(pixels)
    assert output.novelty is None
    equal = np.isclose(output.probabilities, apply_temperature(expected, TEMPERATURE), atol=1e-5).all(axis=1)
    assert equal.mean() >= 1 - share
