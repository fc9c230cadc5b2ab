"""Is it a digit at all? A small head beside the classes, on what the network has computed anyway.

A softmax can't tell: it is as sure of a shoe as of a seven. Distances in the penultimate layer can't either, in a
network that was trained on strongly distorted digits. So hidden layers of `UNITS` units are fitted, after the network
and without changing it, to tell digits as training distorts them from the drawings of `digits.data.non_digits`. It looks at
the input of the last layer, and at the mean and the greatest value of each channel of the layers before.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.data.non_digits import draw_non_digits
from digits.data.synthetic_digits import are_digits, draw_handwritten_digits, render_printed_digits
from digits.errors import ModelError
from digits.images.types import Pixels
from digits.training.augmentation import distort
from digits.training.config import AugmentationConfig
from digits.training.fit import draw_transforms

Floats = npt.NDArray[np.float32]
Random = np.random.Generator

OUTPUT = "novelty"
UNITS, HEADS = 32, 8
FLAGGED = 0.008
"""Share of the validation images that may be flagged: they are harder than test images, of which less is."""
_NEGATIVES = 12_000
_DIGITS = 16_000
_PRINTED, _WRITTEN = 20, 300
_USUAL = AugmentationConfig()
_FAR = AugmentationConfig(stroke=1, blur=2.5, contrast=0.9)
"""Thicker, softer and paler digits than the network is trained on are digits still."""
_BATCH = 512
_EPOCHS = 20
_DECAY = 0.1


class Head(NamedTuple):
    """Novelty is `relu(features @ hidden + hidden_bias) @ out + out_bias`; above 0 it is taken for no digit."""

    hidden: Floats
    hidden_bias: Floats
    out: Floats
    out_bias: Floats

    def scores(self, features: Floats) -> Floats:
        """Apply it: (N, F) -> (N,)."""
        hidden = np.maximum(features @ self.hidden + self.hidden_bias, 0)
        scores: Floats = (hidden @ self.out + self.out_bias)[:, 0]
        return scores


def add_novelty_output(onnx: Path, train: Pixels, validation: Pixels, class_names: Sequence[str], *, seed: int = 42) -> bool:
    """Give an exported network a second output, `novelty`, (N, 1) float32, where its classes are digits.

    Args:
        onnx: the exported network, which is replaced.
        train: (N, height, width) uint8 that it was trained on.
        validation: (M, height, width) uint8 that it never saw, to set the threshold by.
        class_names: what its classes are.
        seed: the same seed gives the same head.

    Returns:
        Whether it was given one.
    """
    if not are_digits(class_names):
        return False
    network = _Features(onnx)
    random = np.random.default_rng([seed, 254])
    shape = (train.shape[1], train.shape[2])
    digits = _digits(random, train, class_names, seed=seed)
    others = draw_non_digits(train, _NEGATIVES, seed=seed, shape=shape)
    others = np.concatenate([others, _distorted(random, others, _USUAL)])
    head = fit_head(network.of(digits), network.of(others), seed=seed)
    limit = float(np.quantile(head.scores(network.of(validation)), 1 - FLAGGED))
    network.write(onnx, head._replace(out_bias=head.out_bias - np.float32(limit)))
    return True


def _digits(random: Random, train: Pixels, class_names: Sequence[str], *, seed: int) -> Pixels:
    """Give digits as they are, and as pens, prints and cameras would have made them."""
    chosen = train[np.sort(random.choice(len(train), min(_DIGITS, len(train)), replace=False))]
    printed, _ = render_printed_digits(class_names, _PRINTED, seed=seed + 1, shape=(train.shape[1], train.shape[2]))
    written, _ = draw_handwritten_digits(class_names, _WRITTEN, seed=seed + 1, shape=(train.shape[1], train.shape[2]))
    printed = np.concatenate([printed, written])
    parts = [_distorted(random, part, limits) for part in (chosen, printed) for limits in (_USUAL, _FAR)]
    parts += [distort(random, part, _FAR) for part in parts[1::2]]
    return np.concatenate([chosen, printed, *parts])


def _distorted(random: Random, pixels: Pixels, limits: AugmentationConfig) -> Pixels:
    """Change pictures as training does: strokes, levels, lines, then an affine map."""
    import cv2

    height, width = pixels.shape[1:]
    maps = draw_transforms(random, len(pixels), limits, (height, width))[:, :6].reshape(-1, 2, 3)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inked = distort(random, pixels, limits)
    return np.stack(
        [cv2.warpAffine(one, by, (width, height), flags=flags) for one, by in zip(inked, maps, strict=True)]
    )


def fit_head(digits: Floats, others: Floats, *, seed: int) -> Head:
    """Fit the mean of `HEADS` heads to features: (N, F) of digits, (M, F) of other things."""
    features = np.concatenate([digits, others])
    labels = np.repeat([0, 1], [len(digits), len(others)])
    mean, spread = features.mean(axis=0), features.std(axis=0) + np.float32(0.01)
    fitted = [_fitted((features - mean) / spread, labels, seed=HEADS * seed + number) for number in range(HEADS)]
    hidden = np.concatenate([one.coefs_[0] for one in fitted], axis=1) / spread[:, np.newaxis]
    bias = np.concatenate([one.intercepts_[0] for one in fitted]) - mean @ hidden
    out = np.concatenate([one.coefs_[1] for one in fitted]) / HEADS
    out_bias = np.mean([one.intercepts_[1] for one in fitted], axis=0)
    return Head(*(part.astype(np.float32) for part in (hidden, bias, out, out_bias)))


def _fitted(features: Floats, labels: npt.NDArray[np.int_], *, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    head = MLPClassifier((UNITS,), batch_size=256, max_iter=_EPOCHS, alpha=_DECAY, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return head.fit(features, labels)


class _Features:
    """An exported network with its features as an output: the head's input.

    Raises:
        ModelError: it has no dense last layer.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = onnx.load(path)
        self._nodes = _feature_nodes(self._model.graph)

    def of(self, pixels: Pixels) -> Floats:
        """Give the features: (N, height, width) uint8 -> (N, F) float32."""
        import onnxruntime

        model = self._extended(self._nodes, "features")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        batches = (pixels[start : start + _BATCH, ..., np.newaxis] for start in range(0, len(pixels), _BATCH))
        return np.concatenate([session.run(["features"], {name: batch.astype(np.float32)})[0] for batch in batches])

    def write(self, path: Path, head: Head) -> None:
        """Write the network with its head."""
        import onnx
        from onnx import helper, numpy_helper

        nodes = [
            *self._nodes,
            helper.make_node("MatMul", ["features", "novelty_hidden"], ["novelty_1"]),
            helper.make_node("Add", ["novelty_1", "novelty_hidden_bias"], ["novelty_2"]),
            helper.make_node("Relu", ["novelty_2"], ["novelty_3"]),
            helper.make_node("MatMul", ["novelty_3", "novelty_out"], ["novelty_4"]),
            helper.make_node("Add", ["novelty_4", "novelty_out_bias"], [OUTPUT]),
        ]
        model = self._extended(nodes, OUTPUT)
        weights = [numpy_helper.from_array(value, f"novelty_{name}") for name, value in head._asdict().items()]
        model.graph.initializer.extend(weights)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def _extended(self, nodes: Sequence[Any], output: str) -> Any:
        import onnx
        from onnx import helper

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.node.extend(nodes)
        model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", None]))
        return model


def _feature_nodes(graph: Any) -> list[Any]:
    """Join the last dense layer's input with mean and greatest value of what convolutions but the first take in."""
    from onnx import helper

    dense = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    if not dense:
        raise ModelError("the exported network has no dense last layer, so that nothing tells what is no digit")
    nodes, parts = [], [dense[-1].input[0]]
    for number, node in enumerate([node for node in graph.node if node.op_type == "Conv"][1:]):
        for kind in ("ReduceMean", "ReduceMax"):
            parts.append(f"novelty_{kind}_{number}")
            nodes.append(helper.make_node(kind, [node.input[0]], [parts[-1]], axes=[2, 3], keepdims=0))
    return [*nodes, helper.make_node("Concat", parts, ["features"], axis=1)]
