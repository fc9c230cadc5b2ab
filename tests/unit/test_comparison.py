"""What is measured of two models before it is decided which of them is better."""

import json
from pathlib import Path

import numpy as np
import pytest

from digits.arrays import HeldOut
from digits.calibration import Step
from digits.comparison import EXAMPLES, changed_answers, results_of, seconds_an_image
from digits.decisions import Changed
from digits.inference import Answers, ModelFiles, Predictor
from tests.support.tiny_model import add_novelty, draw, write_model

SETS = [HeldOut("mnist", 0, 4, "a"), HeldOut("scans", 4, 6, "b")]
LABELS = np.array([0, 1, 0, 1, 0, 1], np.uint8)


def answers(first: list[float], novelty: list[float] | None = None) -> Answers:
    """Give what a model of two classes says, by the probability of the first one."""
    probabilities = np.array([[one, 1 - one] for one in first], np.float32)
    return Answers(probabilities, None if novelty is None else np.array(novelty, np.float32))


def test_each_test_set_has_its_own_figures() -> None:
    """Accuracy, calibration and coverage, of its own images only."""
    said = answers([0.9, 0.2, 0.3, 0.4, 0.6, 0.7])
    steps = [Step(0.75, 900, 0, 0.003)]
    results = results_of(said, LABELS, SETS, steps=steps, wished_error=0.003)
    assert {name: one.right.tolist() for name, one in results.items()} == {
        "mnist": [True, True, False, True],
        "scans": [True, False],
    }
    assert [one.digest for one in results.values()] == ["a", "b"]
    assert [one.accuracy for one in results.values()] == [0.75, 0.5]
    assert [one.coverage for one in results.values()] == [0.5, 0]
    assert results["mnist"].ece == pytest.approx((0.1 + 0.2 + 0.7 + 0.4) / 4)
    assert results["scans"].ece == pytest.approx((0.4 + 0.7) / 2)


def test_what_is_taken_for_no_digit_is_not_answered() -> None:
    """However sure the class is."""
    said = answers([0.99] * 6, novelty=[-1, 0.5, -1, -1, 0, 2])
    results = results_of(said, LABELS, SETS, steps=[Step(0.5, 900, 0, 0.003)], wished_error=0.003)
    assert [one.coverage for one in results.values()] == [0.75, 0.5]


@pytest.mark.parametrize("steps", [[], [Step(0.5, 900, 9, 0.02)]])
def test_a_model_that_can_not_promise_the_error_answers_nothing(steps: list[Step]) -> None:
    """Nor does one without any thresholds."""
    results = results_of(answers([0.99] * 6), LABELS, SETS, steps=steps, wished_error=0.003)
    assert [one.coverage for one in results.values()] == [0, 0]


def test_examples_are_the_surest_of_those_that_changed() -> None:
    """First what became wrong, then what became right; what both get wrong is neither."""
    champion = answers([0.9, 0.2, 0.9, 0.1, 0.2, 0.6])
    challenger = answers([0.4, 0.2, 0.1, 0.3, 0.8, 0.7])
    found = changed_answers(challenger, champion, LABELS, SETS, ["zero", "one"])
    assert [(one.index, one.is_gained) for one in found] == [(2, False), (0, False), (4, True)]
    assert found[2] == Changed("scans", 4, "zero", "one", "zero", 0.8, 0.8)
    assert found[1] == Changed("mnist", 0, "zero", "zero", "one", 0.9, 0.6)
    many = answers([0.9] * 40)
    others = answers([0.1] * 40)
    whole = [HeldOut("mnist", 0, 40, "a")]
    assert len(changed_answers(others, many, np.zeros(40, np.uint8), whole, "ab")) == EXAMPLES


def test_a_larger_network_is_measured_to_be_slower(tmp_path: Path) -> None:
    """A network of some 400 times the work takes longer than one without."""
    small = Predictor(ModelFiles.load(write_model(tmp_path / "small"), version=1))
    large = Predictor(ModelFiles.load(slow_model(tmp_path / "large"), version=2))
    pixels = np.stack([draw(number) for number in range(64)])
    quick, slow = seconds_an_image([small, large], pixels)
    assert 0 < quick < slow


def slow_model(directory: Path) -> Path:
    """Give a model that adds many large products to its probabilities, of nothing."""
    from onnx import TensorProto, helper, load, numpy_helper, save

    write_model(directory)
    add_novelty(directory, above=15, temperature=1, steps=[])
    network = load(directory / "model.onnx")
    square = np.full((784, 784), 1e-3, np.float32)
    network.graph.initializer.append(numpy_helper.from_array(square, "square"))
    last = "flat"
    for number in range(40):
        network.graph.node.append(helper.make_node("MatMul", [last, "square"], [f"m{number}"]))
        last = f"m{number}"
    network.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 784]))
    save(network, directory / "model.onnx")
    assert json.loads((directory / "spec.json").read_text())["class_names"]
    return directory
