"""Tiny network and images in MNIST's format, for the tests of prediction."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from digits.images.normalize import SPEC
from digits.images.types import Pixels

MakePictures = Callable[..., Path]


def write_model(directory: Path, *, classes: int = 10, shape: tuple[int, int] = (28, 28), seed: int = 0) -> Path:
    """Export a network of one dense layer with random weights, like an exported trained network without novelty."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(seed)
    weights = (random.normal(size=(shape[0] * shape[1], classes)) / 2000).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *shape, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    directory.mkdir(parents=True, exist_ok=True)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(network, directory / "model.onnx")
    spec = {
        "class_names": [str(number) for number in range(classes)],
        "input_shape": list(shape),
        "normalization": dict(SPEC),
        "weights_sha256": "0" * 64,
    }
    (directory / "spec.json").write_text(json.dumps(spec))
    return directory


def draw(seed: int) -> Pixels:
    """Draw a random image in MNIST's format for a seed: (28, 28) uint8."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:24, 9:20] = random.integers(100, 256, (19, 11))
    return pixels


def add_novelty_output(directory: Path, *, above: float, temperature: float, steps: list[list[float]]) -> None:
    """Add novelty and calibration to a model of `write_model`: an image's mean level / 20, less `above`."""
    from onnx import TensorProto, helper, load, numpy_helper, save

    network = load(directory / "model.onnx")
    network.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["images"], ["level"], axes=[1, 2], keepdims=0),
            helper.make_node("Mul", ["level", "per_level"], ["much"]),
            helper.make_node("Sub", ["much", "above"], ["novelty"]),
        ]
    )
    for name, value in (("per_level", 1 / 20), ("above", above)):
        network.graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), name))
    network.graph.output.append(helper.make_tensor_value_info("novelty", TensorProto.FLOAT, ["N", 1]))
    save(network, directory / "model.onnx")
    spec = json.loads((directory / "spec.json").read_text())
    spec["calibration"] = {"temperature": temperature, "steps": steps}
    (directory / "spec.json").write_text(json.dumps(spec))
