"""Measurements of two models that a promotion decision is based on."""

from pathlib import Path

import numpy as np
import pytest

from digits.data.arrays import NamedTestSet
from digits.model.calibration import RiskStep
from digits.model.onnx_model import ModelOutput
from digits.pipeline.champion import EXAMPLES, count_operations, find_changed_images, measure_test_sets
from digits.store.decisions import ChangedImage
from tests.support.tiny_model import write_model

SETS = [NamedTestSet("mnist", 0, 4, "a"), NamedTestSet("scans", 4, 6, "b")]
LABELS = np.array([0, 1, 0, 1, 0, 1], np.uint8)


def output_of(first: list[float], novelty: list[float] | None = None) -> ModelOutput:
    """Return the output of a model of two classes, from the probabilities of the first class."""
    probabilities = np.array([[one, 1 - one] for one in first], np.float32)
    return ModelOutput(probabilities, None if novelty is None else np.array(novelty, np.float32))


def test_each_test_set_is_measured_separately() -> None:
    """Accuracy, calibration and coverage are computed from the images of the set only."""
    output = output_of([0.9, 0.2, 0.3, 0.4, 0.6, 0.7])
    steps = [RiskStep(0.75, 900, 0, 0.003)]
    results = measure_test_sets(output, LABELS, SETS, steps=steps, target_error=0.003)
    assert {name: one.right.tolist() for name, one in results.items()} == {
        "mnist": [True, True, False, True],
        "scans": [True, False],
    }
    assert [one.digest for one in results.values()] == ["a", "b"]
    assert [one.accuracy for one in results.values()] == [0.75, 0.5]
    assert [one.coverage for one in results.values()] == [0.5, 0]
    assert results["mnist"].ece == pytest.approx((0.1 + 0.2 + 0.7 + 0.4) / 4)
    assert results["scans"].ece == pytest.approx((0.4 + 0.7) / 2)


def test_rejected_images_do_not_count_as_answered() -> None:
    """Even if the class has a high probability."""
    output = output_of([0.99] * 6, novelty=[-1, 0.5, -1, -1, 0, 2])
    results = measure_test_sets(output, LABELS, SETS, steps=[RiskStep(0.5, 900, 0, 0.003)], target_error=0.003)
    assert [one.coverage for one in results.values()] == [0.75, 0.5]


@pytest.mark.parametrize("steps", [[], [RiskStep(0.5, 900, 9, 0.02)]])
def test_coverage_is_zero_if_the_calibration_cannot_support_the_error_rate(steps: list[RiskStep]) -> None:
    """The same holds for a model without risk steps."""
    results = measure_test_sets(output_of([0.99] * 6), LABELS, SETS, steps=steps, target_error=0.003)
    assert [one.coverage for one in results.values()] == [0, 0]


def test_examples_are_the_most_confident_changed_images() -> None:
    """First those that became wrong, then those that became correct; images that both get wrong are left out."""
    champion = output_of([0.9, 0.2, 0.9, 0.1, 0.2, 0.6])
    challenger = output_of([0.4, 0.2, 0.1, 0.3, 0.8, 0.7])
    found = find_changed_images(challenger, champion, LABELS, SETS, ["zero", "one"])
    assert [(one.index, one.is_gained) for one in found] == [(2, False), (0, False), (4, True)]
    assert found[2] == ChangedImage("scans", 4, "zero", "one", "zero", 0.8, 0.8)
    assert found[1] == ChangedImage("mnist", 0, "zero", "zero", "one", 0.9, 0.6)
    many = output_of([0.9] * 40)
    others = output_of([0.1] * 40)
    whole = [NamedTestSet("mnist", 0, 40, "a")]
    assert len(find_changed_images(others, many, np.zeros(40, np.uint8), whole, "ab")) == EXAMPLES


def test_operations_are_the_multiplications_of_convolutions_and_products(tmp_path: Path) -> None:
    """The number of weights times the positions where each is used, for one image."""
    assert count_operations(write_model(tmp_path / "dense") / "model.onnx") == 784 * 10
    assert count_operations(convolution(tmp_path / "convolution.onnx")) == 9 * 4 * 26 * 26 + 4 * 26 * 26 * 10


def convolution(path: Path) -> Path:
    """Write a network of four 3x3 filters and a dense layer."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = {"filters": np.ones((4, 1, 3, 3), np.float32), "dense": np.ones((4 * 26 * 26, 10), np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "filters"], ["maps"]),
            helper.make_node("Relu", ["maps"], ["positive"]),
            helper.make_node("Flatten", ["positive"], ["flat"]),
            helper.make_node("Gemm", ["flat", "dense"], ["scores"]),
        ],
        "convolution",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
