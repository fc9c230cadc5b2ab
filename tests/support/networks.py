"""Networks for tests and measurements: random weights, registered as champions of new artifact roots.

The time that a network takes does not depend on its weights, so these networks are not trained. Their predictions
mean nothing.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, load, numpy_helper, shape_inference

from digits.images.normalize import SPEC
from digits.model.onnx_model import ONNX_FILE, SPEC_FILE, OnnxModel
from digits.prediction.service import open_model
from digits.store.artifacts import Recipe, Store
from digits.store.registry import ModelFacts, Registry

SIDE, CLASSES = 28, 10
SEED = 0


def small_store(root: Path) -> Path:
    """Make an artifact root whose champion is `small_network`, and return it."""
    return make_store(root, small_network(), name="small")


def tiny_store(root: Path) -> Path:
    """Make an artifact root whose champion is `tiny_network`, and return it."""
    return make_store(root, tiny_network(), name="tiny")


def make_store(root: Path, network: bytes, *, name: str) -> Path:
    """Make an artifact root whose champion is a network, without training, arrays or evaluation, and return it."""

    def write(directory: Path) -> None:
        (directory / ONNX_FILE).write_bytes(network)
        (directory / SPEC_FILE).write_text(json.dumps(_spec(network)))

    store = Store(root)
    made = store.produce(Recipe("onnx", {"benchmark": name}), write)
    registry = Registry(store)
    version, _ = registry.register(
        artifacts={made.kind: made.digest},
        weights_sha256=_spec(network)["weights_sha256"],
        facts=ModelFacts(architecture=name),
    )
    registry.promote(version.number, reasons=["a network to measure with"])
    return root


def _spec(network: bytes) -> dict[str, Any]:
    return {
        "class_names": [str(number) for number in range(CLASSES)],
        "input_shape": [SIDE, SIDE],
        "normalization": {**SPEC, "mode": "auto"},
        "weights_sha256": hashlib.sha256(network).hexdigest(),
    }


class _Layers:
    """ONNX graph that grows layer by layer; its input is (N, 28, 28, 1) float32 in 0..255."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(SEED)
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._last = "images"

    def constant(self, value: Any) -> str:
        name = f"constant{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def weights(self, *shape: int) -> str:
        scale = math.sqrt(2 / math.prod(shape[1:]))
        return self.constant((self._random.normal(size=shape) * scale).astype(np.float32))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        output = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [self._last, *inputs], [output], **attributes))
        self._last = output

    def convolution(self, depth: int, filters: int, *, padding: int) -> None:
        kernel, bias = self.weights(filters, depth, 3, 3), self.constant(np.zeros(filters, np.float32))
        self.add("Conv", kernel, bias, kernel_shape=[3, 3], pads=[padding] * 4)
        self.add("Relu")

    def pool(self) -> None:
        self.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])

    def dense(self, units: int, inputs: int) -> None:
        self.add("Gemm", self.weights(units, inputs), self.constant(np.zeros(units, np.float32)), transB=1)

    def scaled(self) -> None:
        self.add("Mul", self.constant(np.array(1 / 255, np.float32)))

    def reshaped(self, *shape: int) -> None:
        self.add("Reshape", self.constant(np.array(shape, np.int64)))

    def encoded(self) -> bytes:
        self.add("Softmax", axis=1)
        inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", SIDE, SIDE, 1])]
        outputs = [helper.make_tensor_value_info(self._last, TensorProto.FLOAT, ["N", CLASSES])]
        graph = helper.make_graph(self._nodes, "network", inputs, outputs, self._weights)
        network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return bytes(network.SerializeToString())


def small_network() -> bytes:
    """Build a CNN of 42,794 weights, as ONNX.

    It has 3x3 convolutions of 16, 32, 32 and 64 filters, two max-pooling layers and a dense layer. The first and
    the last convolution have no padding.
    """
    layers = _Layers()
    layers.scaled()
    layers.reshaped(-1, 1, SIDE, SIDE)
    layers.convolution(1, 16, padding=0)
    layers.pool()
    layers.convolution(16, 32, padding=1)
    layers.convolution(32, 32, padding=1)
    layers.pool()
    layers.convolution(32, 64, padding=0)
    layers.reshaped(-1, 1024)
    layers.dense(CLASSES, 1024)
    return layers.encoded()


def tiny_network() -> bytes:
    """Build a network of one dense layer, as ONNX, for measurements in which the network's time must not matter."""
    layers = _Layers()
    layers.scaled()
    layers.reshaped(-1, SIDE * SIDE)
    layers.dense(CLASSES, SIDE * SIDE)
    return layers.encoded()


def count_weights(onnx: Path) -> int:
    """Count the weights of a network: the numbers in its floating-point constants, without scalars."""
    constants = (numpy_helper.to_array(constant) for constant in load(onnx).graph.initializer)
    return sum(array.size for array in constants if array.dtype == np.float32 and array.ndim)


def count_operations(onnx: Path) -> int:
    """Count the operations per image: a multiplication and an addition per weight applied in Conv, Gemm and MatMul.

    Bias, activation, pooling and scaling are left out, as is usual.
    """
    graph = load(onnx).graph
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    typed = shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=load(onnx).opset_import), data_prop=True
    )
    values = (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {constant.name: list(constant.dims) for constant in graph.initializer}
    return 2 * sum(_products(node, shapes) for node in typed.graph.node)


def _products(node: Any, shapes: Mapping[str, list[int]]) -> int:
    count = _PRODUCTS.get(node.op_type)
    if count is None:
        return 0
    first, *others = shapes[node.output[0]]
    output = [first or 1, *others]  # the number of images that one network leaves to another is unknown
    if not all(output):
        raise ValueError(f"{node.name}: operations of a layer with the unknown shape {output} cannot be counted")
    return math.prod(output) * count(shapes[node.input[0]], shapes[node.input[1]])


_PRODUCTS: Mapping[str, Callable[[list[int], list[int]], int]] = {
    "Conv": lambda _, kernel: math.prod(kernel[1:]),
    "Gemm": lambda inputs, _: inputs[-1],
    "MatMul": lambda inputs, _: inputs[-1],
}
"""Multiplications per output number of a layer, from the shapes of its two inputs."""


def copy_champion(root: Path, place: Path) -> Path:
    """Make an artifact root that holds only the champion of another one, as ONNX and as a Keras file."""
    store = Store(root)
    version = Registry(store).resolve("champion")
    for kind in ("onnx", "model"):
        found = store.open(version.artifact(kind))
        shutil.copytree(found.path, place / kind / found.ref.digest)
    shutil.copytree(store.registry, place / "registry")
    return place


def champion_files(root: Path) -> OnnxModel:
    """Return the network of an artifact root's champion."""
    return open_model(Store(root), "champion")


def champion_keras(root: Path) -> Path:
    """Return the Keras file of an artifact root's champion."""
    store = Store(root)
    return store.open(Registry(store).resolve("champion").artifact("model")).file("model.keras")
