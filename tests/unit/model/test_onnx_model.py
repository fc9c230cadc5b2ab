"""A network on ONNX Runtime: the right answers, however images are grouped, and clear errors."""

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
    """Noise, more of it than two batches."""
    return np.random.default_rng(0).integers(0, 256, (2 * BATCH + 9, 28, 28), dtype=np.uint8)


@pytest.fixture
def copy(model_directory: Path, tmp_path: Path) -> Path:
    """An exported model that may be changed."""
    return Path(shutil.copytree(model_directory, tmp_path / "model"))


def change_spec(directory: Path, **values: Any) -> None:
    """Write other values into a model's spec."""
    spec = json.loads((directory / "spec.json").read_text())
    (directory / "spec.json").write_text(json.dumps({**spec, **values}))


def test_a_model_is_read_with_its_spec(model: OnnxModel, model_directory: Path) -> None:
    """Classes, shape, version, and the recipe of its images."""
    assert model.class_names == tuple("0123456789")
    assert model.input_shape == (28, 28)
    assert model.version == 3
    assert model.normalization["recipe"] == "mnist"
    assert model.directory == model_directory


def test_probabilities_are_those_of_the_network(model: OnnxModel, pixels: npt.NDArray[np.uint8]) -> None:
    """Computed by hand for the one layer there is."""
    import onnx
    from onnx import numpy_helper

    weights = numpy_helper.to_array(onnx.load(model.onnx).graph.initializer[0])
    scores = pixels.reshape(len(pixels), -1) @ weights.astype(np.float64)
    expected = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    found = Predictor(model).predict(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_grouping_and_order_change_no_bit(model: OnnxModel, pixels: npt.NDArray[np.uint8]) -> None:
    """One by one, by sevens, shuffled."""
    predictor = Predictor(model)
    whole = predictor.predict(pixels)
    order = np.random.default_rng(1).permutation(len(pixels))
    for size in (1, 7, BATCH):
        parts = [predictor.predict(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert predictor.predict(pixels[order]).tobytes() == whole[order].tobytes()


def test_no_images_give_no_probabilities(model: OnnxModel) -> None:
    """But the right number of classes."""
    assert Predictor(model).predict(np.zeros((0, 28, 28), np.uint8)).shape == (0, 10)


def test_images_of_another_size_are_refused(model: OnnxModel) -> None:
    """Not scaled behind the caller's back."""
    with pytest.raises(ModelError, match=r"takes images of \(28, 28\), found \(32, 32\)"):
        Predictor(model).predict(np.zeros((1, 32, 32), np.uint8))


def test_other_shapes_and_classes(tmp_path: Path) -> None:
    """Nothing says 28 or 10."""
    predictor = load_predictor(write_model(tmp_path, classes=3, shape=(16, 20)))
    assert predictor.predict(np.zeros((2, 16, 20), np.uint8)).shape == (2, 3)


def test_the_digest_names_network_and_spec(copy: Path) -> None:
    """A change of either is another model; the version is not in it."""
    first = OnnxModel.load(copy, version=1)
    assert OnnxModel.load(copy, version=2).digest == first.digest
    change_spec(copy, class_names=list("abcdefghij"))
    second = OnnxModel.load(copy, version=1)
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\0")
    assert len({first.digest, second.digest, OnnxModel.load(copy, version=1).digest}) == 3


@pytest.mark.parametrize("name", ["model.onnx", "spec.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    """With the directory, and what to do."""
    (copy / name).unlink()
    with pytest.raises(ModelError, match=r"expected an exported model .* register the model again"):
        OnnxModel.load(copy, version=1)


@pytest.mark.parametrize("values", [{"input_shape": [28]}, {"input_shape": "x"}, {"class_names": 7}])
def test_a_spec_that_makes_no_sense(copy: Path, values: dict[str, Any]) -> None:
    """Whatever is wrong with it."""
    change_spec(copy, **values)
    with pytest.raises(ModelError, match="expected an exported model"):
        OnnxModel.load(copy, version=1)


def test_a_damaged_network_can_not_be_loaded(copy: Path) -> None:
    """Whether it is no ONNX at all, or none that ONNX Runtime takes."""
    (copy / "model.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="expected an ONNX file that Digits wrote"):
        load_predictor(copy)
    (copy / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="ONNX Runtime can't load it"):
        load_predictor(copy)


@pytest.mark.parametrize(
    ("values", "says"),
    [({"class_names": ["a", "b"]}, "2 classes are named"), ({"input_shape": [9, 9]}, "the network can't be run")],
)
def test_a_spec_of_another_network(copy: Path, values: dict[str, Any], says: str) -> None:
    """Found when the model is loaded, before any image is read."""
    change_spec(copy, **values)
    with pytest.raises(ModelError, match=says):
        load_predictor(copy)
