"""Cascade: a small network, the student, in front of the trained network, in the same ONNX file.

The student predicts all images. Those of which it is not certain, or which may be no digits, are predicted again by the
trained network with its out-of-distribution score, and that prediction counts. So most images take a fraction of the
time, and the others are predicted as without the student. What a prediction runs stays one ONNX file.

The output for an image does not depend on the images that are predicted with it. A product of matrices with one row is
rounded differently than with several rows, so an image without ink is added to those that the trained network predicts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels
from digits.training.export import export_onnx
from digits.training.heads import Floats
from digits.training.networks import Network
from digits.training.novelty import FitImages, fit_novelty_output, run_network

CERTAIN = 0.99
"""Least calibrated confidence with which the student's prediction counts."""
CLEAR_SHARE = 0.9
"""Share of the validation images whose out-of-distribution score by the student is low enough for its prediction."""
HEADS = 2
"""Number of heads of the student's out-of-distribution score."""
_LEAST_SCORE = -1e-3
"""Largest value that the median of the student's scores is divided by, so that no score is divided by zero."""
_REARRANGING = ("Reshape", "Transpose", "Slice")


class Limits(NamedTuple):
    """Limits within which the prediction of the student counts.

    Args:
        confidence: least calibrated confidence.
        novelty: largest out-of-distribution score of the student; None if there are no scores.
    """

    confidence: float
    novelty: float | None

    def accept(self, confidence: Floats, novelty: Floats | None) -> npt.NDArray[np.bool_]:
        """Return for which of N images the student's prediction counts."""
        certain = confidence >= np.float32(self.confidence)
        if novelty is not None and self.novelty is not None:
            certain &= novelty <= np.float32(self.novelty)
        return np.asarray(certain)


def add_student(  # noqa: PLR0913 - two networks, the images for the limits, and the calibration
    onnx_file: Path,
    student: Network,
    validation: Pixels,
    images: FitImages | None,
    *,
    temperature: float,
    seed: int,
) -> float:
    """Put a student in front of an exported network, in its file.

    Args:
        onnx_file: exported network, with the output `novelty` if `images` is given; it is replaced.
        student: network that was fitted to the calibrated probabilities of the exported one.
        validation: (M, height, width) uint8, images that were not used for training, to set the limits.
        images: digits and non-digits to which the out-of-distribution score is fitted; None if there is no score.
        temperature: temperature that calibrates the exported network.
        seed: random seed of the fit.

    Returns:
        Share of the validation images whose prediction by the student counts.
    """
    import onnx

    file = onnx_file.with_name("student.onnx")
    export_onnx(student, file)
    if images is not None:
        fit_novelty_output(file, images, validation, heads=HEADS, seed=seed)
    small, large = onnx.load(file), onnx.load(onnx_file)
    file.unlink()
    probabilities, *scores = run_network(small, validation)
    confidence, novelty, limits, factor = probabilities.max(axis=1), None, Limits(CERTAIN, None), 1.0
    if scores:
        novelty, expected = scores[0].ravel(), run_network(large, validation)[1]
        factor = float(np.median(expected)) / min(float(np.median(novelty)), _LEAST_SCORE)
        limits = Limits(CERTAIN, float(np.quantile(novelty, CLEAR_SHARE)))
    onnx.save(join(small, large, limits, temperature=temperature, factor=factor), onnx_file)
    return float(limits.accept(confidence, novelty).mean())


