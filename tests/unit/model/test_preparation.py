"""Tests of the preparation of a network for ONNX Runtime: the same results, without slow operations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from digits.model.preparation import prepare_network

SUBNORMAL = np.float32(1e-40)
Weights = dict[str, npt.NDArray[Any]]


def make_network(nodes: Sequence[tuple[str, Sequence[str], str]], weights: Weights) -> bytes:
    """Return a network with the input `images` and the output `out`; nodes are operations, inputs and outputs."""
    graph = helper.make_graph(
        [helper.make_node(operation, inputs, [output]) for operation, inputs, output in nodes],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


def run(content: bytes, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the output of a network."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


def weights_in(content: bytes) -> Weights:
    """Return the weights of a network."""
    return {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(content).graph.initializer}


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 6, 6)).astype(np.float32)
DENSE = np.array([[1, -SUBNORMAL], [SUBNORMAL, 0.5], [-0.0, 3], [-2, np.finfo(np.float32).tiny]], np.float32)
KERNEL = np.random.default_rng(1).normal(size=(2, 1, 3, 3)).astype(np.float32)
FACTOR = np.array(1 / 255, np.float32)
CONVOLUTION = ("Conv", ["scaled", "kernel"], "out")
SCALED = make_network(
    [("Mul", ["images", "factor"], "scaled"), CONVOLUTION],
    {"factor": FACTOR, "kernel": KERNEL, "dense": DENSE},
)


def test_subnormal_weights_become_zero_and_all_others_stay() -> None:
    found = weights_in(prepare_network(SCALED)[0])["dense"]
    assert found.tolist() == [[1, 0], [0, 0.5], [0, 3], [-2, np.finfo(np.float32).tiny]]


def test_weights_of_other_types_stay() -> None:
    shape = np.array([1, 2], np.int64)
    content = make_network([("Reshape", ["images", "shape"], "out")], {"shape": shape})
    assert prepare_network(content) == (content, 1)


def test_the_first_multiplication_is_left_to_the_caller() -> None:
    prepared, scale = prepare_network(SCALED)
    assert scale == FACTOR
    assert onnx.load_from_string(prepared).graph.node[0].op_type == "Add"
    np.testing.assert_array_equal(run(prepared, IMAGES * scale), run(SCALED, IMAGES))


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        pytest.param([("Conv", ["images", "kernel"], "out")], {}, id="no multiplication"),
        pytest.param([("Add", ["images", "factor"], "scaled"), CONVOLUTION], {}, id="another operation"),
        pytest.param([("Mul", ["images", "images"], "scaled"), CONVOLUTION], {}, id="square"),
        pytest.param(
            [("Mul", ["images", "factors"], "scaled"), CONVOLUTION],
            {"factors": np.arange(6, dtype=np.float32)},
            id="a factor for each column",
        ),
        pytest.param(
            [
                ("Mul", ["images", "factor"], "scaled"),
                ("Conv", ["scaled", "kernel"], "c"),
                ("Max", ["c", "images"], "out"),
            ],
            {"kernel": KERNEL[:, :, :1, :1]},
            id="the input is used again",
        ),
        pytest.param(
            [
                ("Mul", ["images", "factor"], "scaled"),
                ("Conv", ["scaled", "kernel"], "c"),
                ("Sub", ["c", "factor"], "out"),
            ],
            {},
            id="the factor is used again",
        ),
        pytest.param(
            [("Mul", ["factor", "factor"], "f"), ("Add", ["images", "f"], "scaled"), CONVOLUTION],
            {},
            id="the input comes later",
        ),
        pytest.param(
            [("Mul", ["images", "factor"], "scaled"), ("MatMul", ["scaled", "square"], "out")],
            {"square": np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)},
            id="a dense layer, which ONNX Runtime scales afterwards",
        ),
    ],
)
def test_other_networks_keep_their_operations(
    nodes: Sequence[tuple[str, Sequence[str], str]], weights: Weights
) -> None:
    content = make_network(nodes, {"factor": FACTOR, "kernel": KERNEL, **weights})
    prepared, scale = prepare_network(content)
    assert scale == 1
    np.testing.assert_array_equal(run(prepared, IMAGES), run(content, IMAGES))
