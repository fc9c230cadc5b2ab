"""Tests of exported models: loading, prediction with ONNX Runtime, and errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from digits.errors import ModelError
from digits.model.onnx_model import BATCH, OnnxModel, Predictor, load_predictor
from tests.support.tiny_model import write_model


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.uint8]:
    """Return images of noise, more than two batches."""
    return np.random.default_rng(0).integers(0, 256, (2 * BATCH + 9, 28, 28), dtype=np.uint8)


@pytest.fixture
def copy(model_directory: Path, tmp_path: Path) -> Path:
    """Return the directory of an exported model that a test may change."""
    return Path(shutil.copytree(model_directory, tmp_path / "model"))


def change_spec(directory: Path, **values: Any) -> None:
    """Change values of a model's spec."""
    spec = json.loads((directory / "spec.json").read_text())
    (directory / "spec.json").write_text(json.dumps({**spec, **values}))


def test_a_model_is_loaded_with_its_spec(model: OnnxModel, model_directory: Path) -> None:
    assert model.class_names == tuple("0123456789")
    assert model.input_shape == (28, 28)
    assert model.version == 3
    assert model.normalization["recipe"] == "mnist"
    assert model.directory == model_directory


def test_probabilities_equal_those_computed_in_numpy(model: OnnxModel, pixels: npt.NDArray[np.uint8]) -> None:
    """The network of the test has a single layer."""
    import onnx
    from onnx import numpy_helper

    weights = numpy_helper.to_array(onnx.load(model.onnx).graph.initializer[0])
    scores = pixels.reshape(len(pixels), -1) @ weights.astype(np.float64)
    expected = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    found = Predictor(model).predict(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_probabilities_do_not_depend_on_grouping_or_order(model: OnnxModel, pixels: npt.NDArray[np.uint8]) -> None:
    """They are equal bit by bit for single images, groups of 7, and shuffled images."""
    predictor = Predictor(model)
    whole = predictor.predict(pixels)
    order = np.random.default_rng(1).permutation(len(pixels))
    for size in (1, 7, BATCH):
        parts = [predictor.predict(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert predictor.predict(pixels[order]).tobytes() == whole[order].tobytes()


def test_no_images_give_an_empty_array_with_a_column_per_class(model: OnnxModel) -> None:
    assert Predictor(model).predict(np.zeros((0, 28, 28), np.uint8)).shape == (0, 10)


def test_images_of_another_size_are_refused(model: OnnxModel) -> None:
    """They are not scaled silently."""
    with pytest.raises(ModelError, match=r"expected images of shape \(28, 28\), found \(32, 32\)"):
        Predictor(model).predict(np.zeros((1, 32, 32), np.uint8))


def test_a_model_may_have_any_input_shape_and_number_of_classes(tmp_path: Path) -> None:
    predictor = load_predictor(write_model(tmp_path, classes=3, shape=(16, 20)))
    assert predictor.predict(np.zeros((2, 16, 20), np.uint8)).shape == (2, 3)


def test_the_digest_depends_on_network_and_spec_but_not_on_the_version(copy: Path) -> None:
    first = OnnxModel.load(copy, version=1)
    assert OnnxModel.load(copy, version=2).digest == first.digest
    change_spec(copy, class_names=list("abcdefghij"))
    second = OnnxModel.load(copy, version=1)
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\0")
    assert len({first.digest, second.digest, OnnxModel.load(copy, version=1).digest}) == 3


@pytest.mark.parametrize("name", ["model.onnx", "spec.json"])
def test_a_missing_file_is_an_error_with_a_remedy(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=r"expected an exported model .* register the model again"):
        OnnxModel.load(copy, version=1)


@pytest.mark.parametrize("values", [{"input_shape": [28]}, {"input_shape": "x"}, {"class_names": 7}])
def test_a_spec_with_invalid_values_is_refused(copy: Path, values: dict[str, Any]) -> None:
    change_spec(copy, **values)
    with pytest.raises(ModelError, match="expected an exported model"):
        OnnxModel.load(copy, version=1)


def test_a_damaged_network_is_refused(copy: Path) -> None:
    """The safety check refuses other content, and ONNX Runtime an empty file."""
    (copy / "model.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="expected an ONNX file written by Digits"):
        load_predictor(copy)
    (copy / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        load_predictor(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_names": ["a", "b"]}, "expected 2 probabilities per image"),
        ({"input_shape": [9, 9]}, "the network cannot be run"),
    ],
)
def test_a_spec_of_another_network_is_refused_when_the_model_is_loaded(
    copy: Path, values: dict[str, Any], message: str
) -> None:
    """No image has been read by then."""
    change_spec(copy, **values)
    with pytest.raises(ModelError, match=message):
        load_predictor(copy)