def join(small: Any, large: Any, limits: Limits, *, temperature: float = 1.0, factor: float = 1.0) -> Any:
    """Return an ONNX network that runs one network on all images, and another one on those that the first leaves to it.

    Both have one input of the same name, and the same outputs: probabilities of a `Softmax`, and optionally scores.

    Args:
        small: first network; its probabilities are calibrated.
        large: second network.
        limits: when the prediction of the first network counts.
        temperature: temperature that calibrates the second network. The probabilities of the first one are changed so
            that the same temperature calibrates them, too.
        factor: factor of the scores of the first network, by which those of most images are as high as the second
            network's.
    """
    import onnx
    from onnx import helper

    image, outputs = large.graph.input[0].name, [output.name for output in large.graph.output]
    first = _renamed(small.graph, "small_", image, image)
    second = _renamed(large.graph, "large_", image, "large_images")
    for graph, name in ((first, image), (second, "large_images")):
        _fold_scaling(graph, name)
    constants = {
        "temperature": np.float32(temperature),
        "least_confidence": np.float32(limits.confidence),
        "all": np.array([-1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "end": np.array([np.iinfo(np.int64).max]),
        "blank": np.zeros((1, *_sides(large)), np.float32),
    }
    node = helper.make_node
    softmax = next(one for one in reversed(first.node) if one.op_type == "Softmax")
    nodes = [
        *first.node,
        node("Mul", [softmax.input[0], "temperature"], ["small_logits"]),
        node("Softmax", ["small_logits"], ["small_probabilities"], axis=-1),
        node("ReduceMax", [softmax.output[0]], ["confidence"], axes=[1], keepdims=1),
        node("Less", ["confidence", "least_confidence"], ["uncertain"]),
    ]
    left, answers = "uncertain", {outputs[0]: "small_probabilities"}
    if limits.novelty is not None:
        constants |= {"factor": np.float32(factor), "largest_novelty": np.float32(limits.novelty)}
        score = f"small_{outputs[1]}"
        nodes += [
            node("Greater", [score, "largest_novelty"], ["strange"]),
            node("Or", ["uncertain", "strange"], ["left"]),
            node("Mul", [score, "factor"], ["small_score"]),
        ]
        left, answers = "left", {**answers, outputs[1]: "small_score"}
    nodes += [
        node("Reshape", [left, "all"], ["left_flat"]),
        node("NonZero", ["left_flat"], ["rows"]),
        node("Transpose", ["rows"], ["places"], perm=[1, 0]),
        node("Reshape", ["rows", "all"], ["numbers"]),
        node("Gather", [image, "numbers"], ["left_images"], axis=0),
        node("Concat", ["blank", "left_images"], ["large_images"], axis=0),
        *second.node,
    ]
    for name, answer in answers.items():
        nodes += [
            node("Slice", [f"large_{name}", "one", "end", "zero"], [f"large_part_{name}"]),
            node("ScatterND", [answer, "places", f"large_part_{name}"], [name]),
        ]
    used = {name for one in nodes for name in one.input}
    fitted = [*first.initializer, *second.initializer]
    weights = [*(weight for weight in fitted if weight.name in used), *_tensors(constants)]
    graph = helper.make_graph(nodes, "cascade", list(large.graph.input), list(large.graph.output), weights)
    joined = helper.make_model(graph, opset_imports=list(large.opset_import), ir_version=large.ir_version)
    onnx.checker.check_model(joined)
    return joined


def _sides(model: Any) -> tuple[int, ...]:
    return tuple(side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim)[1:]


def _tensors(values: dict[str, Any]) -> list[Any]:
    from onnx import numpy_helper

    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def _renamed(graph: Any, prefix: str, image: str, new_image: str) -> Any:
    """Return a copy of a graph with a prefix before the name of every value except its input, which is renamed."""
    copy = type(graph)()
    copy.CopyFrom(graph)

    def rename(names: Sequence[str]) -> list[str]:
        return [new_image if name == image else f"{prefix}{name}" if name else "" for name in names]

    for node in copy.node:
        node.name = ""
        node.input[:], node.output[:] = rename(node.input), rename(node.output)
    for weight in copy.initializer:
        (weight.name,) = rename([weight.name])
    return copy


def _fold_scaling(graph: Any, image: str) -> None:
    """Remove the first two nodes, which scale the input, if the weights of a convolution can be scaled instead.

    They are the layer `Rescaling`. Without it, an image takes a twelfth less time.
    """
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    scaling, shift = graph.node[0], graph.node[1]
    if (scaling.op_type, shift.op_type) != ("Mul", "Add") or np.any(numpy_helper.to_array(weights[shift.input[1]])):
        return
    heavy = _only_consumer(graph, shift.output[0])
    if heavy is None or heavy.op_type != "Conv":
        return
    kernel, scale = weights[heavy.input[1]], numpy_helper.to_array(weights[scaling.input[1]])
    kernel.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(kernel) * scale).astype(np.float32), kernel.name))
    for node in graph.node:
        node.input[:] = [image if name == shift.output[0] else name for name in node.input]
    del graph.node[:2]


def _only_consumer(graph: Any, name: str) -> Any:
    """Return the only node that computes with a value, however it is rearranged before; None if there are several."""
    users = [node for node in graph.node if name in node.input]
    if len(users) != 1:
        return None
    return _only_consumer(graph, users[0].output[0]) if users[0].op_type in _REARRANGING else users[0]
